package node

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/pop3"
)

// throttle slows down networks (IPv4 addresses, IPv6 /64s) whose logins fail,
// and then refuses them for a while. Loopback is exempt.
//
// All nodes count together: what fails here is told to the log about once a
// second, in one command for all networks; what failed elsewhere is read from
// the replica. In between each node adds what it has not told yet.
type throttle struct {
	free    int           // failures without consequence
	delay   time.Duration // added by each failure beyond
	most    time.Duration // longest delay; past it the network is refused
	every   time.Duration // between two tallies
	replica replica
	node    string
	log     *zap.Logger
	stir    chan struct{} // there is something to tell

	mu     sync.Mutex
	untold map[netip.Prefix]tried
	told   map[netip.Prefix]tried // in a tally that is under way
	seq    uint64
}

// tried is what a node has counted of a network.
type tried struct {
	count int
	clear bool // a login succeeded before these failures
}

func (t tried) add(later tried) tried {
	if later.clear {
		return later
	}
	return tried{t.count + later.count, t.clear}
}

// over is a count of failures after this node's own is taken in.
func (t tried) over(count int) int {
	if t.clear {
		count = 0
	}
	return count + t.count
}

func newThrottle(free int, r replica, node string, log *zap.Logger) *throttle {
	return &throttle{
		free: free, delay: time.Second, most: 10 * time.Second, every: time.Second, replica: r, node: node, log: log,
		stir: make(chan struct{}, 1), untold: map[netip.Prefix]tried{}, seq: uint64(time.Now().UnixNano()),
	}
}

// network is what counts as one client.
func network(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

// wait holds a login back as long as its network deserves, or refuses it
// unheard with pop3.ErrThrottled.
func (t *throttle) wait(ctx context.Context, a netip.Addr) error {
	d, err := t.penalty(a)
	if d == 0 || err != nil {
		return err
	}
	if d > t.most {
		return pop3.ErrThrottled
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *throttle) penalty(a netip.Addr) (time.Duration, error) {
	if !t.minds(a) {
		return 0, nil
	}
	count, err := t.count(network(a))
	return time.Duration(max(0, count-t.free)) * t.delay, err
}

// minds reports whether an address is counted at all.
func (t *throttle) minds(a netip.Addr) bool {
	return t.free > 0 && a.IsValid() && !a.Unmap().IsLoopback()
}

// count is how many logins of a network have failed lately, anywhere.
func (t *throttle) count(n netip.Prefix) (int, error) {
	// First what is under way, then the replica: a tally that is applied in
	// between counts twice for a moment, not never.
	t.mu.Lock()
	mine := t.told[n].add(t.untold[n])
	t.mu.Unlock()
	var f *pb.Failures
	var ts *pb.TimeState
	err := t.replica.View(func(v spool.View) (err error) {
		if f, _, err = v.Failures(n.String()); err == nil && f.Count > 0 {
			ts, err = v.TimeState()
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	shared := 0
	if spool.Since(t.replica.Now().UnixMilli(), ts, f.GetLastMs()) < spool.FailureMs {
		shared = int(f.Count)
	}
	return mine.over(shared), nil
}

// maxNetworks bounds the memory an attacker from many networks can take.
const maxNetworks = 100000

func (t *throttle) failed(a netip.Addr) { t.note(a, tried{count: 1}) }

// succeeded forgets the failures of a network. Those without any cost nothing.
func (t *throttle) succeeded(a netip.Addr) {
	if !t.minds(a) {
		return
	}
	if n, err := t.count(network(a)); n > 0 && err == nil {
		t.note(a, tried{clear: true})
	}
}

func (t *throttle) note(a netip.Addr, what tried) {
	if !t.minds(a) {
		return
	}
	n := network(a)
	t.mu.Lock()
	if len(t.untold) < maxNetworks {
		t.untold[n] = t.untold[n].add(what)
	}
	t.mu.Unlock()
	select {
	case t.stir <- struct{}{}:
	default:
	}
}

// run tells the other nodes what has failed here, until ctx ends.
func (t *throttle) run(ctx context.Context) error {
	tick := time.NewTicker(t.every)
	defer tick.Stop()
	for {
		select {
		case <-t.stir:
		case <-ctx.Done():
			return nil
		}
		if err := t.tell(ctx); err != nil && ctx.Err() == nil {
			t.log.Debug("failed logins are not told to the other nodes yet", zap.Error(err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// maxTally keeps a tally well inside a frame.
const maxTally = 2000

// tell proposes one tally. What surely was not applied is told again; what
// perhaps was is not.
func (t *throttle) tell(ctx context.Context) error {
	h := &pb.Tally{Node: t.node}
	t.mu.Lock()
	t.seq++
	h.Seq = t.seq
	t.told = map[netip.Prefix]tried{}
	for n, one := range t.untold {
		if len(t.told) == maxTally {
			break
		}
		h.Tried = append(h.Tried, &pb.Tried{Network: n.String(), Count: uint32(one.count), Clear: one.clear})
		t.told[n] = one
		delete(t.untold, n)
	}
	t.mu.Unlock()
	if len(h.Tried) == 0 {
		return nil
	}
	res, err := propose(ctx, t.replica, spool.KindTally, h)
	if err == nil {
		err = t.replica.WaitApplied(ctx, res.Index)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if errors.Is(err, cluster.ErrUnavailable) {
		for n, one := range t.told {
			t.untold[n] = one.add(t.untold[n])
		}
	}
	t.told = nil
	if len(t.untold) > 0 {
		select {
		case t.stir <- struct{}{}:
		default:
		}
	}
	return err
}
