package session

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster/clock"
	"relay/cluster/fault"
	"relay/cluster/propose"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/tuning"
)

// fakeCluster answers a session's commands.
type fakeCluster struct {
	index    atomic.Uint64
	mute     atomic.Bool // no answer until the caller gives up
	stale    atomic.Bool // renewals are refused
	bad      atomic.Bool // the disk takes no writes
	delay    atomic.Int64
	leaderAt atomic.Int64 // on now's clock: commands wait until then for a leader
	lossy    atomic.Bool  // the answer to the next Register is lost
	made     uint64       // the session that Register made
	now      func() time.Duration
	ended    atomic.Bool // the session was resigned
}

func (f *fakeCluster) send(ctx context.Context, frame spool.Frame, t *propose.Trip) (*pb.Result, time.Duration, error) {
	if frame.Kind() == spool.KindExpire {
		f.ended.Store(true)
	}
	if f.mute.Load() {
		<-ctx.Done()
		return nil, 0, fault.ErrUnknown
	}
	clock.Sleep(ctx, time.Duration(f.leaderAt.Load())-f.now())
	sent := f.now()
	if t != nil {
		t.Began.Store(int64(sent))
	}
	clock.Sleep(ctx, time.Duration(f.delay.Load())) // in a bubble: the fake clock
	if ctx.Err() != nil {
		return nil, 0, fault.ErrUnknown
	}
	i := f.index.Add(1)
	if frame.Kind() == spool.KindRenew && f.stale.Load() {
		return &pb.Result{Code: pb.Code_STALE, Index: i}, sent, nil
	}
	if frame.Kind() == spool.KindRegister && f.lossy.Swap(false) {
		f.made = i
		return nil, 0, fault.ErrUnknown
	}
	if f.made != 0 && frame.Kind() == spool.KindRegister {
		return &pb.Result{Code: pb.Code_DUPLICATE, Index: i, Epoch: f.made}, sent, nil
	}
	return &pb.Result{Index: i, Epoch: i}, sent, nil
}

// noLeader lets commands wait for a leader from now on for d.
func (f *fakeCluster) noLeader(d time.Duration) { f.leaderAt.Store(int64(f.now() + d)) }

// inSession runs a session in a bubble of fake time, in both cluster versions:
// lease 4 s, margin 1 s.
func inSession(t *testing.T, fn func(s *Session, f *fakeCluster, applied *atomic.Uint64)) {
	for version, leased := range []bool{false, true} {
		t.Run(fmt.Sprintf("version %d", version+1), func(t *testing.T) {
			inSessionOf(t, func() bool { return leased }, fn)
		})
	}
}

func inSessionOf(t *testing.T, leased func() bool, fn func(s *Session, f *fakeCluster, applied *atomic.Uint64)) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		f := &fakeCluster{}
		f.delay.Store(int64(10 * time.Millisecond))
		var applied atomic.Uint64
		applied.Store(1 << 40)
		s := New(tuning.Tuning{}.WithDefaults())
		s.Leased = leased
		s.Log, s.Member = zap.NewNop(), &pb.Member{Id: "n1"}
		s.Now = func() time.Duration { return time.Since(began) + time.Hour }
		f.now = s.Now
		s.Send, s.Behind = f.send, applied.Load
		s.Prober = NewProber(func() error {
			if f.bad.Load() {
				return errors.New("no space")
			}
			return nil
		}, s.renew, s.Now)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.Run(ctx)
		}()
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		fn(s, f, &applied)
		cancel()
		<-done
	})
}

func lost(s *Session) bool {
	select {
	case <-s.Lost():
		return true
	default:
		return false
	}
}

func TestSessionIsRenewed(t *testing.T) {
	inSession(t, func(s *Session, f *fakeCluster, _ *atomic.Uint64) {
		epoch := s.Current()
		require.Equal(t, uint64(1), epoch)
		for range 20 {
			time.Sleep(time.Second)
			require.Equal(t, epoch, s.Current())
			left := time.Until(s.Until())
			require.Greater(t, left, 1900*time.Millisecond)
			require.LessOrEqual(t, left, 3*time.Second, "counted from before the renewal was sent")
			require.False(t, lost(s))
		}
	})
}

// TestRenewalThatWaitedForALeader: the lease counts from when the leader that answered
// was asked, not from when the renewal began to wait for one.
func TestRenewalThatWaitedForALeader(t *testing.T) {
	inSession(t, func(s *Session, f *fakeCluster, _ *atomic.Uint64) {
		f.noLeader(900*time.Millisecond + 1900*time.Millisecond)
		epoch := s.Current()
		time.Sleep(900*time.Millisecond + 1900*time.Millisecond + 50*time.Millisecond)
		require.Equal(t, epoch, s.Current())
		require.Greater(t, time.Until(s.Until()), 2900*time.Millisecond)
		f.noLeader(2850 * time.Millisecond)
		time.Sleep(2900 * time.Millisecond)
		require.Equal(t, epoch, s.Current(), "two elections in a row")
		require.False(t, lost(s))
	})
}

// TestRegistrationWithALostAnswer: the others count the lease from when the
// first attempt was applied, so this side must count from before it, too.
func TestRegistrationWithALostAnswer(t *testing.T) {
	inSession(t, func(s *Session, f *fakeCluster, _ *atomic.Uint64) {
		f.stale.Store(true)
		<-s.Lost()
		f.stale.Store(false)
		f.lossy.Store(true)
		first := time.Now()
		f.noLeader(time.Second)
		time.Sleep(1500 * time.Millisecond)
		require.NotZero(t, s.Current())
		require.WithinDuration(t, first.Add(3*time.Second), s.Until(), 50*time.Millisecond)
	})
}

func TestSessionEndsByItself(t *testing.T) {
	inSession(t, func(s *Session, f *fakeCluster, _ *atomic.Uint64) {
		gone := s.Lost()
		f.mute.Store(true)
		until := s.Until()
		<-gone
		require.WithinDuration(t, until, time.Now(), time.Second+50*time.Millisecond)
		require.False(t, time.Now().Before(until))
		require.True(t, s.Until().IsZero())
		require.Zero(t, s.Current())
		require.True(t, lost(s))
	})
}

func TestSessionComesBackUnderANewEpoch(t *testing.T) {
	inSession(t, func(s *Session, f *fakeCluster, _ *atomic.Uint64) {
		first, gone := s.Current(), s.Lost()
		f.stale.Store(true)
		<-gone
		f.stale.Store(false)
		time.Sleep(time.Second)
		require.Greater(t, s.Current(), first)
		require.False(t, lost(s), "a new channel for the new session")
	})
}

func TestSessionIsNotKeptByASickDisk(t *testing.T) {
	inSession(t, func(s *Session, f *fakeCluster, _ *atomic.Uint64) {
		gone := s.Lost()
		f.bad.Store(true)
		before := f.index.Load()
		<-gone
		require.LessOrEqual(t, f.index.Load(), before+1, "no renewal without a write")
		time.Sleep(10 * time.Second)
		require.True(t, lost(s))
		f.bad.Store(false)
		time.Sleep(3 * time.Second)
		require.NotZero(t, s.Current())
	})
}

func TestSessionWaitsUntilItsRegistrationIsAppliedHere(t *testing.T) {
	inSession(t, func(s *Session, f *fakeCluster, applied *atomic.Uint64) {
		gone := s.Lost()
		applied.Store(0)
		f.stale.Store(true)
		<-gone
		f.stale.Store(false)
		time.Sleep(20 * time.Second) // renewed all the time, but behind
		require.True(t, s.Registered())
		require.Zero(t, s.Current())
		require.True(t, s.Until().IsZero())
		applied.Store(1 << 40)
		time.Sleep(100 * time.Millisecond)
		require.NotZero(t, s.Current())
		require.False(t, s.Until().IsZero())
	})
}

func TestSlowAnswerMakesNoSession(t *testing.T) {
	inSession(t, func(s *Session, f *fakeCluster, _ *atomic.Uint64) {
		gone := s.Lost()
		f.delay.Store(int64(3500 * time.Millisecond)) // longer than the lease
		<-gone
		time.Sleep(30 * time.Second)
		require.Zero(t, s.Current())
		f.delay.Store(0)
		time.Sleep(5 * time.Second)
		require.NotZero(t, s.Current())
	})
}

func TestResignTellsTheOthers(t *testing.T) {
	inSession(t, func(s *Session, f *fakeCluster, _ *atomic.Uint64) {
		gone := s.Lost()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		s.Resign(ctx)
		<-gone
		require.True(t, f.ended.Load())
	})
}
