package smtp

import (
	"context"
	"crypto/tls"
	"io"
	"net/netip"
	"strings"
	"time"

	"relay/smtp/sasl"
)

// Peer is the client of one connection. The server keeps its fields current, on
// the connection's goroutine; a Session reads them during its calls only.
type Peer struct {
	Session string         // names the connection in logs, unique in this process
	Remote  netip.AddrPort // as the socket, PROXY or XCLIENT says
	Local   netip.AddrPort
	Name    string               // of the remote host as XCLIENT says; else empty
	Helo    string               // the argument of HELO or EHLO, cleaned: fit for a header field
	ESMTP   bool                 // it said EHLO
	TLS     *tls.ConnectionState // nil: in clear
	// set by AUTH, or XCLIENT before NewSession; a Session may set its own form of the name then
	User      string
	Mechanism string // of the last AUTH, in upper case; AUTHLOGIN for that command
	Trusted   bool   // by ServerConfig.Trusted
	UTF8      bool   // the current transaction asked for SMTPUTF8
}

// Protocol returns the WITH keyword for a Received field: RFC 3848 section 1,
// RFC 6531 section 4.3.
func (p *Peer) Protocol() string {
	if !p.ESMTP {
		return "SMTP"
	}
	name := "ESMTP"
	if p.UTF8 {
		name = "UTF8SMTP"
	}
	if p.TLS != nil {
		name += "S"
	}
	if p.User != "" {
		name += "A"
	}
	return name
}

// Backend makes a Session for each connection. It is called by many goroutines.
type Backend interface {
	// NewSession is called before the greeting. A *Reply (421, 450, 554 ..) is
	// sent in the greeting's place, and the connection ends; other errors
	// become 421 4.3.0. p stays valid until the session is closed.
	NewSession(ctx context.Context, p *Peer) (Session, error)
}

// Session takes what one client says. All calls come from one goroutine, one
// after the other. Each ctx ends with ServerConfig.CallTimeout, so that a client
// is answered in time; that of Data ends that much after the end of the message
// was read, in any case after ServerConfig.DataTimeout and CallTimeout.
// Errors: see Reply.
//
// The order is that of the protocol: Mail, then Rcpt at least once, then Data
// if at least one Rcpt went well. Reset ends every transaction, complete or not,
// and may come at any time; so may Close, once, which is the last call.
type Session interface {
	// Mail begins a transaction. from is the reverse-path without <>, empty for
	// the null path, and without a domain only from peers that are trusted or
	// authenticated where the server has no default domain.
	Mail(ctx context.Context, from string, opts *MailOptions) error
	// Rcpt adds a recipient. to is as from in Mail, but never empty, and
	// "postmaster" may come alone from anyone.
	Rcpt(ctx context.Context, to string, opts *RcptOptions) error
	// Data takes the message from r (a Holder): lines end in CRLF, no stuffing is left,
	// unless the transaction is BINARYMIME, where the octets are the client's.
	// A nil error promises that the message is safe, and is only allowed after
	// r gave io.EOF; any other error of r means that there is no message. After
	// an error the server reads the rest. r is valid during the call only.
	Data(ctx context.Context, r io.Reader) (id string, err error)
	Reset()
	Close() error
}

// Authenticator is a Session that offers AUTH PLAIN and LOGIN. A wrong name or
// password is ErrCredentials, or a *Reply; any other error becomes 454 4.7.0.
type Authenticator interface {
	Authenticate(ctx context.Context, user, secret string) error
	// SameAccount reports whether two names are of one account: a client may name
	// itself in one spelling and log in by another.
	SameAccount(ctx context.Context, one, other string) bool
	// Welcome is called after each login that has succeeded, whatever the
	// mechanism.
	Welcome()
}

// ScramAuthenticator is an Authenticator that also offers AUTH SCRAM-SHA-256, and
// with TLS SCRAM-SHA-256-PLUS where that is listed. Nil keys or ErrCredentials mean
// that there is no such user, or none who may log in; the client cannot tell that
// from a wrong password.
type ScramAuthenticator interface {
	Authenticator
	ScramKeys(ctx context.Context, user string) (*sasl.Keys, error)
	// Disproven hears of a proof that does not fit the keys that were told. It
	// returns what the client is to be told, as Authenticate does: ErrCredentials,
	// or why that is not certain.
	Disproven(ctx context.Context, user string, told *sasl.Keys) error
}

// Member is a mailbox in the answer to VRFY or EXPN.
type Member struct {
	Name    string
	Address string
}

// Verifier is a Session that answers VRFY; only asked where ServerConfig.Verify
// allows it, for peers that are trusted or authenticated.
type Verifier interface {
	Verify(ctx context.Context, what string) (Member, error)
}

// Expander is the same for EXPN.
type Expander interface {
	Expand(ctx context.Context, list string) ([]Member, error)
}

// Starter is a Session that offers ETRN (RFC 1985). node is a domain, or begins
// with @ for its subdomains, or with # for a queue's name. count is the number
// of messages that wait, or less than 0 where it is not known.
type Starter interface {
	StartQueue(ctx context.Context, node string) (count int, err error)
}

// BodyType is the BODY parameter of MAIL.
type BodyType uint8

// The values of BODY: RFC 6152, RFC 3030.
const (
	Body7Bit BodyType = iota
	Body8BitMIME
	BodyBinaryMIME
)

// String returns the value as it stands in MAIL.
func (b BodyType) String() string {
	return [...]string{"7BIT", "8BITMIME", "BINARYMIME"}[b]
}

// MailOptions are the parameters of MAIL. A Session owns what it is given.
type MailOptions struct {
	Size       int64 // announced; 0: not
	Body       BodyType
	UTF8       bool       // RFC 6531
	RequireTLS bool       // RFC 8689
	Ret        string     // FULL, HDRS or empty: RFC 3461
	EnvID      string     // decoded
	Auth       string     // decoded, "<>" where it is not known; empty: not given. RFC 4954
	DeliverBy  *DeliverBy // RFC 2852
	HoldUntil  time.Time  // RFC 4865; zero: not asked for
	Priority   *int       // -9 to 9: RFC 6710
}

// DeliverBy is the BY parameter of MAIL.
type DeliverBy struct {
	Until  time.Time
	Return bool // give up and return the message then; else only tell the sender
	Trace  bool
}

// Bits of RcptOptions.Notify.
const (
	NotifyNever uint32 = 1 << iota
	NotifySuccess
	NotifyFailure
	NotifyDelay
)

// RcptOptions are the parameters of RCPT. A Session owns what it is given.
type RcptOptions struct {
	Notify uint32 // 0: not given
	ORCPT  string // "rfc822;user@example.com", decoded; empty: not given
	Routed bool   // a source route was in front of the address, and is gone
}

// cleanHelo makes what a client calls itself fit for a header field.
func cleanHelo(s string) string {
	return strings.Map(func(c rune) rune {
		if isAlnum(byte(c)) && c < 0x80 || strings.ContainsRune(".-_:[]/+=@", c) {
			return c
		}
		return '?'
	}, s)
}
