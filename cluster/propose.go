package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"relay/cluster/internal/wire"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// Propose puts a command into the log and returns what Apply said, which is a
// refusal or a success: both are results. It forwards to the leader if need
// be, and proposes the same frame again, because commands are idempotent,
// until it has an answer, ctx ends, or Tuning.Deadline is over. Then the error
// is ErrUnavailable (surely not applied) or ErrUnknown (perhaps applied); both
// wrap the last cause. ErrInvalid: the frame is no command of this version.
//
// The result is the leader's: a local read sees it after WaitApplied of
// Result.Index. The frame must not be modified after the call; it may be
// proposed again. Propose may be called from any number of goroutines:
// commands proposed at the same time are written to disk together.
func (c *Cluster) Propose(ctx context.Context, f spool.Frame) (*pb.Result, error) {
	if !c.inflight.enter() {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, errStopping)
	}
	defer c.inflight.leave()
	return c.propose(ctx, f)
}

// propose is Propose for the Cluster's own commands too, which go on while it
// stops.
func (c *Cluster) propose(ctx context.Context, f spool.Frame) (*pb.Result, error) {
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
func (c *Cluster) proposeTimed(ctx context.Context, f spool.Frame, t *trip) (*pb.Result, time.Duration, error) {
	try := attempts{c: c, frame: f, timed: true, trip: t}
	res, err := c.try(ctx, &try)
	return res, try.began, err
}

func (c *Cluster) try(ctx context.Context, a *attempts) (*pb.Result, error) {
	if err := c.valid(a.frame); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.t.Deadline)
	defer cancel()
	a.bulk, a.wait = a.frame.Bulk() || a.trip != nil && a.trip.bulk, firstWait
	budget := c.budget(a.frame.Bulk())
	if err := budget.Acquire(ctx, int64(len(a.frame))); err != nil {
		return nil, fmt.Errorf("%w: too much is under way: %w", ErrUnavailable, err)
	}
	defer budget.Release(int64(len(a.frame)))
	return a.run(ctx)
}

func (c *Cluster) budget(bulk bool) *semaphore.Weighted {
	if bulk {
		return c.bulkBudget
	}
	return c.controlBudget
}

// valid refuses what Apply would stop at. Apply runs on every node, so nothing
// it does not understand may enter the log.
func (c *Cluster) valid(f spool.Frame) error {
	switch {
	case len(f) < preamble:
		return fmt.Errorf("%w: %d octets", ErrInvalid, len(f))
	case len(f) > spool.MaxFrame:
		return fmt.Errorf("%w: %d octets are over the limit of %d", ErrInvalid, len(f), spool.MaxFrame)
	case f[0] == 0 || f[0] > spool.MaxVersion:
		return fmt.Errorf("%w: version %d", ErrInvalid, f[0])
	case !c.kinds[f[1]]:
		return fmt.Errorf("%w: kind %d", ErrInvalid, f[1])
	}
	return nil
}

// admits is valid for the batcher, down to the last field: nothing enters the log
// that some node would stop at. A command that needs a cluster version that this node
// has not seen applied must wait. A follower may apply a Raise before its leader does,
// so the proposer is to try again.
func (c *Cluster) admits(f spool.Frame) error {
	if err := c.valid(f); err != nil {
		return err
	}
	if err := f.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if v := f.Version(); v > 1 && !c.At(v) {
		return fmt.Errorf("%w: the command needs cluster version %d", errNotLeader, v)
	}
	return nil
}

// At reports whether the cluster version has reached v here, as far as this
// node has applied the log. It is cheap, and never turns false again. The proposer of
// a command of a newer version asks first.
func (c *Cluster) At(v uint32) bool { return c.version.Load() >= v }

// Version is the cluster version, as far as this node has applied the log; 0
// before there is a cluster record.
func (c *Cluster) Version() uint32 { return c.version.Load() }

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
	c     *Cluster
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
		mark := a.c.leaderWatch.current()
		if mark.leader == "" {
			a.begin(0)
			a.note(errNoLeader)
			if !a.pause(ctx, mark, -1) {
				return nil, a.end(ctx)
			}
			continue
		}
		if a.timed {
			a.begin(a.c.clocks.boot())
		}
		res, err := a.once(ctx, mark)
		if err == nil {
			return res, nil
		}
		a.note(err)
		if isInvalid(err) || !a.pause(ctx, mark, a.wait/2+rand.N(a.wait)) {
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
	if mayBeApplied(err) {
		a.maybe = err
	}
}

// pause waits before the next attempt: until another leads, or for d, or, with
// d negative, only for the leader. It reports false when time is up.
func (a *attempts) pause(ctx context.Context, mark *leaderMark, d time.Duration) bool {
	if ctx.Err() != nil || a.c.ctx.Err() != nil {
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
	case <-a.c.ctx.Done():
		return false
	}
	return true
}

// end makes the error of a proposal that got no answer.
func (a *attempts) end(ctx context.Context) error {
	switch {
	case a.maybe != nil:
		return fmt.Errorf("%w: %w", ErrUnknown, a.maybe)
	case isInvalid(a.last):
		return a.last
	case ctx.Err() != nil && a.last != nil:
		return fmt.Errorf("%w: %w (%w)", ErrUnavailable, a.last, ctx.Err())
	case a.last != nil:
		return fmt.Errorf("%w: %w", ErrUnavailable, a.last)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, errStopping)
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
		gone = errDeposed
	case <-ctx.Done():
		gone = ctx.Err()
	case <-a.c.ctx.Done():
		gone = errDeposed
	}
	if by.withdrawCall(one) {
		return nil, fmt.Errorf("%w: %v", errUnsent, gone)
	}
	select {
	case <-one.done: // settled just now
		return one.res, one.err
	default:
		return nil, fmt.Errorf("%w: %w", errLost, gone)
	}
}

func (a *attempts) dispatch(leader string, one *call) (carrier, error) {
	if leader == a.c.id.Node {
		a.c.batcher.submit(&one.proposal)
		return a.c.batcher, nil
	}
	proto := wire.RPC
	if a.bulk {
		proto = wire.Bulk
	}
	l, err := a.c.peers.to(leader, proto)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnsent, err)
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
