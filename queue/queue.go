package queue

import (
	"context"
	"io"
	"time"

	"relay/queue/limit"
	"relay/queue/readyq"
)

// ID names a message: the 16 octets of a ULID.
type ID = readyq.ID

// Ref names one recipient of one message.
type Ref = readyq.Ref

// Waiting is one recipient that this node owns and that is not settled.
type Waiting = readyq.Waiting

// Spool is the replicated queue as the manager sees it. The node implements it.
// All methods may be called concurrently.
type Spool interface {
	// Scan calls add for every recipient that this node owns now. The manager
	// calls it at the start and after Feed.Reset; entries may be reported more
	// than once.
	Scan(ctx context.Context, add func(Waiting)) error
	// Load returns what an agent needs to try the given recipients of one
	// message. Recipients that are settled, parked or owned by another node
	// are left out. ErrGone: nothing is left to do.
	Load(ctx context.Context, id ID, recipients []uint32) (*Job, error)
	// Settle commits verdicts, and the notices that go with them, in one
	// command. It returns one Taken for each verdict. An error that wraps
	// ErrUnknown may have been applied: call again with the same verdicts.
	Settle(ctx context.Context, verdicts []Verdict, notices []Notice) ([]Taken, error)
	// Until returns the instant up to which this node may act on its entries;
	// the zero time where it may not act at all. It is cheap.
	Until() time.Time
}

// Job is one message with the recipients to try now, all of one destination.
type Job struct {
	ID         ID
	Created    time.Time
	Expires    time.Time // when the queue gives up
	Sender     string    // reverse-path, empty for the null path
	Size       int64
	EightBit   bool
	Binary     bool
	Unended    bool // it does not end with a line end, as far as that is known
	Ruled      bool // there are standing rules or routes for some senders, or were: see Recipient.Ruling
	UTF8       bool
	RequireTLS bool
	Ret, EnvID string
	IsBounce   bool
	Stranger   bool       // nobody we know handed it in: its sender hears of delays only on request (NOTIFY=DELAY)
	Released   time.Time  // FUTURERELEASE: before it nothing was to happen; else zero
	DeliverBy  *DeliverBy // nil: not asked for
	Priority   int32      // MT-PRIORITY, for the next hop
	// Domain and Route say where to: the recipients' domain (empty where Route
	// names a hop for several, as all but mx and those that begin with "mx (" do), and the hop set by hand, by
	// Waiting.Route or by Config.Route. The manager sets them, a Spool leaves them empty.
	Domain, Route string
	// Live returns an error once this node may no longer act. The manager sets
	// it. An agent calls it last before the final dot: unlike ctx it reads the
	// clock, so that it tells the truth also after the process was stopped.
	Live       func() error
	Limits     Limited
	Recipients []Recipient
	// Open returns the message as it is to be sent, CRLF line ends, not
	// dot-stuffed. It may be called several times.
	Open func() (io.ReadCloser, error)
}

// Limited is what limits there are for a job. The manager puts in what it knows; an agent that finds other limits
// replaces them, and says Found.
type Limited struct {
	Gates []*limit.Gate
	Pass  *limit.Pass // the right to begin; nil: none is needed, or there was no room
	Found bool
}

// DeliverBy is what a sender asked for by RFC 2852.
type DeliverBy struct {
	Until  time.Time
	Return bool // give up then; else only tell the sender
	Trace  bool // report each relaying
}

// late reports whether the message must not be delivered any more.
func (b *DeliverBy) late(now time.Time) bool { return b != nil && b.Return && !now.Before(b.Until) }

// Recipient is one recipient in a Job.
type Recipient struct {
	N         uint32 // number within the message
	Address   string
	Original  string // ORCPT
	Addressed string // what the client said in RCPT, for reports; empty: Address, or what ORCPT names
	Notify    uint32 // bits: 1 NEVER, 2 SUCCESS, 4 FAILURE, 8 DELAY; 0: default
	Attempts  uint32 // ended so far
	DelayTold bool
	LastReply string
	Expires   time.Time // when it is given up, where its domain has a time of its own; zero: as Job.Expires says
	Ruling    *Ruling   // what standing rules make of it; nil unless Job.Ruled is set
}

// Ruling is what standing rules make of a recipient.
type Ruling struct {
	Via   string // hop set by hand, or by a route for some senders; empty: Config.Route decides
	Rule  uint64 // 0: none holds for it
	Act   Act
	Hop   string // of Redirect
	Host  string // that the history names; empty: the rule
	Reply string // of Refuse, Discard and Suspend, for the history and, where the sender is told, for the report
}

// Act is what a rule does.
type Act uint8

// The acts of rules.
const (
	Hold     Act = iota + 1 // it waits, however long
	Suspend                 // it waits and ages: it expires, and the sender is told of the delay
	Redirect                // it goes to another hop
	Refuse                  // it fails, and the sender is told
	Discard                 // it ends, and nobody is told
)

// Outcome is what became of a recipient.
type Outcome uint8

// The outcomes of an attempt.
const (
	Delivered Outcome = iota + 1
	Deferred
	Failed    // for good, by the next hop's word
	Expired   // for good, because time ran out
	Discarded // for good, by a standing rule; an Agent never says so
)

// Verdict is the outcome for one recipient. Every recipient handed to an Agent
// comes back exactly once.
type Verdict struct {
	Ref
	Attempt   uint32 // the attempt this ends, from 1
	Outcome   Outcome
	Reply     string // "250 2.0.0 Ok", or our own words: "4.4.1 connection refused"
	Host      string // "mx1.example.com [192.0.2.1]:25"
	TLS       string // "TLS1.3 TLS_AES_128_GCM_SHA256", empty: clear
	At        time.Time
	Next      time.Time // set by the manager where Deferred
	DelayTold bool
	// NextHop says that the verdict speaks of the host, not of the recipient:
	// others for the same destination are better not tried now.
	NextHop bool
	// Untried says that the attempt was broken off before anything was decided,
	// because ctx ended. It is not committed and counts as no attempt.
	Untried bool
	// Passed says, with Delivered, that the next hop took over the duty to
	// report success (RFC 3461 §5.2.2); Final that it was the mailbox (LMTP).
	Passed, Final bool
	Rule          uint64 // the standing rule whose verdict it is; 0: none
	// ThisOne says, with Failed, that the host answered so to this recipient and to nothing that others share: to its
	// RCPT, or, with LMTP, for it behind the message.
	ThisOne bool
}

// Taken says what the spool did with a verdict.
type Taken uint8

// A spool gives one of these answers to a verdict.
const (
	Applied Taken = iota + 1 // also where it had been applied before
	Stale                    // this node no longer owns the entry
	Gone                     // the entry was settled or deleted meanwhile
)

// Notice is a message that exists exactly if a verdict it reports on was
// applied; a spool may tell that by the message alone. It is a bounce, a delay warning, a success report.
type Notice struct {
	About ID       // the message it reports on
	Of    []uint32 // its recipients that it reports on: it exists if the verdict on one of them was applied
	To    string   // address; the node delivers locally or queues
	Body  []byte   // whole message, CRLF
	UTF8  bool
}

// Agent tries a job. It never returns an error: every recipient gets a verdict.
// ctx ends before the node's right to act does; an agent must not send the
// final dot after that.
type Agent interface {
	Deliver(ctx context.Context, job *Job) []Verdict
}

// Errors of a Spool.
var (
	ErrGone    = errorString("queue: nothing left to do")
	ErrUnknown = errorString("queue: it is not known whether the verdicts were applied")
)

type errorString string

func (e errorString) Error() string { return string(e) }
