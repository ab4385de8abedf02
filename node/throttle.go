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
)

// throttle slows down networks (IPv4 addresses, IPv6 /64s) whose logins fail,
// and then refuses them for a while; and accounts at which many networks guess,
// for all networks but those that the account uses. Trusted networks are exempt.
//
// An attempt counts from when it begins (attempt.go), so that guesses at once are
// no better than guesses one after the other.
//
// All nodes count together: what fails here is told to the log about once a
// second, in one command for all networks; what failed elsewhere is read from
// the replica. In between each node adds what it has not told yet.
//
// # Logins that fail (2026-11-29)
//
// An attempt counts from its begin (throttle.begin): by network (address, /64) as many are judged at
// once as may fail without consequence, then one at a time, a second later each, and past ten seconds
// none. So 150 guesses at once: 14 are judged, where 115 were; 150 users behind one address get in
// within seconds. A dialogue by SCRAM that stops counts as failed after 20 s. A login forgives what
// failed at its own account at this node, nothing else. Twenty failures at one account in ten minutes,
// told in the same tally under a hash of its name, slow it down for all networks but those (/24, /48)
// from which it has logged in within 15 to 30 days. That is known in memory, and nodes ask each other
// when it matters. Exempt are trusted networks only. Rejected: a field for accounts in Apply (the
// tally does), and refusing an account (whoever guesses could lock its owner out).
type throttle struct {
	free    int           // failures without consequence
	delay   time.Duration // added by each failure beyond
	most    time.Duration // longest delay; past it the network is refused
	every   time.Duration // between two tallies
	exempt  func(netip.Addr) bool
	known   *familiar
	replica replica
	node    string
	log     *zap.Logger
	stir    chan struct{} // there is something to tell

	mu     sync.Mutex
	untold map[string]tried // by network, or by account (guessedKey)
	told   map[string]tried // in a tally that is under way
	seq    uint64
	open   map[string]*loginTry // by session
	lines  map[string]*line     // by network, or by account
	own    map[mistaken]lately  // failures that this node knows the account of
	swept  time.Time
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

func newThrottle(free int, r replica, node string, exempt func(netip.Addr) bool, known *familiar,
	log *zap.Logger) *throttle {
	return &throttle{
		free: free, delay: time.Second, most: 10 * time.Second, every: time.Second, exempt: exempt, known: known, replica: r,
		node: node, log: log,
		stir: make(chan struct{}, 1), untold: map[string]tried{}, seq: uint64(time.Now().UnixNano()),
		open: map[string]*loginTry{}, lines: map[string]*line{}, own: map[mistaken]lately{},
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

// minds reports whether an address is counted at all.
func (t *throttle) minds(a netip.Addr) bool {
	return t.free > 0 && a.IsValid() && (t.exempt == nil || !t.exempt(a))
}

// count is how many logins of a network, or at an account, have failed lately,
// anywhere.
func (t *throttle) count(n string) (int, error) {
	// First what is under way, then the replica: a tally that is applied in
	// between counts twice for a moment, not never.
	t.mu.Lock()
	mine := t.told[n].add(t.untold[n])
	t.mu.Unlock()
	var f *pb.Failures
	var ts *pb.TimeState
	err := t.replica.View(func(v spool.View) (err error) {
		if f, _, err = v.Failures(n); err == nil && f.Count > 0 {
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

// note needs t.mu.
func (t *throttle) note(key string, what tried) {
	if len(t.untold) < maxNetworks || t.untold[key] != (tried{}) {
		t.untold[key] = t.untold[key].add(what)
	}
	t.wake()
}

func (t *throttle) wake() {
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
	t.told = map[string]tried{}
	for n, one := range t.untold {
		if len(t.told) == maxTally {
			break
		}
		h.Tried = append(h.Tried, &pb.Tried{Network: n, Count: uint32(one.count), Clear: one.clear})
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
		t.wake()
	}
	return err
}
