package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// session is this node's right to act. It is had by registering, kept by
// renewing through the log, and counted from before each renewal was sent, on
// a clock that also counts suspends: whatever happens to this node, it stops
// by itself before the leader may give its work to others. What counts is the
// attempt that was answered: a renewal that waited for an election counts from
// when it was sent to the new leader.
type session struct {
	lease time.Duration // how long a renewal holds for this side: Lease − Margin
	renew time.Duration
	log   *zap.Logger
	now   func() time.Duration // a clock that counts suspends
	// send proposes a command; it also tells when the attempt that was answered
	// was sent, on now's clock.
	send   func(context.Context, spool.Frame) (*pb.Result, time.Duration, error)
	probe  func() error  // proves that our own disk still takes writes
	behind func() uint64 // index applied here
	wall   func() int64  // this node's wall clock in Unix milliseconds, for the others; nil or 0: no report
	member *pb.Member

	until atomic.Int64  // end of the right to act, on now's clock; 0: none
	epoch atomic.Uint64 // 0: none, or not yet caught up with it

	way time.Duration // of the last renewal to the leader, about; run's own

	mu      sync.Mutex
	lost    chan struct{} // closed when the right ends
	over    bool          // lost is closed
	held    uint64        // epoch registered, caught up or not
	renewed uint64        // index of the last renewal
	end     time.Duration // end of the lease, caught up or not
	timer   *time.Timer   // fires at the end
}

func newSession() *session {
	s := &session{lost: make(chan struct{}), over: true}
	close(s.lost)
	return s
}

// run registers and renews until ctx ends.
func (s *session) run(ctx context.Context) {
	for ctx.Err() == nil {
		if !s.register(ctx) {
			continue
		}
		s.keep(ctx)
	}
}

// register gets a new session. It retries one nonce until it has an answer, so
// that an answer lost on the way does not make two sessions.
func (s *session) register(ctx context.Context) bool {
	f, err := spool.Encode(spool.KindRegister, &pb.Register{Nonce: newNonce(), Member: s.member, WallMs: s.report()})
	if err != nil {
		s.log.Error("cluster: this node's member record can't be encoded", zap.Error(err))
		sleep(ctx, time.Second)
		return false
	}
	var first time.Duration // when this nonce was sent first
	for ctx.Err() == nil {
		if err := s.probe(); err != nil {
			s.log.Error("cluster: the data directory takes no writes; no session without it", zap.Error(err))
			sleep(ctx, s.renew)
			continue
		}
		if first == 0 {
			first = s.now()
		}
		res, sent, err := s.send(ctx, f)
		switch {
		case err != nil:
			s.log.Debug("cluster: no session yet", zap.Error(err))
			sleep(ctx, s.renew/4)
		case res.Code == pb.Code_OK:
			return s.begin(res.Epoch, res.Index, sent)
		case res.Code == pb.Code_DUPLICATE:
			// An earlier attempt made the session, and the others count from then.
			return s.begin(res.Epoch, res.Epoch, first)
		default:
			s.log.Error("cluster: registration refused", zap.Stringer("code", res.Code), zap.String("text", res.Text))
			sleep(ctx, s.renew)
			return false
		}
	}
	return false
}

// keep renews until the session is over.
func (s *session) keep(ctx context.Context) {
	lost := s.Lost()
	wait := time.NewTimer(0)
	defer wait.Stop()
	for next := s.now() + s.renew; ; next = s.now() + s.renew {
		for left := s.renew; left > 0; left = next - s.now() {
			if s.catchUp(); s.epoch.Load() == 0 {
				left = min(left, 20*time.Millisecond)
			}
			wait.Reset(left)
			select {
			case <-wait.C:
			case <-lost:
				return
			case <-ctx.Done():
				return
			}
		}
		if !s.renewal(ctx) {
			return
		}
	}
}

// renewal sends one renewal; false means that the session is over.
func (s *session) renewal(ctx context.Context) bool {
	s.mu.Lock()
	epoch, left := s.held, s.end-s.now()
	s.mu.Unlock()
	if left <= 0 {
		return s.finish(epoch, "it ran out")
	}
	if err := s.probe(); err != nil {
		s.log.Error("cluster: the data directory takes no writes; the session is not renewed", zap.Error(err))
		return true
	}
	f, err := spool.Encode(spool.KindRenew, &pb.Renew{Node: s.member.Id, Epoch: epoch, WallMs: s.report()})
	if err != nil {
		return s.finish(epoch, err.Error())
	}
	ctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	// An answer that had to wait for another leader counts from when that one
	// was asked: the session must not end because an election took its time.
	res, sent, err := s.send(ctx, f)
	if err == nil {
		s.way = min((s.now()-sent)/2, time.Second)
	}
	switch {
	case err != nil:
		s.log.Warn("cluster: the session could not be renewed", zap.Uint64("epoch", epoch), zap.Error(err))
		return true // the timer ends it in time
	case res.Code != pb.Code_OK:
		return s.finish(epoch, res.Text)
	}
	return s.extend(epoch, res.Index, sent)
}

// report is what this node's wall clock will say when a frame that is made now
// is applied.
func (s *session) report() int64 {
	if s.wall == nil {
		return 0
	}
	ms := s.wall()
	if ms != 0 {
		ms += s.way.Milliseconds()
	}
	return ms
}

// begin starts a session that was registered at sent.
func (s *session) begin(epoch, index uint64, sent time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := sent + s.lease - s.now()
	if left <= 0 {
		return false // the answer took longer than the lease
	}
	if s.over {
		s.lost, s.over = make(chan struct{}), false
	}
	s.held, s.renewed, s.end = epoch, index, sent+s.lease
	s.timer = time.AfterFunc(left, func() { s.check(epoch) })
	s.log.Info("cluster: session begins", zap.Uint64("epoch", epoch))
	return true
}

func (s *session) extend(epoch, index uint64, sent time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held != epoch || s.over {
		return false
	}
	s.end, s.renewed = max(s.end, sent+s.lease), index
	if s.epoch.Load() == epoch {
		s.until.Store(int64(s.end))
	}
	s.timer.Reset(s.end - s.now())
	return s.end > s.now()
}

// catchUp lets the node act once it has applied its own registration: before
// that, what it sees may be older than its rights.
func (s *session) catchUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.epoch.Load() == s.held || s.behind() < s.held {
		return
	}
	s.until.Store(int64(s.end))
	s.epoch.Store(s.held)
}

// check runs when the lease should be over.
func (s *session) check(epoch uint64) {
	s.mu.Lock()
	left := s.end - s.now()
	if s.held == epoch && !s.over && left > 0 {
		s.timer.Reset(left)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.finish(epoch, "it could not be renewed in time")
}

// finish ends a session's right to act. It returns false.
func (s *session) finish(epoch uint64, why string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held != epoch || s.over {
		return false
	}
	s.epoch.Store(0)
	s.until.Store(0)
	s.held, s.over = 0, true
	s.timer.Stop()
	close(s.lost)
	s.log.Warn("cluster: session is over", zap.Uint64("epoch", epoch), zap.String("why", why))
	return false
}

// resign ends the session at this side and tells the others, so that they
// need not wait for the lease to run out.
func (s *session) resign(ctx context.Context) {
	s.mu.Lock()
	epoch, renewed := s.held, s.renewed
	s.mu.Unlock()
	if epoch == 0 {
		return
	}
	s.finish(epoch, "the node stops")
	f, err := spool.Encode(spool.KindExpire, &pb.Expire{Node: s.member.Id, Epoch: epoch, Renewed: renewed})
	if err != nil {
		return
	}
	if _, _, err := s.send(ctx, f); err != nil {
		s.log.Info("cluster: could not resign the session; others wait for the lease", zap.Error(err))
	}
}

// Lost returns a channel that is closed when the present right to act ends;
// closed already where there is none.
func (s *session) Lost() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// Until returns the end of the right to act; the zero time where it is over.
func (s *session) Until() time.Time {
	until := time.Duration(s.until.Load())
	if until == 0 {
		return time.Time{}
	}
	left := until - s.now()
	if left <= 0 {
		return time.Time{}
	}
	return time.Now().Add(left)
}

// current returns the epoch under which the node may act now, or 0.
func (s *session) current() uint64 {
	if time.Duration(s.until.Load()) <= s.now() {
		return 0
	}
	return s.epoch.Load()
}

func newNonce() string {
	var b [12]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// registered reports whether the cluster takes this node for alive, though it
// may not have caught up yet.
func (s *session) registered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.over
}
