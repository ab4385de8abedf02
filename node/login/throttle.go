package login

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
	"relay/node/replica"
)

// Throttle slows down networks (IPv4 addresses, IPv6 /64s) whose logins fail,
// and then refuses them for a while; and accounts at which many networks guess,
// for all networks but those that the account uses. Trusted networks are exempt.
//
// An attempt counts from when it begins (attempt.go), so that guesses at once are
// no better than guesses one after the other.
//
// All nodes count together: failures here are told to the log about once a second, in one command for
// all networks; failures elsewhere are read from the replica. In between each node adds what it has
// not told yet.
//
// # Logins that fail (2026-11-29)
//
// An attempt counts from its begin (Throttle.Begin): by network (address, /64) as many are judged at
// once as may fail without consequence, then one at a time, a second later each, and past ten seconds
// none. So 150 guesses at once: 14 are judged, where 115 were; 150 users behind one address get in
// within seconds. A dialogue by SCRAM that stops counts as failed after 20 s. A login forgives what
// failed at its own account at this node, nothing else. Twenty failures at one account in ten minutes,
// told in the same tally under a hash of its name, slow it down for all networks but those (/24, /48)
// from which it has logged in within 15 to 30 days. That is known in memory, and nodes ask each other
// when it matters. Exempt are trusted networks only. Rejected: a field for accounts in Apply (the
// tally does), and refusing an account (whoever guesses could lock its owner out).
type Throttle struct {
	free    int           // failures without consequence
	delay   time.Duration // added by each failure beyond
	most    time.Duration // longest delay; past it the network is refused
	every   time.Duration // between two tallies
	exempt  func(netip.Addr) bool
	known   *Familiar
	replica replica.Replica
	node    string
	log     *zap.Logger
	stir    chan struct{} // there is something to tell

	mu       sync.Mutex
	pending  map[string]delta // by network, or by account (guessedKey)
	inFlight map[string]delta // in a tally that is under way
	seq      uint64
	open     map[string]*pendingLogin   // by session
	lines    map[string]*line           // by network, or by account
	own      map[failureKey]recentCount // failures that this node knows the account of
	swept    time.Time
}

// delta is what a node has counted of a network.
type delta struct {
	count int
	clear bool // a login succeeded before these failures
}

func (t delta) add(later delta) delta {
	if later.clear {
		return later
	}
	return delta{t.count + later.count, t.clear}
}

// over is a count of failures after this node's own is taken in.
func (t delta) over(count int) int {
	if t.clear {
		count = 0
	}
	return count + t.count
}

// NewThrottle makes the throttle of a node. free failures are without consequence, 0
// turns it off; exempt tells trusted networks (nil: none).
func NewThrottle(free int, r replica.Replica, node string, exempt func(netip.Addr) bool, known *Familiar,
	log *zap.Logger) *Throttle {
	return &Throttle{
		free: free, delay: time.Second, most: 10 * time.Second, every: time.Second, exempt: exempt, known: known, replica: r,
		node: node, log: log,
		stir: make(chan struct{}, 1), pending: map[string]delta{}, seq: uint64(time.Now().UnixNano()),
		open: map[string]*pendingLogin{}, lines: map[string]*line{}, own: map[failureKey]recentCount{},
	}
}

// Network is what counts as one client.
func Network(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

// minds reports whether an address is counted at all.
func (t *Throttle) minds(a netip.Addr) bool {
	return t.free > 0 && a.IsValid() && (t.exempt == nil || !t.exempt(a))
}

// Count is how many logins of a network, or at an account, have failed lately,
// anywhere.
func (t *Throttle) Count(n string) (int, error) {
	// First what is under way, then the replica: a tally that is applied in
	// between counts twice for a moment, not never.
	t.mu.Lock()
	mine := t.inFlight[n].add(t.pending[n])
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
func (t *Throttle) note(key string, what delta) {
	if len(t.pending) < maxNetworks || t.pending[key] != (delta{}) {
		t.pending[key] = t.pending[key].add(what)
	}
	t.wake()
}

func (t *Throttle) wake() {
	select {
	case t.stir <- struct{}{}:
	default:
	}
}

// Run tells the other nodes what has failed here, until ctx ends.
func (t *Throttle) Run(ctx context.Context) error {
	tick := time.NewTicker(t.every)
	defer tick.Stop()
	for {
		select {
		case <-t.stir:
		case <-ctx.Done():
			return nil
		}
		if err := t.report(ctx); err != nil && ctx.Err() == nil {
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

// report proposes one tally. A tally that surely was not applied is told again; one
// that perhaps was is not.
func (t *Throttle) report(ctx context.Context) error {
	h := &pb.Tally{Node: t.node}
	t.mu.Lock()
	t.seq++
	h.Seq = t.seq
	t.inFlight = map[string]delta{}
	for n, one := range t.pending {
		if len(t.inFlight) == maxTally {
			break
		}
		h.Tried = append(h.Tried, &pb.Tried{Network: n, Count: uint32(one.count), Clear: one.clear})
		t.inFlight[n] = one
		delete(t.pending, n)
	}
	t.mu.Unlock()
	if len(h.Tried) == 0 {
		return nil
	}
	res, err := replica.Propose(ctx, t.replica, spool.KindTally, h)
	if err == nil {
		err = t.replica.WaitApplied(ctx, res.Index)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if errors.Is(err, cluster.ErrUnavailable) {
		for n, one := range t.inFlight {
			t.pending[n] = one.add(t.pending[n])
		}
	}
	t.inFlight = nil
	if len(t.pending) > 0 {
		t.wake()
	}
	return err
}
