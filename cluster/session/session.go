package session

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"relay/cluster/clock"
	"relay/cluster/propose"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/tuning"
)

// Session is this node's right to act. It is had by registering, kept by
// renewing through the log, and counted from before each renewal was sent, on
// a clock that also counts suspends: whatever happens to this node, it stops
// by itself before the leader may give its work to others. The lease counts from the
// attempt that was answered: a renewal that waited for an election counts from when it
// was sent to the new leader.
//
// A renewal is sent on schedule, whether those before it were answered or not:
// an answer may take as long as the lease less one interval and the margin.
//
// A goroutine of its own writes and syncs the promise each second; a renewal goes out
// only if a write that began in the last two seconds (or three times as long as it
// took) has ended well. The lease counts from before the attempt that was answered was
// sent, on CLOCK_BOOTTIME; for a registration whose first answer was lost, from its
// first attempt. A timer ends the right even where the session's goroutine hangs in a
// sync. A graceful stop resigns the session: nobody waits.
type Session struct {
	lease time.Duration // of renewals of cluster version 1, and of the leader's own where a record says none
	renew time.Duration // from one renewal to the next
	Ports

	until atomic.Int64  // end of the right to act, on now's clock; 0: none
	epoch atomic.Uint64 // 0: none, or not yet caught up with it
	way   atomic.Int64  // of the last renewal to the leader, about: a time.Duration

	mu      sync.Mutex
	lost    chan struct{} // closed when the right ends
	over    bool          // lost is closed
	held    uint64        // epoch registered, caught up or not
	renewed uint64        // index of the last renewal
	end     time.Duration // end of the lease, caught up or not
	timer   *time.Timer   // fires at the end
	leases  leases
	sent    []*renewal // under way, from the oldest on
}

// Ports is what a session needs of its node. They are set before it runs.
type Ports struct {
	Log    *zap.Logger
	Now    func() time.Duration // a clock that counts suspends
	Recent func() time.Duration // now at less cost, see clock.Clocks; nil: now
	Leased func() bool          // renewals say their lease and their number: cluster version 2
	// send proposes a command; it also tells when the attempt that was answered
	// was sent, on now's clock.
	Send   func(context.Context, spool.Frame, *propose.Trip) (*pb.Result, time.Duration, error)
	Prober *prober       // proves that our own disk still takes writes
	Behind func() uint64 // index applied here
	Wall   func() int64  // this node's wall clock in Unix milliseconds, for the others; nil or 0: no report
	Says   func() []byte // what renewals tell of the CA; nil: nothing
	Barred func() string // why there must be no session; nil or empty: there may
	Anchor func() (index, sum uint64)
	Member *pb.Member
	Claims claimant                   // nil: registrations are of cluster version 1
	Place  func() (term, last uint64) // how far our log goes; nil, or term 0: not told
}

// claimant prepares registrations as cluster version 2 wants them, and takes the
// answers.
type claimant interface {
	// Prepare makes a Register ready to be sent.
	Prepare(context.Context, *pb.Register) error
	// Busy takes the answer that the node's id has a session, and waits until it is worth asking again.
	Busy(context.Context, *pb.Result)
	// Stale takes the answer that this start must not go on, and waits for the end.
	Stale(context.Context, *pb.Result)
	// Settled takes the answer that a registration was taken.
	Settled(nonce string, epoch uint64)
}

// renewal is a Renew under way.
type renewal struct {
	lease
	numbered bool // its seq is its number: copies do no harm
	epoch    uint64
	frame    spool.Frame
	trip     propose.Trip
}

// maxRenewals is how many renewals may be under way at once. In cluster version
// 1 it is one: a late copy would look like a sign of life.
const maxRenewals = 8

// New makes a session that has not begun; its ports are set before it runs.
func New(t tuning.Tuning) *Session {
	s := &Session{lost: make(chan struct{}), over: true, lease: t.Lease, renew: t.Renew, leases: newLeases(t)}
	close(s.lost)
	return s
}

// Run registers and renews until ctx ends.
func (s *Session) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.Prober.run(ctx) })
	s.Prober.wait(ctx)
	for ctx.Err() == nil {
		if !s.register(ctx) {
			continue
		}
		s.keep(ctx)
	}
}

// register gets a new session. It retries one nonce until it has an answer, so
// that an answer lost on the way does not make two sessions.
func (s *Session) register(ctx context.Context) bool {
	h := &pb.Register{Nonce: NewNonce(), Member: s.Member}
	hold := s.lease
	if s.Leased() {
		hold = s.wanted()
		h.LeaseMs = hold.Milliseconds()
	}
	var first time.Duration // when this nonce was sent first
	for ctx.Err() == nil {
		if s.Barred != nil && s.Barred() != "" {
			clock.Sleep(ctx, s.renew)
			continue
		}
		if err := s.Prober.ok(); err != nil {
			s.Log.Error("cluster: no session before a write to the data directory ends well", zap.Error(err))
			clock.Sleep(ctx, s.renew)
			continue
		}
		f, err := s.request(ctx, h)
		if err != nil {
			s.Log.Error("cluster: the registration can't be made", zap.Error(err))
			clock.Sleep(ctx, s.renew)
			continue
		}
		if first == 0 {
			first = s.Now()
		}
		res, sent, err := s.Send(ctx, f, nil)
		switch {
		case err != nil:
			s.Log.Debug("cluster: no session yet", zap.Error(err))
			clock.Sleep(ctx, s.renew/4)
		case res.Code == pb.Code_OK:
			s.settled(h.Nonce, res.Epoch)
			return s.begin(res.Epoch, res.Index, sent, hold)
		case res.Code == pb.Code_DUPLICATE:
			// An earlier attempt made the session, and the others count from then.
			s.settled(h.Nonce, res.Epoch)
			return s.begin(res.Epoch, res.Epoch, first, hold)
		case res.Code == pb.Code_BUSY && s.Claims != nil:
			first = sent
			s.Claims.Busy(ctx, res)
		case res.Code == pb.Code_STALE && s.Claims != nil:
			s.Claims.Stale(ctx, res)
		default:
			s.Log.Error("cluster: registration refused", zap.Stringer("code", res.Code), zap.String("text", res.Text))
			clock.Sleep(ctx, s.renew)
			return false
		}
	}
	return false
}

func (s *Session) settled(nonce string, epoch uint64) {
	if s.Claims != nil {
		s.Claims.Settled(nonce, epoch)
	}
}

// request makes the frame of a registration.
func (s *Session) request(ctx context.Context, h *pb.Register) (spool.Frame, error) {
	if s.Claims != nil {
		if err := s.Claims.Prepare(ctx, h); err != nil {
			return nil, err
		}
	}
	h.WallMs = s.report()
	return spool.Encode(spool.KindRegister, h)
}

// report is what this node's wall clock will say when a frame that is made now
// is applied.
func (s *Session) report() int64 {
	if s.Wall == nil {
		return 0
	}
	ms := s.Wall()
	if ms != 0 {
		ms += time.Duration(s.way.Load()).Milliseconds()
	}
	return ms
}

// wanted is the lease that fits what answers took lately.
func (s *Session) wanted() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leases.want(s.Now(), 0)
}

// keep renews until the session is over.
func (s *Session) keep(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	lost := s.Lost()
	due := func() time.Duration { return s.Now() + tuning.NextBeat(time.Now(), s.renew) }
	for next := due(); s.rest(ctx, lost, next); next = due() {
		r, err := s.prepare()
		if err != nil {
			s.Log.Error("cluster: the session is not renewed", zap.Error(err))
		}
		if r != nil {
			wg.Go(func() { s.renewal(ctx, r) })
		}
	}
}

// rest waits until the next renewal is due, and meanwhile for the node to catch
// up; false means that the session is over, or ctx.
func (s *Session) rest(ctx context.Context, lost <-chan struct{}, next time.Duration) bool {
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		left := next - s.Now()
		if s.catchUp(); s.epoch.Load() == 0 {
			left = min(left, 20*time.Millisecond)
		}
		wait.Reset(max(left, 0))
		select {
		case <-wait.C:
		case <-lost:
			return false
		case <-ctx.Done():
			return false
		}
		if s.Now() >= next {
			return true
		}
	}
}

// prepare makes the next renewal; nil where so many are under way that another
// one is of no use, or where the session is over.
func (s *Session) prepare() (*renewal, error) {
	if err := s.Prober.ok(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now, leased, most := s.Now(), s.Leased(), 1
	if leased {
		most = maxRenewals
	}
	if s.over || s.end <= now || len(s.sent) >= most {
		return nil, nil
	}
	r := &renewal{epoch: s.held, numbered: leased}
	h := &pb.Renew{Node: s.Member.Id, Epoch: r.epoch, WallMs: s.report()}
	if leased {
		r.lease = s.leases.next(now, s.waiting(now))
		h.Seq, h.LeaseMs = r.num, r.hold.Milliseconds()
		if s.Says != nil {
			h.Ca = s.Says()
		}
		if s.Place != nil {
			h.Term, h.Last = s.Place()
		}
	} else {
		r.lease = s.leases.fixed(now, s.lease)
	}
	if s.Anchor != nil {
		h.SumIndex, h.Sum = s.Anchor()
	}
	var err error
	if r.frame, err = spool.Encode(spool.KindRenew, h); err != nil {
		return nil, err
	}
	s.sent = append(s.sent, r)
	return r, nil
}

// waiting is how long the oldest renewal under way has waited for its answer,
// without the time in which there was no leader. The caller holds the mutex.
func (s *Session) waiting(now time.Duration) (longest time.Duration) {
	for _, r := range s.sent {
		if began := time.Duration(r.trip.Began.Load()); began != 0 {
			longest = max(longest, now-began)
		}
	}
	return longest
}

// renewal sends one renewal and takes its answer.
func (s *Session) renewal(ctx context.Context, r *renewal) {
	defer s.arrived(r)
	res, sent, err := s.deliver(ctx, r)
	switch {
	case ctx.Err() != nil && err != nil: // the session is over
	case err != nil:
		s.Log.Warn("cluster: the session could not be renewed", zap.Uint64("epoch", r.epoch), zap.Error(err))
	case res.Code == pb.Code_OK:
		s.extend(r, res.Index, sent, sent)
	case res.Code == pb.Code_DUPLICATE:
		// It, or a newer one, was applied at some time after it was sent first.
		s.extend(r, res.Renewed, r.sent, sent)
	default:
		s.finish(r.epoch, res.Text)
	}
}

// deliver sends a renewal on one link of the leader, and a copy on the other one
// if there is no answer soon: on a bad link each of them stands still at times.
// The first answer counts.
func (s *Session) deliver(ctx context.Context, r *renewal) (*pb.Result, time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	type answer struct {
		res  *pb.Result
		sent time.Duration
		err  error
	}
	answers := make(chan answer, 2)
	send := func(f spool.Frame, t *propose.Trip) {
		wg.Go(func() {
			res, sent, err := s.Send(ctx, f, t)
			answers <- answer{res, sent, err}
		})
	}
	var late <-chan time.Time
	if r.numbered {
		t := time.NewTimer(s.renew / 4)
		defer t.Stop()
		late = t.C
	}
	again := slices.Clone(r.frame) // the batcher stamps the first one
	send(r.frame, &r.trip)
	var a answer
	for sent := 1; sent > 0; {
		select {
		case a = <-answers:
			if sent--; a.err == nil {
				return a.res, a.sent, nil
			}
		case <-late:
			send(again, &propose.Trip{Bulk: true})
			sent++
		}
	}
	return nil, 0, a.err
}

// arrived takes a renewal out of those under way.
func (s *Session) arrived(r *renewal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = slices.DeleteFunc(s.sent, func(o *renewal) bool { return o == r })
}

// begin starts a session that was registered at sent for hold.
func (s *Session) begin(epoch, index uint64, sent, hold time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := s.leases.begin(sent, hold)
	left := end - s.Now()
	if left <= 0 {
		return false // the answer took longer than the lease
	}
	if s.over {
		s.lost, s.over = make(chan struct{}), false
	}
	s.held, s.renewed, s.end = epoch, index, end
	s.timer = time.AfterFunc(left, func() { s.check(epoch) })
	s.Log.Info("cluster: session begins", zap.Uint64("epoch", epoch))
	return true
}

// extend takes an answer to a renewal that holds from an instant on. began is
// when the attempt was sent that was answered.
func (s *Session) extend(r *renewal, index uint64, from, began time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.Now()
	s.leases.slow(now, now-began)
	s.way.Store(int64(min((now-began)/2, time.Second)))
	if s.held != r.epoch || s.over {
		return
	}
	s.end, s.renewed = max(s.end, s.leases.answered(r.num, from)), max(s.renewed, index)
	if s.epoch.Load() == r.epoch {
		s.until.Store(int64(s.end))
	}
	s.timer.Reset(max(s.end-now, 0))
}

// catchUp lets the node act once it has applied its own registration: before
// that, what it sees may be older than its rights.
func (s *Session) catchUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.epoch.Load() == s.held || s.Behind() < s.held {
		return
	}
	s.until.Store(int64(s.end))
	s.epoch.Store(s.held)
}

// check runs when the lease should be over.
func (s *Session) check(epoch uint64) {
	s.mu.Lock()
	left := s.end - s.Now()
	if s.held == epoch && !s.over && left > 0 {
		s.timer.Reset(left)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.finish(epoch, "it could not be renewed in time")
}

// finish ends a session's right to act. It returns false.
func (s *Session) finish(epoch uint64, why string) bool {
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
	s.Log.Warn("cluster: session is over", zap.Uint64("epoch", epoch), zap.String("why", why))
	return false
}

// Resign ends the session at this side and tells the others, so that they
// need not wait for the lease to run out.
func (s *Session) Resign(ctx context.Context) { s.Stop(ctx, "the node stops") }

// Stop ends the session as resign does, for any reason.
func (s *Session) Stop(ctx context.Context, why string) {
	s.mu.Lock()
	epoch, renewed := s.held, s.renewed
	s.mu.Unlock()
	if epoch == 0 {
		return
	}
	s.finish(epoch, why)
	res, err := s.expire(ctx, epoch, renewed)
	if err == nil && res.Code == pb.Code_STALE && res.Epoch == epoch {
		// A renewal that was under way came first.
		_, err = s.expire(ctx, epoch, res.Renewed)
	}
	if err != nil {
		s.Log.Info("cluster: could not resign the session; others wait for the lease", zap.Error(err))
	}
}

func (s *Session) expire(ctx context.Context, epoch, renewed uint64) (*pb.Result, error) {
	f, err := spool.Encode(spool.KindExpire, &pb.Expire{Node: s.Member.Id, Epoch: epoch, Renewed: renewed})
	if err != nil {
		return nil, err
	}
	res, _, err := s.Send(ctx, f, nil)
	return res, err
}

// Lost returns a channel that is closed when the present right to act ends;
// closed already where there is none.
func (s *Session) Lost() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// Until returns the end of the right to act; the zero time where it is over.
func (s *Session) Until() time.Time {
	until := time.Duration(s.until.Load())
	if until == 0 {
		return time.Time{}
	}
	left := until - s.about()
	if left <= 0 {
		return time.Time{}
	}
	return time.Now().Add(left)
}

// about is now for those who ask for each message.
func (s *Session) about() time.Duration {
	if s.Recent != nil {
		return s.Recent()
	}
	return s.Now()
}

// Current returns the epoch under which the node may act now, or 0.
func (s *Session) Current() uint64 {
	if time.Duration(s.until.Load()) <= s.about() {
		return 0
	}
	return s.epoch.Load()
}

// NewNonce makes a random name.
func NewNonce() string {
	var b [12]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Registered reports whether the cluster takes this node for alive, though it
// may not have caught up yet.
func (s *Session) Registered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.over
}
