package replyclass

import "strings"

// Nobody reports whether a host's refusal of a recipient says for certain, and not for this message or sender alone,
// that nobody has the address. It is narrower than [BadAddress], which also is what codes like 551 and 5.1.10 are taken
// for: a list that is made of it keeps mail from people.
func (t *Table) Nobody(reply string) bool {
	if t.Of(reply) != BadAddress {
		return false
	}
	s := subject{}
	s.code, s.status, reply = codes(reply[:min(len(reply), most)])
	if !strings.HasPrefix(s.code, "5") {
		return false
	}
	var room [most + 2]byte
	s.words = words(room[:0], reply)
	if _, yes := conditional.first(&s); yes {
		return false
	}
	switch s.status {
	case "5.1.1", "5.1.6", "5.2.1":
		return true
	case "":
		_, yes := plainly.first(&s)
		return yes
	}
	return false
}

// conditional words make a refusal one of this message, this sender or this hour.
var conditional = phrases("sender*|from|return path|reverse path|authenticat*|authoriz*|login|log in|this message|" +
	"not local|relay*|unverified|verification|temporar*|later|try again|currently|at this time|until|" +
	"too many|too quickly|rate|limit*|quota|full|spam|policy|policies|blocked|blacklist*|denied|" +
	"not allowed|not permitted|restricted")

// plainly is what hosts say of an address that nobody has, where no enhanced code does.
var plainly = phrases("user unknown|unknown user|no such user|no such recipient|no such mailbox|no such address|" +
	"no such person|no such account|no such email|no such local user|user not found|recipient not found|" +
	"recipient unknown|unknown recipient|recipient not known|address unknown|unknown address|unknown local part|" +
	"unknown mailbox|mailbox unknown|mailbox not found|mailbox does not exist|address does not exist|" +
	"account does not exist|user does not exist|user doesnt exist|recipient does not exist|recipient doesnt exist|" +
	"address doesnt exist|account doesnt exist|does not exist here|no longer on server|no mailbox here|" +
	"user doesnt have a|not a known user|no one by that name|no account by that name|utilisateur inconnu|" +
	"destinataire inconnu|empfänger unbekannt")

// phrases is a table that one of the phrases has to fit.
func phrases(all string) *table {
	t := &table{rules: []rule{{class: BadAddress, phrases: true}}, phrases: map[begin][]phrase{}}
	for text := range strings.SplitSeq(all, "|") {
		t.add(0, text)
	}
	return t
}
