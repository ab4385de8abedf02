package smtp

// Refusal is one thing that a client was not given: a command that was answered
// 4xx or 5xx, a connection that was turned away, or a TLS handshake that failed.
// It is valid during the call of ServerConfig.Refused only.
type Refusal struct {
	Peer *Peer
	// Stage is the command, in lower case, or "connect" or "tls".
	Stage string
	// Reason is one word: the Reason of the reply, or one of this package.
	Reason     string
	InMail     bool     // a transaction was begun, or was to be: Sender says something
	Sender     string   // empty: the null path
	Recipients []string // the one that was refused, or the first of those of the message
	More       int      // recipients of the message beyond Recipients
	User       string   // who failed to log in
	Reply      *Reply   // nil: the client was told nothing
	Cause      error    // what is private about it; nil: nothing
}

// Reasons for refusals that are this package's own.
const (
	ReasonConnections = "too_many_connections"
	ReasonErrors      = "too_many_errors"
	ReasonIdle        = "idle_commands"
	ReasonEarly       = "early_talker"
	ReasonForeign     = "foreign_protocol"
	ReasonStopping    = "stopping"
	ReasonTLS         = "tls_failed"
	ReasonLogin       = "login_failed"
	ReasonNeedsLogin  = "login_required"
	ReasonNeedsTLS    = "tls_required"
	ReasonSyntax      = "syntax"
	ReasonProtocol    = "protocol"
	ReasonSize        = "too_large"
	ReasonMessages    = "too_many_messages"
	ReasonRecipients  = "too_many_recipients"
	ReasonNobody      = "no_recipients"
	ReasonRate        = "rate"
	ReasonForbidden   = "forbidden"
	ReasonLocal       = "local_error"
)

// most of the addresses of a transaction, and octets of one that cannot be read,
// that a Refusal bears.
const (
	refusalRecipients = 20
	refusalOctets     = 320
)

// refused tells of a refusal; recipient is the one it is about, if it is about
// one.
func (c *conn) refused(stage, recipient string, r *Reply, cause error) {
	if c.cfg.Refused == nil {
		if cause != nil {
			c.log("error", "in", stage, "cause", cause)
		}
		return
	}
	f := Refusal{
		Peer: &c.peer, Stage: stage, Reason: reasonOf(r, cause), Reply: r, Cause: cause,
		InMail: c.hasFrom, Sender: c.from,
	}
	switch {
	case recipient != "":
		f.Recipients = []string{recipient}
	case c.hasFrom:
		f.Recipients, f.More = c.to, c.rcpts-len(c.to)
	}
	if stage == "auth" {
		f.User = c.authUser
	}
	c.cfg.Refused(&f)
}

// reasonOf names why a reply is no.
func reasonOf(r *Reply, cause error) string {
	switch {
	case r == nil:
		return ReasonTLS
	case r.Reason != "":
		return r.Reason
	case cause != nil && r.Temporary():
		return ReasonLocal
	}
	switch r.Code {
	case 501, 553, 555:
		return ReasonSyntax
	case 530:
		return ReasonNeedsLogin
	case 535:
		return ReasonLogin
	case 538:
		return ReasonNeedsTLS
	case 550:
		return ReasonForbidden
	case 552:
		return ReasonSize
	case 554:
		return ReasonNobody
	}
	return ReasonProtocol
}

// from notes the sender of the transaction that begins, for refusals.
func (c *conn) noteSender(address string) { c.from, c.hasFrom = address, true }

// noteRecipient notes one that was taken.
func (c *conn) noteRecipient(address string) {
	if len(c.to) < refusalRecipients {
		c.to = append(c.to, address)
	}
}

// forgetTransaction is the end of what noteSender began.
func (c *conn) forgetTransaction() {
	c.from, c.hasFrom = "", false
	clear(c.to)
	c.to = c.to[:0]
}

// unreadable is an argument that is no address, cut to a length that a line
// bears.
func unreadable(arg []byte) string { return string(arg[:min(len(arg), refusalOctets)]) }
