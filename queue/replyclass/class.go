package replyclass

// Class is a kind of failure.
type Class uint8

// The classes. Their names (String) are an interface: of JSON, metrics and the log.
const (
	None       Class = iota // no failure
	BadAddress              // nobody has the address, any more or for this sender; its domain does not exist
	Full                    // the mailbox is full
	Policy                  // the host does not want such mail: relaying refused, a rule of its own
	Blocklist               // the address, network or domain of the sender is blocked, by a list or for its reputation
	Rate                    // too much at a time: messages, connections or recipients
	Greylist                // put off because it comes for the first time
	TLS                     // TLS is wanted, missing or broken
	DNS                     // a look-up failed, or a record is missing: of the recipient's domain, or of ours
	Auth                    // a login was refused or is wanted; SPF, DKIM or DMARC fail
	Content                 // what the message is: spam, virus, size, form
	Network                 // no connection, or it broke
	System                  // the host, or the relay itself, is in trouble: out of disk, out of service
	Other                   // a failure that the table does not know
	count
)

// Classes is how many there are, None among them.
const Classes = int(count)

var names = [count]string{
	"", "bad_address", "full", "policy", "blocklist", "rate", "greylist", "tls", "dns", "auth", "content", "network",
	"system", "other",
}

// String is the name of a class, empty for None.
func (c Class) String() string {
	if c >= count {
		return names[Other]
	}
	return names[c]
}

var advice = [count]string{
	BadAddress: "nobody has this address: correct it, or take it off the list that it comes from",
	Full:       "the mailbox has no room until its owner makes some",
	Policy:     "a rule of the receiving site is against it: read its words, and ask its postmaster",
	Blocklist: "the receiving site blocks the relay's address or the sender's domain: find out what was sent that " +
		"earned it, then ask for removal where the reply says",
	Rate:     "the receiving site wants less at a time: it goes on by itself, later",
	Greylist: "the receiving site puts off what it does not know: the next attempt is likely to pass",
	TLS:      "TLS does not come about: look at the certificate and at what the route demands",
	DNS:      "a record in DNS is missing or can not be looked up: of the recipient's domain, or of the relay's own name",
	Auth:     "a login, or SPF, DKIM or DMARC of the sender's domain, does not hold: check them",
	Content:  "it is the message itself: what is in it, its size or its form",
	Network:  "the host is not reached, or the connection breaks: it is tried again",
	System:   "the receiving host, or this relay, is in trouble of its own: it is tried again",
}

// Advice says in words what a class means for who runs the relay, as half a sentence; empty: there is nothing to say.
func (c Class) Advice() string {
	if c >= count {
		return ""
	}
	return advice[c]
}
