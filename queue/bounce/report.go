package bounce

import (
	"io"
	"strings"
	"time"
)

// Kind says what a notice is about.
type Kind uint8

// The kinds of notice.
const (
	Failure Kind = iota // recipients failed for good
	Delay               // recipients are late and will be tried again
	Success             // recipients were reached, and the sender asked to be told
)

// Action is the Action field of RFC 3464 §2.3.3.
type Action string

// The actions that this relay reports.
const (
	Failed    Action = "failed"
	Delayed   Action = "delayed"
	Delivered Action = "delivered" // put into a mailbox
	Relayed   Action = "relayed"   // given to a host that will report no further
	Expanded  Action = "expanded"  // given to several, who are reported on no further
)

// DefaultFull is the size up to which a message is returned whole where the
// sender asked for that; a larger one is represented by its header.
const DefaultFull = 64 << 10

// DefaultLimit bounds a whole notice, in octets.
const DefaultLimit = 160 << 10

// Report is what a notice says. The zero value of a field leaves its line out,
// except where a default is named.
type Report struct {
	Kind       Kind
	Hostname   string // of this relay: Reporting-MTA, and the domain of From and Message-ID
	ID         string // of the message reported on, for people and for Message-ID
	To         string // the sender of that message, without <>
	Subject    string // empty: by Kind
	EnvID      string // ENVID, decoded from xtext
	Arrived    time.Time
	Now        time.Time // Date, and part of Message-ID and boundary
	Until      time.Time // how long delayed recipients are tried
	Recipients []Recipient
	Template   *Template // an operator's own text for people; nil: the built-in one

	// Ret is FULL, HDRS or empty (RFC 3461 §4.3). Empty means FULL for a
	// failure and HDRS for everything else.
	Ret    string
	UTF8   bool // the message came with SMTPUTF8
	Binary bool // the message came as BINARYMIME: only its header is returned
	Size   int64
	// Open returns the message. Nil, or an error: the notice goes without it,
	// because a notice without the message is better than no notice.
	Open func() (io.ReadCloser, error)

	Full  int64 // 0: DefaultFull
	Limit int   // 0: DefaultLimit
}

// Recipient is one recipient in a Report.
type Recipient struct {
	Address  string
	Original string // ORCPT, "rfc822;bob@example.com", decoded from xtext
	// Addressed is what the client said in RCPT, where it is known.
	Addressed string
	Action    Action
	// Status is the enhanced code of RFC 3463. Empty: what Reply says, and
	// failing that what Action allows to say.
	Status string
	// Reply is the last word on this recipient: the next hop's, which begins
	// with a three-digit code, or ours.
	Reply   string
	Host    string // "mx1.example.com [192.0.2.1]:25", empty where no host was reached
	Last    time.Time
	Expired bool // given up because time ran out
}

// AsAddressed returns p under the address that the client used: an alias keeps
// to itself where it leads, also in what the next hop said of that place. If
// that address is not known, an Original that is one counts in its place.
func (p Recipient) AsAddressed() Recipient {
	used := p.Addressed
	if used == "" {
		used = p.originalAddress()
	}
	if used == "" || strings.EqualFold(used, p.Address) {
		return p
	}
	hide := func(text string) string { return replaceFold(text, p.Address, used) }
	p.Reply, p.Host = hide(p.Reply), hide(p.Host)
	p.Address = used
	return p
}

// originalAddress is the mail address that Original names, if it does.
func (p *Recipient) originalAddress() string {
	kind, used, _ := strings.Cut(p.Original, ";")
	kind, used = strings.ToLower(strings.TrimSpace(kind)), strings.TrimSpace(used)
	if kind != "rfc822" && kind != "utf-8" || !strings.Contains(used, "@") {
		return ""
	}
	return used
}

// replaceFold replaces old in text, whatever the case of ASCII letters.
func replaceFold(text, old, with string) string {
	if old == "" {
		return text
	}
	var out strings.Builder
	lower, old := asciiLower(text), asciiLower(old)
	for {
		i := strings.Index(lower, old)
		if i < 0 {
			out.WriteString(text)
			return out.String()
		}
		out.WriteString(text[:i] + with)
		text, lower = text[i+len(old):], lower[i+len(old):]
	}
}

func asciiLower(s string) string {
	b := []byte(s) // octet by octet: the length stays
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
