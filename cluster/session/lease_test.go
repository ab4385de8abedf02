package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"relay/cluster/clock"
	"relay/cluster/fault"
	"relay/cluster/liveness"
	"relay/cluster/propose"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/tuning"
)

// farCluster is a leader behind slow links: requests and answers take their
// time, overtake each other and get lost, and at times another one leads. It
// counts the lease as a leader does.
type farCluster struct {
	tuning tuning.Tuning
	now    func() time.Duration

	mu         sync.Mutex
	rand       *rand.Rand
	slow       [2]time.Duration // bounds of one way
	loss       float64
	elected    chan struct{} // closed when another leads
	index      uint64
	record     *pb.Session // nil: none
	seen       time.Duration
	mine       *Session
	violations []string
}

func (f *farCluster) way() (d time.Duration, lost bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.slow[0] + time.Duration(f.rand.Int64N(int64(f.slow[1]-f.slow[0])+1)), f.rand.Float64() < f.loss
}

// elect has another leader from now on.
func (f *farCluster) elect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.elected)
	f.elected = make(chan struct{})
}

func (f *farCluster) send(ctx context.Context, frame spool.Frame, t *propose.Trip) (*pb.Result, time.Duration, error) {
	for ctx.Err() == nil {
		f.mu.Lock()
		changed := f.elected
		f.mu.Unlock()
		began := f.now()
		if t != nil {
			t.Began.Store(int64(began))
		}
		answer := make(chan *pb.Result, 1)
		go f.carry(ctx, frame, answer)
		select {
		case res := <-answer:
			return res, began, nil
		case <-changed: // tried again, though the first attempt may yet be applied
		case <-ctx.Done():
		}
	}
	return nil, 0, fault.ErrUnknown
}

// carry takes one attempt there and its answer back. A frame on its way arrives
// even where its sender gave up.
func (f *farCluster) carry(ctx context.Context, frame spool.Frame, answer chan<- *pb.Result) {
	there, lost := f.way()
	time.Sleep(there)
	if lost {
		return
	}
	res := f.apply(frame)
	back, lost := f.way()
	clock.Sleep(ctx, back)
	if !lost && ctx.Err() == nil {
		answer <- res
	}
}

// apply does what the state machine does.
func (f *farCluster) apply(frame spool.Frame) *pb.Result {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index++
	d, err := spool.Decode(frame)
	if err != nil {
		panic(err)
	}
	switch h := d.Header.(type) {
	case *pb.Register:
		if f.record != nil && f.record.Nonce == h.Nonce {
			return &pb.Result{Code: pb.Code_DUPLICATE, Index: f.index, Epoch: f.record.Epoch}
		}
		f.record = &pb.Session{Nonce: h.Nonce, Epoch: f.index, Renewed: f.index, LeaseMs: h.LeaseMs}
	case *pb.Renew:
		switch {
		case f.record == nil || f.record.Epoch != h.Epoch:
			return &pb.Result{Code: pb.Code_STALE, Index: f.index}
		case h.Seq <= f.record.Seq:
			return &pb.Result{Code: pb.Code_DUPLICATE, Index: f.index, Epoch: h.Epoch, Renewed: f.record.Renewed}
		}
		f.record.Seq, f.record.LeaseMs, f.record.Renewed = h.Seq, h.LeaseMs, f.index
	}
	f.seen = f.now()
	f.check()
	return &pb.Result{Index: f.index, Epoch: f.record.Epoch}
}

// check compares the end of the owner's right with when the leader would act.
func (f *farCluster) check() {
	s := f.mine
	s.mu.Lock()
	held, end, over := s.held, s.end, s.over
	s.mu.Unlock()
	if f.record == nil || over || held != f.record.Epoch {
		return
	}
	hold := time.Duration(f.record.LeaseMs) * time.Millisecond
	margin := liveness.Margin(hold, f.tuning.Margin)
	if expiry := f.seen + hold + margin; end+2*margin > expiry {
		f.violations = append(f.violations,
			fmt.Sprintf("at %v: the owner acts until %v, the leader from %v on, margin %v", f.now(), end, expiry, margin))
	}
}

// TestOwnerStopsTwoMarginsBefore runs sessions behind random links, with slow and
// quick times in turns so that leases grow and shrink, and elections.
func TestOwnerStopsTwoMarginsBefore(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		latency := time.Duration(rapid.IntRange(0, 300).Draw(rt, "latency, ms")) * time.Millisecond
		seed := rapid.Uint64().Draw(rt, "seed")
		loss := float64(rapid.IntRange(0, 40).Draw(rt, "loss, %")) / 100
		var bad []string
		synctest.Test(t, func(t *testing.T) { bad = farSession(t, latency, seed, loss) })
		if len(bad) > 0 {
			rt.Fatalf("%d times, first %s", len(bad), bad[0])
		}
	})
}

func farSession(t *testing.T, latency time.Duration, seed uint64, loss float64) []string {
	began := time.Now()
	f := &farCluster{
		tuning: tuning.Tuning{Latency: latency}.WithDefaults(), rand: rand.New(rand.NewPCG(seed, 1)), loss: loss,
		elected: make(chan struct{}), now: func() time.Duration { return time.Since(began) + time.Hour },
	}
	s := New(f.tuning)
	f.mine = s
	s.Leased, s.Log, s.Member, s.Now = func() bool { return true }, zap.NewNop(), &pb.Member{Id: "n1"}, f.now
	s.Send, s.Behind = f.send, func() uint64 { return 1 << 40 }
	s.Prober = NewProber(func() error { return nil }, s.renew, s.Now)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	for range 40 {
		f.mu.Lock()
		low := time.Duration(f.rand.IntN(100)) * time.Millisecond
		f.slow = [2]time.Duration{low, low + time.Duration(f.rand.IntN(1400))*time.Millisecond}
		rest := time.Duration(f.rand.IntN(4000)) * time.Millisecond
		election := f.rand.IntN(3) == 0
		f.mu.Unlock()
		for ; rest > 0; rest -= 37 * time.Millisecond {
			time.Sleep(37 * time.Millisecond)
			f.mu.Lock()
			f.check()
			f.mu.Unlock()
		}
		if election {
			f.elect()
		}
	}
	cancel()
	<-done
	time.Sleep(time.Minute) // what is under way arrives
	return f.violations
}

// TestSlowAnswersKeepTheSession: an answer may take until just before the end.
func TestSlowAnswersKeepTheSession(t *testing.T) {
	inSessionOf(t, func() bool { return true }, func(s *Session, f *fakeCluster, _ *atomic.Uint64) {
		epoch := s.Current()
		f.delay.Store(int64(1900 * time.Millisecond))
		for range 60 {
			time.Sleep(time.Second)
			require.Equal(t, epoch, s.Current())
		}
		// By now leases have grown, and answers may take even longer.
		f.delay.Store(int64(2900 * time.Millisecond))
		for range 60 {
			time.Sleep(time.Second)
			require.Equal(t, epoch, s.Current())
		}
	})
}

// TestLeasesShrinkAgain a minute after the last slow answer, by no more than the
// time between two renewals.
func TestLeasesShrinkAgain(t *testing.T) {
	l := newLeases(tuning.Tuning{}.WithDefaults())
	now := time.Hour
	require.Equal(t, 4*time.Second, l.next(now, 0).hold)
	l.slow(now, 2*time.Second)
	long := l.next(now, 0)
	require.Equal(t, 10*time.Second, long.hold)
	require.Equal(t, 15*time.Second, l.next(now, time.Hour).hold, "no longer than that")
	for range 80 {
		now += time.Second
		one := l.next(now, 0)
		require.GreaterOrEqual(t, one.sent+one.hold, long.sent+long.hold)
		long = one
	}
	require.Equal(t, 4*time.Second, long.hold)
	require.Equal(t, 6*time.Second, newLeases(tuning.Tuning{Latency: 200 * time.Millisecond}.WithDefaults()).base)
}

// TestAnswersAreBelievedWithCare: an answer that counts from a late attempt is
// bounded by the renewals that were sent since, which may have been applied.
func TestAnswersAreBelievedWithCare(t *testing.T) {
	l := newLeases(tuning.Tuning{}.WithDefaults())
	l.slow(0, 2*time.Second)
	a := l.next(0, 0) // 10 s
	require.Equal(t, 10*time.Second, a.hold)
	l.answers = tuning.NewPeak(answerMemory) // as if a minute had passed
	b := l.next(4*time.Second, 0)            // 6 s
	require.Equal(t, 6*time.Second, b.hold)
	// a was sent again at 5 s, and applied; b may have been applied at 5 s, too.
	require.Equal(t, 5*time.Second+b.hold-liveness.Margin(a.hold, time.Second), l.answered(a.num, 5*time.Second))
	require.Zero(t, l.answered(a.num, 9*time.Second), "the answer to its copy")
	// The next one may not end before what was believed.
	c := l.next(5*time.Second, 0)
	require.GreaterOrEqual(t, c.sent+c.hold, 11*time.Second)
	require.NotZero(t, l.answered(c.num, 5*time.Second))
	require.Zero(t, l.answered(b.num, 6*time.Second), "a newer one was answered")
}

// TestAPauseIsNoFaultOfTheDisk: the process held still between two probes, and longer than
// a write may take. Until one has ended well there is no renewal, and nobody says that the
// disk hangs before the next one does.
func TestAPauseIsNoFaultOfTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var paused atomic.Int64
		now := func() time.Duration { return time.Since(began) + time.Hour + time.Duration(paused.Load()) }
		var hangs atomic.Int64
		p := NewProber(func() error {
			time.Sleep(100*time.Millisecond + time.Duration(hangs.Load()))
			return nil
		}, time.Second, now)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); p.run(ctx) }()
		p.wait(ctx)
		time.Sleep(3500 * time.Millisecond) // on top of the first 100 ms: between two probes
		require.NoError(t, p.ok())
		paused.Store(int64(12 * time.Second))
		require.ErrorIs(t, p.ok(), errStill)
		require.ErrorContains(t, p.ok(), "the last began 12.6s ago")
		time.Sleep(450 * time.Millisecond)
		require.ErrorIs(t, p.ok(), errStill, "the next one is under way")
		time.Sleep(100 * time.Millisecond)
		require.NoError(t, p.ok())
		hangs.Store(int64(time.Minute))
		time.Sleep(500 * time.Millisecond)
		paused.Add(int64(12 * time.Second))
		require.ErrorIs(t, p.ok(), errStill)
		time.Sleep(3 * time.Second)
		require.ErrorIs(t, p.ok(), errNoProbe, "the next one hangs")
		cancel()
		<-done
	})
}

func TestProbeThatHangsStopsRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		now := func() time.Duration { return time.Since(began) + time.Hour }
		release := make(chan struct{})
		var hang, fail atomic.Bool
		p := NewProber(func() error {
			if hang.Load() {
				<-release
			}
			if fail.Load() {
				return errors.New("no space")
			}
			time.Sleep(500 * time.Millisecond)
			return nil
		}, time.Second, now)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.run(ctx)
		}()
		p.wait(ctx)
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			require.NoError(t, p.ok())
		}
		fail.Store(true)
		time.Sleep(2 * time.Second)
		require.ErrorContains(t, p.ok(), "the data directory takes no writes: no space")
		fail.Store(false)
		time.Sleep(2 * time.Second)
		require.NoError(t, p.ok())
		hang.Store(true)
		time.Sleep(time.Second)
		require.NoError(t, p.ok(), "a probe that began a moment ago has ended")
		time.Sleep(2 * time.Second)
		require.ErrorIs(t, p.ok(), errNoProbe)
		close(release)
		cancel()
		<-done
	})
}
