package inbound

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/mailheader"
	"relay/node/milter"
	"relay/node/plan"
	"relay/node/replica"
	"relay/node/rule"
	"relay/smtp"
)

// Refusals of intake that are not the cluster's, for now.
var (
	errGone  = errors.New("a mailbox was removed meanwhile")
	errFull  = errors.New("mailbox full")
	errSpent = errors.New("the account has sent what it may for today")
	errWide  = errors.New("too many recipients behind one message")
)

// loopError refuses mail that goes in circles, for good.
type loopError string

const (
	errHops    = loopError("too many hops")
	errLooping = loopError("mail loops back to a mailbox it has been in")
)

func (e loopError) Error() string   { return string(e) }
func (e loopError) Permanent() bool { return true }

// envelope is a message on its way in, apart from its octets.
type envelope struct {
	sender    string
	rcpts     []plan.Recipient
	weight    int // of rcpts
	client    *pb.Client
	options   pb.Message  // only the fields that MAIL parameters set
	announced uint64      // octets, by MAIL; 0: not
	fixUp     bool        // submission: add From, Date and Message-ID where missing
	domain    string      // for a Message-ID that is made here
	detail    string      // for the history line
	account   *pb.Account // whose daily send limit counts; nil: nobody's
	from      *fromCheck  // whose address may stand in From; nil: anybody's
	origin    string      // who may send it again and mean the same (RFC 1047); empty: nobody
	screen    *screening  // what strangers' mail goes through; nil: nothing
	greyed
	filter  *milter.Transaction // content filters; nil: none
	receipt receipt             // what the client's reading of the 250 will prove; set by accept
}

// mailer turns messages into Accept commands. Its methods may be called
// concurrently.
type mailer struct {
	replica  replica.Replica
	receipts *receipts
	node     string
	hostname string
	maxHops  int
	log      *zap.Logger
	took     func(begin time.Time) // observes a commit; nil: nobody counts
	buffers  buffers
	from     fromStats
	rules    func() *rule.Set
	copied   atomic.Int64 // by rules
}

func newMailer(r replica.Replica, receipts *receipts, node, hostname string, maxHops int, log *zap.Logger) *mailer {
	return &mailer{replica: r, receipts: receipts, node: node, hostname: hostname, maxHops: maxHops, log: log,
		rules: func() *rule.Set { return nil }}
}

// accept takes a message in. When it returns nil a majority has the message on
// disk under the returned id; on an error nobody answers for it (but where the
// error wraps cluster.ErrUnknown it may exist all the same).
func (m *mailer) accept(ctx context.Context, env *envelope, r io.Reader) (string, error) {
	now := m.replica.Now()
	in := &intake{mailer: m, body: body{digest: sha256.New()}, env: env, id: replica.NewID(now), now: now}
	in.holder, _ = r.(smtp.Holder)
	in.buf = m.buffers.get(smallestBuffer)
	defer func() { m.buffers.put(in.buf) }()
	err := in.take(ctx, r)
	if errors.Is(err, errDiscarded) {
		err = in.discard(ctx)
	}
	if err != nil {
		in.abort()
		return "", err
	}
	return in.id.String(), nil
}

// intake is one message being taken in.
type intake struct {
	*mailer
	body
	env    *envelope
	id     spool.ID
	now    time.Time
	plan   *pb.Accept // without what only the whole body tells
	key    []byte     // of it, and of the envelope
	asked  bool       // other nodes were
	found  string     // what screening found, for the history
	copies *rule.Set  // the standing rules that may copy it
	copied []ruleCopy // copies of it that they want
	looped []string   // mailboxes that the message has been in, and does not enter again

	given     []string // recipients as the client gave them, before a filter's verdict
	dropped   []string // of them, those that a filter took away
	discarder string   // who throws the message away
}

// stage is a step of intake that looks at a message, and may refuse or change it.
type stage struct {
	begin func(*intake, context.Context) error   // the header section is at hand, or all of it that ever is
	pass  func(*intake, context.Context, []byte) // sees the octets that come after; nil: they do not matter
	end   func(*intake, context.Context) error   // all has come; nil: the beginning was enough
}

// stages are those of every message; one that does not concern a message does nothing.
// They begin in this order and end in reverse, so that what screening puts on top stands
// above what filters have changed.
func stages() [7]stage {
	return [...]stage{
		{begin: (*intake).checkLoops},
		{begin: (*intake).beginDedup, pass: (*intake).passDedup},
		{begin: (*intake).beginScreen, pass: (*intake).passScreen, end: (*intake).endScreen},
		{begin: (*intake).addMissingFields},
		{begin: (*intake).checkFrom},
		{begin: (*intake).beginPlan},
		{begin: (*intake).beginFilter, pass: (*intake).passFilter, end: (*intake).endFilter},
	}
}

// take reads the header section, takes the message through its stages, and commits it.
func (in *intake) take(ctx context.Context, r io.Reader) error {
	if err := in.readHeader(r); err != nil {
		return err
	}
	all := stages()
	for i := range all {
		if err := all[i].begin(in, ctx); err != nil {
			return err
		}
	}
	if !in.ended {
		in.sample = slices.Clone(in.buf[:min(len(in.buf), sampleSize)])
		if in.env.screen.tells() || in.env.filter != nil {
			in.holdTop()
		}
		if err := in.sendAhead(ctx, r); err != nil {
			return err
		}
	}
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].end == nil {
			continue
		}
		if err := all[i].end(in, ctx); err != nil {
			return err
		}
	}
	if err := in.sendTop(ctx); err != nil {
		return err
	}
	return in.commit(ctx)
}

// readHeader puts the trace field in front and reads as much as goes inline.
func (in *intake) readHeader(r io.Reader) error {
	in.buf = in.received(in.buf)
	in.trace = len(in.buf)
	if err := in.fill(r); err != nil {
		return err
	}
	in.buf = mailheader.NameMailboxLine(in.buf, in.trace)
	in.head = mailheader.Parse(in.sent())
	return nil
}

// fill reads until the buffer holds spool.MaxInline octets or the message ends.
func (in *intake) fill(r io.Reader) error {
	for len(in.buf) < spool.MaxInline {
		if len(in.buf) == cap(in.buf) {
			in.buf = in.buffers.grow(in.buf)
		}
		in.holds()
		n, err := r.Read(in.buf[len(in.buf):min(cap(in.buf), spool.MaxInline)])
		in.buf = in.buf[:len(in.buf)+n]
		if err == io.EOF {
			in.ended = true
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// beginPlan is the stage that plans where the message goes.
func (in *intake) beginPlan(context.Context) error {
	in.address()
	in.copies = in.rules()
	return in.copyByRule()
}
