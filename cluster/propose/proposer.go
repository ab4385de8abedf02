package propose

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"relay/cluster/fault"
	"relay/cluster/internal/wire"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// Proposer puts commands of this node into the log, through leaders that come and go.
// It may be used by any number of goroutines.
type Proposer struct {
	Ports
	watch   *LeaderWatch
	Batcher *Batcher
	Peers   *Peers

	kinds                     [256]bool
	controlBudget, bulkBudget *semaphore.Weighted
	inflight                  *inflight
}

// Ports is what a proposer needs of its node.
type Ports struct {
	Self     string
	Deadline time.Duration        // longest a proposal is tried
	Budget   int64                // octets of proposals under way, of control and of bulk each
	Boot     func() time.Duration // a clock that counts suspends
	At       func(v uint32) bool  // whether the cluster version has reached v here
	Ended    <-chan struct{}      // closed when everything must stop
}

// New makes a proposer without a way yet: batcher and peers are to be set
// before the first proposal.
func New(p Ports, watch *LeaderWatch) *Proposer {
	return &Proposer{
		Ports: p, watch: watch, kinds: knownKinds(), inflight: newInflight(),
		controlBudget: semaphore.NewWeighted(p.Budget), bulkBudget: semaphore.NewWeighted(p.Budget),
	}
}

// Propose is Cluster.Propose.
func (c *Proposer) Propose(ctx context.Context, f spool.Frame) (*pb.Result, error) {
	if !c.inflight.enter() {
		return nil, fmt.Errorf("%w: %w", fault.ErrUnavailable, fault.ErrStopping)
	}
	defer c.inflight.leave()
	return c.ProposeOwn(ctx, f)
}

// Close lets no proposal in any more; the channel is closed when all have ended.
func (c *Proposer) Close() <-chan struct{} { return c.inflight.close() }

// ProposeOwn is propose for the Cluster's own commands too, which go on while it
// stops.
func (c *Proposer) ProposeOwn(ctx context.Context, f spool.Frame) (*pb.Result, error) {
	try := attempts{c: c, frame: f}
	return c.try(ctx, &try)
}

// Trip is how a proposal travels, as far as its proposer cares.
type Trip struct {
	Bulk  bool         // by the link for bulk, where the leader is another node
	Began atomic.Int64 // the attempt under way, on the boot clock; 0: there is no leader to try
}

// ProposeTimed is propose that also tells when the attempt that was answered
// began: the answer was true at some time after that. t may be nil.
func (c *Proposer) ProposeTimed(ctx context.Context, f spool.Frame, t *Trip) (*pb.Result, time.Duration, error) {
	try := attempts{c: c, frame: f, timed: true, trip: t}
	res, err := c.try(ctx, &try)
	return res, try.began, err
}

func (c *Proposer) try(ctx context.Context, a *attempts) (*pb.Result, error) {
	if err := c.valid(a.frame); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Deadline)
	defer cancel()
	a.bulk, a.wait = a.frame.Bulk() || a.trip != nil && a.trip.Bulk, firstWait
	budget := c.budgetOf(a.frame.Bulk())
	if err := budget.Acquire(ctx, int64(len(a.frame))); err != nil {
		return nil, fmt.Errorf("%w: too much is under way: %w", fault.ErrUnavailable, err)
	}
	defer budget.Release(int64(len(a.frame)))
	return a.run(ctx)
}

func (c *Proposer) budgetOf(bulk bool) *semaphore.Weighted {
	if bulk {
		return c.bulkBudget
	}
	return c.controlBudget
}

// valid refuses what Apply would stop at. Apply runs on every node, so nothing
// it does not understand may enter the log.
func (c *Proposer) valid(f spool.Frame) error {
	switch {
	case len(f) < preamble:
		return fmt.Errorf("%w: %d octets", fault.ErrInvalid, len(f))
	case len(f) > spool.MaxFrame:
		return fmt.Errorf("%w: %d octets are over the limit of %d", fault.ErrInvalid, len(f), spool.MaxFrame)
	case f[0] == 0 || f[0] > spool.MaxVersion:
		return fmt.Errorf("%w: version %d", fault.ErrInvalid, f[0])
	case !c.kinds[f[1]]:
		return fmt.Errorf("%w: kind %d", fault.ErrInvalid, f[1])
	}
	return nil
}

// Admits is valid for the batcher, down to the last field: nothing enters the log
// that some node would stop at. A command that needs a cluster version that this node
// has not seen applied must wait. A follower may apply a Raise before its leader does,
// so the proposer is to try again.
func (c *Proposer) Admits(f spool.Frame) error {
	if err := c.valid(f); err != nil {
		return err
	}
	if err := f.Check(); err != nil {
		return fmt.Errorf("%w: %w", fault.ErrInvalid, err)
	}
	if v := f.Version(); v > 1 && !c.At(v) {
		return fmt.Errorf("%w: the command needs cluster version %d", fault.ErrNotLeader, v)
	}
	return nil
}

// isOver reports whether everything must stop.
func (c *Proposer) isOver() bool {
	select {
	case <-c.Ended:
		return true
	default:
		return false
	}
}

// knownKinds asks the spool which kinds it applies.
func knownKinds() (known [256]bool) {
	for k := range known {
		empty := make(spool.Frame, preamble)
		empty[0], empty[1] = spool.MaxVersion, byte(k)
		_, err := spool.Decode(empty)
		known[k] = err == nil
	}
	return known
}

const (
	firstWait = 5 * time.Millisecond
	lastWait  = 100 * time.Millisecond
)

// attempts is one proposal's way through leaders that come and go.
type attempts struct {
	c     *Proposer
	frame spool.Frame
	bulk  bool
	trip  *Trip // may be nil
	wait  time.Duration
	timed bool          // began is wanted: it costs a system call
	began time.Duration // the last attempt, on the boot clock
	maybe error         // the last attempt that may have been applied
	last  error
}

func (a *attempts) run(ctx context.Context) (*pb.Result, error) {
	for {
		mark := a.c.watch.Current()
		if mark.Leader == "" {
			a.begin(0)
			a.note(fault.ErrNoLeader)
			if !a.pause(ctx, mark, -1) {
				return nil, a.end(ctx)
			}
			continue
		}
		if a.timed {
			a.begin(a.c.Boot())
		}
		res, err := a.once(ctx, mark)
		if err == nil {
			return res, nil
		}
		a.note(err)
		if fault.IsInvalid(err) || !a.pause(ctx, mark, a.wait/2+rand.N(a.wait)) {
			return nil, a.end(ctx)
		}
		a.wait = min(2*a.wait, lastWait)
	}
}

func (a *attempts) begin(at time.Duration) {
	a.began = at
	if a.trip != nil {
		a.trip.Began.Store(int64(at))
	}
}

func (a *attempts) note(err error) {
	a.last = err
	if fault.MayBeApplied(err) {
		a.maybe = err
	}
}

// pause waits before the next attempt: until another leads, or for d, or, with
// d negative, only for the leader. It reports false when time is up.
func (a *attempts) pause(ctx context.Context, mark *LeaderMark, d time.Duration) bool {
	if ctx.Err() != nil || a.c.isOver() {
		return false
	}
	var timer <-chan time.Time
	if d >= 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-mark.Changed:
	case <-timer:
	case <-ctx.Done():
		return false
	case <-a.c.Ended:
		return false
	}
	return true
}

// end makes the error of a proposal that got no answer.
func (a *attempts) end(ctx context.Context) error {
	switch {
	case a.maybe != nil:
		return fmt.Errorf("%w: %w", fault.ErrUnknown, a.maybe)
	case fault.IsInvalid(a.last):
		return a.last
	case ctx.Err() != nil && a.last != nil:
		return fmt.Errorf("%w: %w (%w)", fault.ErrUnavailable, a.last, ctx.Err())
	case a.last != nil:
		return fmt.Errorf("%w: %w", fault.ErrUnavailable, a.last)
	}
	return fmt.Errorf("%w: %w", fault.ErrUnavailable, fault.ErrStopping)
}

// carrier takes proposals to a leader: the batcher here, or a pipe to there.
type carrier interface{ withdrawCall(*call) bool }

func (g *Batcher) withdrawCall(c *call) bool { return g.withdraw(&c.proposal) }
func (p *pipe) withdrawCall(c *call) bool    { return p.withdraw(c) }

// once proposes to one leader and waits for the answer, for another leader, or
// for the end of time.
func (a *attempts) once(ctx context.Context, mark *LeaderMark) (*pb.Result, error) {
	one := &call{proposal: proposal{frame: a.frame}, done: make(chan struct{}, 1)}
	one.sink = one
	by, err := a.dispatch(mark.Leader, one)
	if err != nil {
		return nil, err
	}
	var gone error
	select {
	case <-one.done:
		return one.res, one.err
	case <-mark.Changed:
		gone = fault.ErrDeposed
	case <-ctx.Done():
		gone = ctx.Err()
	case <-a.c.Ended:
		gone = fault.ErrDeposed
	}
	if by.withdrawCall(one) {
		return nil, fmt.Errorf("%w: %v", fault.ErrUnsent, gone)
	}
	select {
	case <-one.done: // settled just now
		return one.res, one.err
	default:
		return nil, fmt.Errorf("%w: %w", fault.ErrLost, gone)
	}
}

func (a *attempts) dispatch(leader string, one *call) (carrier, error) {
	if leader == a.c.Self {
		a.c.Batcher.submit(&one.proposal)
		return a.c.Batcher, nil
	}
	proto := wire.RPC
	if a.bulk {
		proto = wire.Bulk
	}
	l, err := a.c.Peers.to(leader, proto)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", fault.ErrUnsent, err)
	}
	l.pipe.submit(one)
	return l.pipe, nil
}

// inflight counts the callers inside, and can be closed to new ones.
type inflight struct {
	mu     sync.Mutex
	n      int
	closed bool
	empty  chan struct{}
}

func newInflight() *inflight { return &inflight{empty: make(chan struct{})} }

func (i *inflight) enter() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return false
	}
	i.n++
	return true
}

func (i *inflight) leave() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.n--; i.n == 0 && i.closed {
		close(i.empty)
	}
}

// close lets nobody in any more; the channel is closed when all are out.
func (i *inflight) close() <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.closed {
		i.closed = true
		if i.n == 0 {
			close(i.empty)
		}
	}
	return i.empty
}
