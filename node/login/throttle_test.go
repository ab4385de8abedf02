package login

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster"
	"relay/pop3"
)

func newTestThrottle(w *world, node string) *Throttle {
	return NewThrottle(3, w, node, nil, NewFamiliar(), zap.NewNop())
}

// fail counts a failure.
func fail(t *Throttle, from netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.countFailure(&pendingLogin{from: from, account: "alice@example.test"}, time.Now())
}

func TestThrottleIsShared(t *testing.T) {
	w := newWorld(t)
	w.Clock = time.Now()
	one, two := newTestThrottle(w, "n1"), newTestThrottle(w, "n2")
	bad, same, other := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"),
		netip.MustParseAddr("2001:db8:1::1")
	for range 5 {
		fail(one, bad)
	}
	penalty := func(of *Throttle, a netip.Addr) time.Duration {
		n, err := of.Count(Network(a).String())
		require.NoError(t, err)
		return time.Duration(max(0, n-of.free)) * of.delay
	}
	require.Equal(t, 2*time.Second, penalty(one, bad), "known at once where it happened")
	require.Zero(t, penalty(two, bad))
	frames := len(w.Frames)
	require.NoError(t, one.report(t.Context()))
	require.NoError(t, one.report(t.Context()))
	require.Len(t, w.Frames, frames+1, "one command for all, none for nothing")
	require.Equal(t, 2*time.Second, penalty(one, bad))
	require.Equal(t, 2*time.Second, penalty(two, same))
	require.Zero(t, penalty(two, other))

	for range 9 {
		fail(two, same)
	}
	require.NoError(t, two.report(t.Context()))
	require.ErrorIs(t, one.Begin(t.Context(), "s", bad, "alice"), pop3.ErrThrottled)
}

// Those of trusted networks are exempt, and no others.
func TestThrottleExemptsTheTrusted(t *testing.T) {
	one := newTestThrottle(newWorld(t), "n1")
	one.exempt = func(a netip.Addr) bool { return a.Unmap() == netip.MustParseAddr("127.0.0.1") }
	for range 100 {
		require.NoError(t, one.Begin(t.Context(), "s", netip.MustParseAddr("::ffff:127.0.0.1"), "alice"))
		one.Failed("s")
	}
	require.Empty(t, one.pending)
	for range 3 {
		require.NoError(t, one.Begin(t.Context(), "s", netip.MustParseAddr("127.0.0.9"), "alice"))
		one.Failed("s")
	}
	require.NotEmpty(t, one.pending)
}

// Guesses at once are no better than guesses one after the other.
func TestParallelGuessesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Clock = time.Now()
		one := newTestThrottle(w, "n1")
		var judged, refused, now atomic.Int64
		var over atomic.Bool
		var all sync.WaitGroup
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		for i := range 150 {
			all.Go(func() {
				session := fmt.Sprint(i)
				if one.Begin(ctx, session, netip.MustParseAddr("192.0.2.1"), fmt.Sprint("user", i)) != nil {
					refused.Add(1)
					return
				}
				if now.Add(1) > 3 {
					over.Store(true)
				}
				time.Sleep(50 * time.Millisecond) // argon2
				judged.Add(1)
				now.Add(-1)
				one.Failed(session)
			})
		}
		all.Wait()
		require.EqualValues(t, 14, judged.Load(), "three free ones, then later and later")
		require.EqualValues(t, 136, refused.Load())
		require.False(t, over.Load(), "three at once")
	})
}

// Many users behind one address get in, all at once.
func TestManyLoginsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Clock = time.Now()
		one := newTestThrottle(w, "n1")
		var in atomic.Int64
		var all sync.WaitGroup
		began := time.Now()
		for i := range 150 {
			all.Go(func() {
				session := fmt.Sprint(i)
				if one.Begin(t.Context(), session, netip.MustParseAddr("192.0.2.1"), fmt.Sprint("user", i)) == nil {
					time.Sleep(50 * time.Millisecond)
					one.Succeeded(session)
					in.Add(1)
				}
			})
		}
		all.Wait()
		require.EqualValues(t, 150, in.Load())
		require.Less(t, time.Since(began), 3*time.Second)
		require.Empty(t, one.lines)
		require.Empty(t, one.open)
	})
}

// A client that has an account can not use it to guess at others.
func TestSuccessForgivesItsOwnAccount(t *testing.T) {
	w := newWorld(t)
	w.Clock = time.Now()
	one := newTestThrottle(w, "n1")
	from := netip.MustParseAddr("192.0.2.1")
	try := func(user string, end func(string)) {
		require.NoError(t, one.Begin(t.Context(), "s", from, user))
		end("s")
	}
	count := func() int {
		n, err := one.Count(Network(from).String())
		require.NoError(t, err)
		return n
	}
	try("alice", one.Failed)
	try("victim", one.Failed)
	try("alice@example.test", one.Failed)
	require.Equal(t, 3, count())
	try("alice", one.Succeeded)
	require.Equal(t, 1, count())
	require.NoError(t, one.report(t.Context()))
	require.Equal(t, 1, count())
	try("alice", one.Succeeded)
	require.Equal(t, 1, count())
}

// An account at which many networks guess answers them slowly, but not those from
// which it has logged in.
func TestGuessesFromManyNetworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Clock = time.Now()
		one, two := newTestThrottle(w, "n1"), newTestThrottle(w, "n2")
		two.known.Others = func(_ context.Context, key []byte) bool { return one.known.Has(key) }
		home := netip.MustParseAddr("203.0.113.5")
		try := func(at *Throttle, from netip.Addr, user string, end func(string)) time.Duration {
			t.Helper()
			began := time.Now()
			require.NoError(t, at.Begin(t.Context(), "s", from, user))
			end("s")
			return time.Since(began)
		}
		require.Zero(t, try(one, home, "alice", one.Succeeded))
		for i := range 25 {
			d := try(one, netip.AddrFrom4([4]byte{10, 0, byte(i), 1}), "alice", one.Failed)
			require.Equal(t, time.Duration(max(0, i-accountFree))*time.Second, d)
		}
		require.NoError(t, one.report(t.Context()))
		neighbour := netip.MustParseAddr("203.0.113.77")
		require.Zero(t, try(one, home, "alice", one.Failed))
		require.Zero(t, try(one, neighbour, "alice", one.Succeeded))
		require.Zero(t, try(two, home, "alice", two.Succeeded), "where it has logged in at another node")
		require.Equal(t, 5*time.Second, try(two, netip.MustParseAddr("198.51.100.1"), "alice", two.Failed), "all nodes count")
		require.Zero(t, try(one, netip.MustParseAddr("198.51.100.2"), "bob", one.Failed), "another account")
	})
}

// A client that begins a dialogue and does not go on keeps nobody waiting for ever,
// and is counted.
func TestAttemptThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Clock = time.Now()
		one := newTestThrottle(w, "n1")
		from := netip.MustParseAddr("192.0.2.1")
		for i := range 3 {
			require.NoError(t, one.Begin(t.Context(), fmt.Sprint("hangs", i), from, "alice"))
		}
		began := time.Now()
		require.NoError(t, one.Begin(t.Context(), "s", from, "bob"))
		require.Equal(t, judgeWithin, time.Since(began))
		one.Succeeded("hangs0") // late, but it is alice
		n, err := one.Count(Network(from).String())
		require.NoError(t, err)
		require.Zero(t, n)
	})
}

func TestThrottleTellsAgain(t *testing.T) {
	w := newWorld(t)
	w.Clock = time.Now()
	one := newTestThrottle(w, "n1")
	bad := netip.MustParseAddr("192.0.2.7")
	fail(one, bad)
	w.Fail = cluster.ErrUnavailable
	require.Error(t, one.report(t.Context()))
	fail(one, bad)
	w.Fail = nil
	require.NoError(t, one.report(t.Context()))
	n, err := newTestThrottle(w, "n2").Count(Network(bad).String())
	require.NoError(t, err)
	require.Equal(t, 2, n)
	w.Fail = cluster.ErrUnknown
	fail(one, bad)
	require.Error(t, one.report(t.Context()))
	require.Empty(t, one.pending, "perhaps it was counted")
}

func TestThrottleRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Clock = time.Now()
		one := newTestThrottle(w, "n1")
		go func() { _ = one.Run(t.Context()) }()
		proposed := func() int {
			w.Mu.Lock()
			defer w.Mu.Unlock()
			return len(w.Frames)
		}
		frames := proposed()
		for range 50 {
			fail(one, netip.MustParseAddr("192.0.2.7"))
			time.Sleep(100 * time.Millisecond)
		}
		require.InDelta(t, 5, proposed()-frames, 1, "about one a second")
	})
}
