package cluster

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

// proposer puts commands of this node into the log, through leaders that come and go.
// It may be used by any number of goroutines.
type proposer struct {
	proposerPorts
	watch   *leaderWatch
	batcher *batcher
	peers   *peers

	kinds                     [256]bool
	controlBudget, bulkBudget *semaphore.Weighted
	inflight                  *inflight
}

// proposerPorts is what a proposer needs of its node.
type proposerPorts struct {
	self     string
	deadline time.Duration        // longest a proposal is tried
	budget   int64                // octets of proposals under way, of control and of bulk each
	boot     func() time.Duration // a clock that counts suspends
	at       func(v uint32) bool  // whether the cluster version has reached v here
	ended    <-chan struct{}      // closed when everything must stop
}

// newProposer makes a proposer without a way yet: batcher and peers are to be set
// before the first proposal.
func newProposer(p proposerPorts, watch *leaderWatch) *proposer {
	return &proposer{
		proposerPorts: p, watch: watch, kinds: knownKinds(), inflight: newInflight(),
		controlBudget: semaphore.NewWeighted(p.budget), bulkBudget: semaphore.NewWeighted(p.budget),
	}
}

// propose is Cluster.Propose.
func (c *proposer) propose(ctx context.Context, f spool.Frame) (*pb.Result, error) {
	if !c.inflight.enter() {
		return nil, fmt.Errorf("%w: %w", fault.ErrUnavailable, fault.ErrStopping)
	}
	defer c.inflight.leave()
	return c.proposeOwn(ctx, f)
}

// close lets no proposal in any more; the channel is closed when all have ended.
func (c *proposer) close() <-chan struct{} { return c.inflight.close() }

// proposeOwn is propose for the Cluster's own commands too, which go on while it
// stops.
func (c *proposer) proposeOwn(ctx context.Context, f spool.Frame) (*pb.Result, error) {
	try := attempts{c: c, frame: f}
	return c.try(ctx, &try)
}

// trip is how a proposal travels, as far as its proposer cares.
type trip struct {
	bulk  bool         // by the link for bulk, where the leader is another node
	began atomic.Int64 // the attempt under way, on the boot clock; 0: there is no leader to try
}

// proposeTimed is propose that also tells when the attempt that was answered
// began: the answer was true at some time after that. t may be nil.
func (c *proposer) proposeTimed(ctx context.Context, f spool.Frame, t *trip) (*pb.Result, time.Duration, error) {
	try := attempts{c: c, frame: f, timed: true, trip: t}
	res, err := c.try(ctx, &try)
	return res, try.began, err
}

func (c *proposer) try(ctx context.Context, a *attempts) (*pb.Result, error) {
	if err := c.valid(a.frame); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.deadline)
	defer cancel()
	a.bulk, a.wait = a.frame.Bulk() || a.trip != nil && a.trip.bulk, firstWait
	budget := c.budgetOf(a.frame.Bulk())
	if err := budget.Acquire(ctx, int64(len(a.frame))); err != nil {
		return nil, fmt.Errorf("%w: too much is under way: %w", fault.ErrUnavailable, err)
	}
	defer budget.Release(int64(len(a.frame)))
	return a.run(ctx)
}

func (c *proposer) budgetOf(bulk bool) *semaphore.Weighted {
	if bulk {
		return c.bulkBudget
	}
	return c.controlBudget
}

// valid refuses what Apply would stop at. Apply runs on every node, so nothing
// it does not understand may enter the log.
func (c *proposer) valid(f spool.Frame) error {
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

// admits is valid for the batcher, down to the last field: nothing enters the log
// that some node would stop at. A command that needs a cluster version that this node
// has not seen applied must wait. A follower may apply a Raise before its leader does,
// so the proposer is to try again.
func (c *proposer) admits(f spool.Frame) error {
	if err := c.valid(f); err != nil {
		return err
	}
	if err := f.Check(); err != nil {
		return fmt.Errorf("%w: %w", fault.ErrInvalid, err)
	}
	if v := f.Version(); v > 1 && !c.at(v) {
		return fmt.Errorf("%w: the command needs cluster version %d", fault.ErrNotLeader, v)
	}
	return nil
}

// isOver reports whether everything must stop.
func (c *proposer) isOver() bool {
	select {
	case <-c.ended:
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
	c     *proposer
	frame spool.Frame
	bulk  bool
	trip  *trip // may be nil
	wait  time.Duration
	timed bool          // began is wanted: it costs a system call
	began time.Duration // the last attempt, on the boot clock
	maybe error         // the last attempt that may have been applied
	last  error
}

func (a *attempts) run(ctx context.Context) (*pb.Result, error) {
	for {
		mark := a.c.watch.current()
		if mark.leader == "" {
			a.begin(0)
			a.note(fault.ErrNoLeader)
			if !a.pause(ctx, mark, -1) {
				return nil, a.end(ctx)
			}
			continue
		}
		if a.timed {
			a.begin(a.c.boot())
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
		a.trip.began.Store(int64(at))
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
func (a *attempts) pause(ctx context.Context, mark *leaderMark, d time.Duration) bool {
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
	case <-mark.changed:
	case <-timer:
	case <-ctx.Done():
		return false
	case <-a.c.ended:
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

func (g *batcher) withdrawCall(c *call) bool { return g.withdraw(&c.proposal) }
func (p *pipe) withdrawCall(c *call) bool    { return p.withdraw(c) }

// once proposes to one leader and waits for the answer, for another leader, or
// for the end of time.
func (a *attempts) once(ctx context.Context, mark *leaderMark) (*pb.Result, error) {
	one := &call{proposal: proposal{frame: a.frame}, done: make(chan struct{}, 1)}
	one.sink = one
	by, err := a.dispatch(mark.leader, one)
	if err != nil {
		return nil, err
	}
	var gone error
	select {
	case <-one.done:
		return one.res, one.err
	case <-mark.changed:
		gone = fault.ErrDeposed
	case <-ctx.Done():
		gone = ctx.Err()
	case <-a.c.ended:
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
	if leader == a.c.self {
		a.c.batcher.submit(&one.proposal)
		return a.c.batcher, nil
	}
	proto := wire.RPC
	if a.bulk {
		proto = wire.Bulk
	}
	l, err := a.c.peers.to(leader, proto)
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
