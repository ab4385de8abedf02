package pop3

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/netip"
	"time"

	"relay/smtp/sasl"
)

// Peer says who is at the other end of a connection. The server makes it; a
// Backend reads it and keeps no pointer to it beyond the call.
type Peer struct {
	Session   string // names the connection in logs, unique in practice
	Remote    netip.AddrPort
	Local     netip.AddrPort
	TLS       *tls.ConnectionState // nil: clear text
	Trusted   bool                 // by ServerConfig.Trusted
	Mechanism string               // how it logs in: USER, APOP, XLOG, POP2 or a SASL name
}

// Backend lets users in. Its methods are called by many sessions at once.
type Backend interface {
	// Login checks a user's secret and takes the maildrop's lock. user is what
	// the client typed: a local part or a whole address. The errors that mean
	// something to a client are ErrAuth, ErrDisabled, *InUseError,
	// ErrLoginDelay, ErrThrottled, ErrLeaving and ErrPermanent; any other is answered
	// [SYS/TEMP]. It must take as long for an unknown user as for a wrong
	// secret. It may wait in order to slow a guesser down, until ctx ends.
	Login(ctx context.Context, p *Peer, user, secret string) (Maildrop, error)
	// SameAccount reports whether two names are of one account: a client may name
	// itself in one spelling and log in by another.
	SameAccount(ctx context.Context, one, other string) bool
}

// SCRAM is what a Backend also implements in order to offer AUTH
// SCRAM-SHA-256 (RFC 7677).
type SCRAM interface {
	// Verifier returns what is kept of a user's secret. ErrAuth: the user is
	// unknown or has none; the exchange then goes on with an invented one.
	Verifier(ctx context.Context, p *Peer, user string) (*sasl.Keys, error)
	// Proven is Login for a user who has just proved to know the secret.
	Proven(ctx context.Context, p *Peer, user string) (Maildrop, error)
	// Disproven tells of a proof that does not fit what Verifier returned, or
	// what was invented in its place, and may wait. It returns what the client is
	// to be told, as Login does: ErrAuth, or why that is not certain.
	Disproven(ctx context.Context, p *Peer, user string, told *sasl.Keys) error
}

// Digester is what a Backend also implements in order to offer APOP, where the
// extension is switched on. digest is the MD5 in lower case hexadecimal of
// timestamp followed by the secret.
type Digester interface {
	LoginDigest(ctx context.Context, p *Peer, user, timestamp, digest string) (Maildrop, error)
}

// List is a frozen list of messages, numbered from 0. It never changes, and
// different messages have different UIDs. One goroutine uses it at a time.
//
// A List may also have Find(uid string) (i int, ok bool), which saves a table of
// all UIDs where a client asks for many.
type List interface {
	Len() int
	// Size returns the octets of message i exactly as RETR sends it, line ends
	// counted as two, before dots are stuffed.
	Size(i int) int64
	// AppendUID appends the unique id of message i: 1 to 70 characters from 0x21
	// to 0x7E, never used for another message of the maildrop.
	AppendUID(dst []byte, i int) []byte
}

// UID returns the unique id of message i of a list.
func UID(l List, i int) string { return string(l.AppendUID(nil, i)) }

type uidFinder interface {
	Find(uid string) (i int, ok bool)
}

// Message is one message of a maildrop.
type Message struct {
	UID  string
	Size int64
	Key  uint64 // the backend's own
}

// Messages is the plain List.
type Messages []Message

// Len returns the number of messages.
func (m Messages) Len() int { return len(m) }

// Size returns the size of message i.
func (m Messages) Size(i int) int64 { return m[i].Size }

// AppendUID appends the unique id of message i.
func (m Messages) AppendUID(dst []byte, i int) []byte { return append(dst, m[i].UID...) }

// Maildrop is one session's view of a user's mail, with the lock that goes
// with it. One goroutine at a time uses it.
type Maildrop interface {
	// Info returns what the server has to know of the maildrop. It is called once
	// or twice at a login or WAKE, and counts until the session has another one.
	Info() Info
	// List returns the messages as they were when the lock was taken. It
	// returns the same list at every call.
	List() List
	// Open returns the octets of message i as RETR sends them, before
	// stuffing, with CRLF line ends, the last one included. The reader may
	// implement io.WriterTo, which saves a copy. ErrNoMessage: somebody else
	// has deleted it.
	Open(ctx context.Context, i int) (io.ReadCloser, error)
	// Commit deletes the messages, all or none, and where release is set gives
	// up the lock in the same step. It returns nil only when that is durable.
	// After an error nothing has changed and the lock is still held, except
	// where OnLost tells otherwise, and except after ErrUncertain: then only Close
	// may follow, and what it leaves behind is seen at the next login. The
	// numbers ascend.
	Commit(ctx context.Context, deleted []int, release bool) error
	// Close gives up the lock where it is still held, and deletes nothing. It
	// is the last call, except after a successful Wake, which replaces the
	// maildrop by another.
	Close() error
	// OnLost has fn called, on a goroutine of its own, when the lock, or this
	// node's right to act on it, has been lost; at once where that was before.
	// The session is then cut. why is for the client to read: one line, no
	// secrets; one of the Lost… constants is told in the client's language. A
	// later call replaces fn.
	OnLost(fn func(why string))
	// Wake takes the lock again after Commit released it, checks that the user
	// may still come in, and returns the maildrop with a fresh list. Errors are
	// those of Login. After an error it may be called again.
	Wake(ctx context.Context) (Maildrop, error)
}

// Info is what a Maildrop says of itself. The zero value says nothing special.
type Info struct {
	// Owner is the one name of the user, whatever the client typed at login. All counts
	// and times per user go by it. Empty: what the client typed.
	Owner string
	// ReadOnly bars the client from deleting.
	ReadOnly bool
	// Retention is the maildrop's own; nil: ServerConfig.Retention.
	Retention *Retention
	// LoginDelay is how long the user has to wait between logins. The Backend
	// enforces it; CAPA tells of it in TRANSACTION.
	LoginDelay time.Duration
}

// Live is a Maildrop that also finds messages which arrived after the list was
// frozen, for commands that name a message by UID.
type Live interface {
	// Late returns a number for Open and Commit that lies beyond the list and
	// is the same whenever the UID is asked for. ErrNoMessage: there is none.
	Late(ctx context.Context, uid string) (i int, size int64, err error)
}

// Reasons to lose a maildrop.
const (
	LostToOperator = "the lock was broken by the operator, marked messages are kept"
	LostMajority   = "this node has lost contact with the majority, marked messages are kept"
	LostSession    = "the session of this node has ended, and its locks with it; marked messages are kept"
	LostState      = "this node's state was replaced by a newer one, marked messages are kept"
	LostRemoved    = "your account was removed, and its mail with it"
	LostDisabled   = "your account was disabled, marked messages are kept"
	LostPassword   = "your password was changed, log in with the new one; marked messages are kept"
)

// Retention is what CAPA's EXPIRE promises (RFC 2449 §6.7). The zero value
// promises nothing and is not announced.
type Retention struct {
	Announce bool
	Never    bool // mail is never deleted by the server
	Days     int  // 0: messages that a session has retrieved are deleted at its end
	PerUser  bool // before login only: users may have other values
}

// Errors that a Backend or a Maildrop returns and that have an answer of their
// own. They may be wrapped. Each has a method Permanent; any other error is
// temporary, answered with [SYS/TEMP].
var (
	ErrAuth       error = &answered{"pop3: wrong user or secret", "AUTH", tBadCredentials, ReasonLogin, true}
	ErrDisabled   error = &answered{"pop3: the account is disabled", "AUTH", tBadCredentials, ReasonDisabled, true}
	ErrLoginDelay error = &answered{"pop3: too soon after the last login", "LOGIN-DELAY", tLoginDelay, ReasonDelay, false}
	ErrThrottled  error = &answered{"pop3: too many failed logins", "SYS/TEMP", tThrottled, ReasonThrottled, false}
	ErrLeaving    error = &answered{"pop3: the server is going out of service", "SYS/TEMP", tOutOfService,
		ReasonTemporary, false} // ends the connection as well
	ErrPermanent error = &answered{"pop3: this needs a person", "SYS/PERM", tPermanent, ReasonPermanent, true}
	ErrReadOnly  error = &answered{"pop3: the maildrop is read-only", "READ-ONLY", tReadOnly, ReasonTemporary, true}
	ErrNoMessage error = &answered{"pop3: no such message", "", tDeletedBefore, ReasonTemporary, true}
	// ErrUncertain ends the session, with [SYS/TEMP].
	ErrUncertain = errors.New("pop3: whether it was done is not known")
)

// answered is an error that knows what the client is told.
type answered struct {
	text      string
	code      string // of RFC 2449 section 8; empty: none
	words     text
	reason    string // of a Refusal
	permanent bool
}

func (a *answered) Error() string   { return a.text }
func (a *answered) Permanent() bool { return a.permanent }

// answerTo finds how an error is answered; nil: as a temporary fault.
func answerTo(err error) *answered {
	a, _ := errors.AsType[*answered](err)
	return a
}

// badCredentials reports whether a login failed because of what the client said.
func badCredentials(err error) bool {
	a := answerTo(err)
	return a != nil && a.code == "AUTH"
}

// InUseError says that the secret was right, but another session holds the
// maildrop: [IN-USE].
type InUseError struct {
	Since time.Time // zero: unknown
	Node  string    // empty: unknown
}

func (e *InUseError) Error() string {
	return "pop3: the maildrop is in use since " + e.since() + " on " + e.Node
}

func (e *InUseError) since() string { return e.Since.UTC().Format("2006-01-02T15:04:05Z") }
