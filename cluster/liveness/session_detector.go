package liveness

import (
	"sync"
	"time"

	pb "relay/cluster/spool/spoolpb"
)

// Margin is the time between the end of a lease that its holder counts and the one
// that others count: an eighth of the lease, at least so much. Both add or take it.
func Margin(hold, least time.Duration) time.Duration { return max(least, hold/8) }

// Detector counts for each session how long it has not been renewed, on this
// node's clock and from when this node saw the renewal applied. Each session
// says its own lease. Any goroutine may use it.
//
// The leader counts lease + margin from when it saw the renewal applied, and expires by
// compare-and-swap on it. Every node keeps that count, so that a new leader
// knows at once since when the old one is silent; a renewal that only its barrier
// applied counts from when the old leader was heard last, as it was in the log by then.
// After an election the living first get one and a half renewals' time, as nobody could
// renew while there was no leader. So there are two margins between the end of a node's
// right to act and the moment another gets its work.
type Detector struct {
	lease    time.Duration // of a session that says none
	margin   time.Duration // the least
	mu       sync.Mutex
	observed map[string]observation
	last     map[string]time.Time // when a renewal of a node was seen, also of one whose session has ended
}

type observation struct {
	epoch, renewed uint64
	at             time.Time
}

// NewDetector makes a detector. lease is that of a session that says none, margin the
// least that is added to a lease.
func NewDetector(lease, margin time.Duration) *Detector {
	return &Detector{
		lease: lease, margin: margin, observed: map[string]observation{}, last: map[string]time.Time{},
	}
}

// Heard is when a renewal of a node was seen last; the zero time: never.
func (w *Detector) Heard(node string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last[node]
}

// Grace is how long after its last renewal a session is taken for dead.
func (w *Detector) Grace(s *pb.Session) time.Duration {
	hold := w.lease
	if s.LeaseMs != 0 {
		hold = time.Duration(s.LeaseMs) * time.Millisecond
	}
	return hold + Margin(hold, w.margin)
}

// Observe returns the sessions to expire.
func (w *Detector) Observe(now time.Time, sessions []*pb.Session) (dead []*pb.Session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	live := make(map[string]bool, len(sessions))
	for _, s := range sessions {
		live[s.Node] = true
		last, ok := w.observed[s.Node]
		switch {
		case !ok || last.epoch != s.Epoch || last.renewed != s.Renewed:
			w.observed[s.Node], w.last[s.Node] = observation{s.Epoch, s.Renewed, now}, now
		case now.Sub(last.at) > w.Grace(s):
			dead = append(dead, s)
		}
	}
	for node := range w.observed {
		if !live[node] {
			delete(w.observed, node)
		}
	}
	return dead
}

// Backdate notes that a session's last renewal was not sent after an instant.
func (w *Detector) Backdate(s *pb.Session, to time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last, ok := w.observed[s.Node]
	if ok && last.epoch == s.Epoch && last.renewed == s.Renewed && to.Before(last.at) {
		last.at = to
		w.observed[s.Node] = last
	}
}

// UnrenewedFor is how long a session has not been renewed, as far as this node saw.
func (w *Detector) UnrenewedFor(s *pb.Session) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if last := w.observed[s.Node]; last.epoch == s.Epoch && last.renewed == s.Renewed {
		return time.Since(last.at)
	}
	return 0
}

// SurelyDead is how long a session must not have been renewed until its owner has
// stopped by itself, also by a clock that is slower.
func (w *Detector) SurelyDead(s *pb.Session) time.Duration {
	grace := w.Grace(s)
	return grace + Margin(grace, w.margin)
}
