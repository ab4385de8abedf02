package admin

import (
	"context"
	"io"
)

// The ports are what a node implements behind the API. All methods may be
// called concurrently, end when ctx does, and answer for the whole cluster
// from local state. Errors that an operator should read are *Error. When a
// change returns nil it is applied, and this node's reads show it.

// Cluster answers for membership and health.
type Cluster interface {
	// Status never fails for want of a quorum: it says so.
	Status(ctx context.Context) (*Status, error)
	// Token makes a join token; NoQuorum, Unknown.
	Token(ctx context.Context, by By, r TokenRequest) (*Token, error)
	// Remove takes a node out for good. Conflict where that would lose quorum
	// and opts.Force is not set.
	Remove(ctx context.Context, by By, id string, opts RemoveOptions) (*NodeChange, error)
	// Drain takes a node out of service and hands its work over, or takes it back.
	// It returns when the order is committed; Status tells when it is drained.
	Drain(ctx context.Context, by By, id string, opts DrainOptions) (*NodeChange, error)
	// Transfer moves leadership to a node, or to any other where to is empty.
	Transfer(ctx context.Context, by By, to string) (*NodeChange, error)
	// Upgrade raises the cluster version now, holds it or releases it. Conflict:
	// it is held, or some node's build knows no newer one.
	Upgrade(ctx context.Context, by By, opts UpgradeOptions) (*NodeChange, error)
	// RotateCA begins to change the cluster's CA, or goes on without some nodes,
	// which are removed; Status says how far it is. Conflict: it can't begin, or
	// a removal would lose quorum.
	RotateCA(ctx context.Context, by By, opts RotateOptions) (*NodeChange, error)
	// Verify compares all nodes at one index.
	Verify(ctx context.Context, opts VerifyOptions) (*Verification, error)
}

// Domains keeps the local domains.
type Domains interface {
	Domains(ctx context.Context) ([]Domain, error)
	// AddDomain: Exists, Invalid.
	AddDomain(ctx context.Context, by By, d Domain) error
	// SetDomain: NotFound, Invalid.
	SetDomain(ctx context.Context, by By, name string, d DomainSet) error
	// RemoveDomain: NotFound; Conflict while it has users.
	RemoveDomain(ctx context.Context, by By, name string, opts DropOptions) (*Removed, error)
}

// Users keeps the accounts.
type Users interface {
	// Users lists the accounts of a domain, or all, by address.
	Users(ctx context.Context, domain string) ([]User, error)
	User(ctx context.Context, address string) (*User, error)
	// AddUser: Exists; Invalid where the domain is not local.
	AddUser(ctx context.Context, by By, u UserAdd) error
	SetUser(ctx context.Context, by By, address string, u UserSet) error
	// RemoveUser deletes the account and its mailbox.
	RemoveUser(ctx context.Context, by By, address string, opts DropOptions) (*Removed, error)
}

// Aliases keeps the aliases.
type Aliases interface {
	Aliases(ctx context.Context) ([]Alias, error)
	SetAlias(ctx context.Context, by By, a Alias) error
	RemoveAlias(ctx context.Context, by By, address string) error
}

// Routes keeps the routes.
type Routes interface {
	Routes(ctx context.Context) ([]Route, error)
	SetRoute(ctx context.Context, by By, r Route) error
	RemoveRoute(ctx context.Context, by By, domain string, of RouteSenders) error
	Recipients
}

// Policy keeps the replicated settings.
type Policy interface {
	Settings(ctx context.Context) (*Settings, error)
	SetSettings(ctx context.Context, by By, s Settings) error
}

// Queue shows and steers waiting mail. It takes the end of a message's id for the
// id, as History does (see IDEnding).
type Queue interface {
	// Queue returns one page and the cursor of the next, empty at the end.
	// Each message holds only the recipients that match the filter.
	Queue(ctx context.Context, p QueuePage) (messages []QueueMessage, next string, err error)
	// Message returns one waiting message; NotFound once nothing waits.
	Message(ctx context.Context, id string) (*QueueDetail, error)
	// Open returns the message as stored, CRLF line ends, while anything
	// (queue or mailbox) refers to it. The caller closes it.
	Open(ctx context.Context, id string) (body io.ReadCloser, size int64, err error)
	Stats(ctx context.Context) (*QueueStats, error)
	// CountQueue says how many waiting messages a filter picks, or how many at
	// least where that would take a pass over a long queue.
	CountQueue(ctx context.Context, f QueueFilter) (*Count, error)
	// Manage acts on the messages named by a.IDs, or on all that a.Filter
	// matches where a.All is set. Ids that are not in the queue are Refused,
	// not an error. With a.DryRun it only says what it would do.
	Manage(ctx context.Context, by By, a QueueAction) (*QueueActionResult, error)
}

// History answers for messages after the fact.
type History interface {
	// Trace returns the timeline of one message; NotFound.
	Trace(ctx context.Context, id string) (*Trace, error)
	// Find returns the newest messages that match, newest first.
	Find(ctx context.Context, q TraceQuery) ([]Trace, error)
	// CountFound says how many match, whatever q.Limit is, or how many at least.
	CountFound(ctx context.Context, q TraceQuery) (*Count, error)
}

// Mailboxes shows the maildrops and breaks their locks.
type Mailboxes interface {
	Mailboxes(ctx context.Context) ([]Mailbox, error)
	// Mailbox returns one maildrop with its messages; NotFound.
	Mailbox(ctx context.Context, user string) (*MailboxDetail, error)
	// Unlock breaks the lock; the session that held it ends and deletes
	// nothing. Without a lock it does nothing. With a token it breaks no lock
	// that was taken after the one of that token; 409 where only such are held.
	Unlock(ctx context.Context, by By, user string, token uint64) (*Unlocked, error)
}

// Content reads and fills maildrops (export and import).
type Content interface {
	// OpenMail returns one message as it is stored. POP3 sends the same, and CRLF
	// behind a message that does not end so.
	OpenMail(ctx context.Context, user string, uid uint64) (body io.ReadCloser, size int64, err error)
	// PutMail adds a message to a maildrop as it is, with a time of receipt
	// (zero: now), and returns its id.
	PutMail(ctx context.Context, by By, user string, received Time, message io.Reader) (id string, err error)
	// ImportMail adds old messages to a maildrop in their order; next returns
	// io.EOF behind the last. A message that was imported before is not added
	// again; the same batch with the same By.Request is told that it was the one.
	// An error says that nothing was dealt with; a failure that comes up later is told in
	// ImportResult.Stopped.
	ImportMail(
		ctx context.Context, by By, user string, o ImportOptions, next func() (*OldMessage, error),
	) (*ImportResult, error)
}

// Mail takes messages in, as a submission of a trusted client does.
type Mail interface {
	// Send accepts a whole message (CRLF or bare LF line ends; normalised).
	// Refused recipients stand in the receipt; Invalid where all are refused.
	Send(ctx context.Context, by By, e Envelope, message io.Reader) (*Receipt, error)
}

// Auditor lists what was changed.
type Auditor interface {
	// Audit returns entries, newest first.
	Audit(ctx context.Context, q AuditQuery) ([]AuditEntry, error)
	// CountAudit says how many entries match, whatever q.Limit is, or how many at
	// least.
	CountAudit(ctx context.Context, q AuditQuery) (*Count, error)
}

// Events shows what happens while it happens.
type Events interface {
	// Events begins to watch; events from now on are seen. 503 where too many watch.
	Events(ctx context.Context, f EventFilter) (EventStream, error)
}

// EventStream is what one watcher sees. One goroutine calls it.
type EventStream interface {
	// Next waits for events. It returns none after some seconds without one, and io.EOF when
	// there will be no more of this node.
	Next(ctx context.Context) ([]StreamEvent, error)
	// Close ends it; it may be called twice.
	Close()
}

// Ports are all ports of one node. A nil port answers 501.
type Ports struct {
	Cluster   Cluster
	Domains   Domains
	Users     Users
	Aliases   Aliases
	Signers   Signers
	Routes    Routes
	Rules     Rules
	Policy    Policy
	Queue     Queue
	History   History
	Mailboxes Mailboxes
	Content   Content
	Mail      Mail
	Audit     Auditor
	Doctor    Doctor
	Events    Events

	Suppressions Suppressions
}
