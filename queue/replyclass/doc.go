// Package replyclass says what kind of failure a reply to mail means: a bad address, a full mailbox, a blocklist,
// greylisting and so on. It reads the reply alone, as the queue keeps it ([queue.Verdict.Reply]): a host's words behind
// their code, or the relay's own. So nothing is stored, what was kept by former builds has classes too, and an ordinary
// 250 costs one comparison.
//
// The table (table.go) is ordered: the first rule that fits is the answer. Rules are phrases, that is whole words next
// to each other without regard to case and punctuation, and not regular expressions: a reply is compared to five
// hundred of them in some microseconds. They come from the pages of the large providers and from the texts of the mail
// servers that most others run. If no phrase fits, the enhanced code counts (RFC 3463, RFC 5248 and the IANA registry),
// then the SMTP code.
package replyclass
