package node

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

func newTestThrottle(w *dropWorld, node string) *throttle {
	return newThrottle(3, w, node, nil, newFamiliar(), zap.NewNop())
}

// guess counts a failure.
func guess(t *throttle, from netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mistake(&loginTry{from: from, account: "alice@example.test"}, time.Now())
}

func TestThrottleIsShared(t *testing.T) {
	w := newDropWorld(t)
	w.clock = time.Now()
	one, two := newTestThrottle(w, "n1"), newTestThrottle(w, "n2")
	bad, same, other := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"),
		netip.MustParseAddr("2001:db8:1::1")
	for range 5 {
		guess(one, bad)
	}
	penalty := func(of *throttle, a netip.Addr) time.Duration {
		n, err := of.count(network(a).String())
		require.NoError(t, err)
		return time.Duration(max(0, n-of.free)) * of.delay
	}
	require.Equal(t, 2*time.Second, penalty(one, bad), "known at once where it happened")
	require.Zero(t, penalty(two, bad))
	frames := len(w.frames)
	require.NoError(t, one.tell(t.Context()))
	require.NoError(t, one.tell(t.Context()))
	require.Len(t, w.frames, frames+1, "one command for all, none for nothing")
	require.Equal(t, 2*time.Second, penalty(one, bad))
	require.Equal(t, 2*time.Second, penalty(two, same))
	require.Zero(t, penalty(two, other))

	for range 9 {
		guess(two, same)
	}
	require.NoError(t, two.tell(t.Context()))
	require.ErrorIs(t, one.begin(t.Context(), "s", bad, "alice"), pop3.ErrThrottled)
}

// Those of trusted networks are exempt, and no others.
func TestThrottleExemptsTheTrusted(t *testing.T) {
	one := newTestThrottle(newDropWorld(t), "n1")
	one.exempt = func(a netip.Addr) bool { return a.Unmap() == netip.MustParseAddr("127.0.0.1") }
	for range 100 {
		require.NoError(t, one.begin(t.Context(), "s", netip.MustParseAddr("::ffff:127.0.0.1"), "alice"))
		one.failed("s")
	}
	require.Empty(t, one.untold)
	for range 3 {
		require.NoError(t, one.begin(t.Context(), "s", netip.MustParseAddr("127.0.0.9"), "alice"))
		one.failed("s")
	}
	require.NotEmpty(t, one.untold)
}

// Guesses at once are no better than guesses one after the other.
func TestParallelGuessesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newDropWorld(t)
		w.clock = time.Now()
		one := newTestThrottle(w, "n1")
		var judged, refused, now atomic.Int64
		var over atomic.Bool
		var all sync.WaitGroup
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		for i := range 150 {
			all.Go(func() {
				session := fmt.Sprint(i)
				if one.begin(ctx, session, netip.MustParseAddr("192.0.2.1"), fmt.Sprint("user", i)) != nil {
					refused.Add(1)
					return
				}
				if now.Add(1) > 3 {
					over.Store(true)
				}
				time.Sleep(50 * time.Millisecond) // argon2
				judged.Add(1)
				now.Add(-1)
				one.failed(session)
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
		w := newDropWorld(t)
		w.clock = time.Now()
		one := newTestThrottle(w, "n1")
		var in atomic.Int64
		var all sync.WaitGroup
		began := time.Now()
		for i := range 150 {
			all.Go(func() {
				session := fmt.Sprint(i)
				if one.begin(t.Context(), session, netip.MustParseAddr("192.0.2.1"), fmt.Sprint("user", i)) == nil {
					time.Sleep(50 * time.Millisecond)
					one.succeeded(session)
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

// Who has an account can not use it to guess at others.
func TestSuccessForgivesItsOwnAccount(t *testing.T) {
	w := newDropWorld(t)
	w.clock = time.Now()
	one := newTestThrottle(w, "n1")
	from := netip.MustParseAddr("192.0.2.1")
	try := func(user string, end func(string)) {
		require.NoError(t, one.begin(t.Context(), "s", from, user))
		end("s")
	}
	count := func() int {
		n, err := one.count(network(from).String())
		require.NoError(t, err)
		return n
	}
	try("alice", one.failed)
	try("victim", one.failed)
	try("alice@example.test", one.failed)
	require.Equal(t, 3, count())
	try("alice", one.succeeded)
	require.Equal(t, 1, count())
	require.NoError(t, one.tell(t.Context()))
	require.Equal(t, 1, count())
	try("alice", one.succeeded)
	require.Equal(t, 1, count())
}

// An account at which many networks guess answers them slowly, but not those from
// which it has logged in.
func TestGuessesFromManyNetworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newDropWorld(t)
		w.clock = time.Now()
		one, two := newTestThrottle(w, "n1"), newTestThrottle(w, "n2")
		two.known.others = func(_ context.Context, key []byte) bool { return one.known.has(key) }
		home := netip.MustParseAddr("203.0.113.5")
		try := func(at *throttle, from netip.Addr, user string, end func(string)) time.Duration {
			t.Helper()
			began := time.Now()
			require.NoError(t, at.begin(t.Context(), "s", from, user))
			end("s")
			return time.Since(began)
		}
		require.Zero(t, try(one, home, "alice", one.succeeded))
		for i := range 25 {
			d := try(one, netip.AddrFrom4([4]byte{10, 0, byte(i), 1}), "alice", one.failed)
			require.Equal(t, time.Duration(max(0, i-accountFree))*time.Second, d)
		}
		require.NoError(t, one.tell(t.Context()))
		neighbour := netip.MustParseAddr("203.0.113.77")
		require.Zero(t, try(one, home, "alice", one.failed))
		require.Zero(t, try(one, neighbour, "alice", one.succeeded))
		require.Zero(t, try(two, home, "alice", two.succeeded), "where it has logged in at another node")
		require.Equal(t, 5*time.Second, try(two, netip.MustParseAddr("198.51.100.1"), "alice", two.failed), "all nodes count")
		require.Zero(t, try(one, netip.MustParseAddr("198.51.100.2"), "bob", one.failed), "another account")
	})
}

// Who begins a dialogue and does not go on keeps nobody waiting for ever, and is
// counted.
func TestAttemptThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newDropWorld(t)
		w.clock = time.Now()
		one := newTestThrottle(w, "n1")
		from := netip.MustParseAddr("192.0.2.1")
		for i := range 3 {
			require.NoError(t, one.begin(t.Context(), fmt.Sprint("hangs", i), from, "alice"))
		}
		began := time.Now()
		require.NoError(t, one.begin(t.Context(), "s", from, "bob"))
		require.Equal(t, judgeWithin, time.Since(began))
		one.succeeded("hangs0") // late, but it is alice
		n, err := one.count(network(from).String())
		require.NoError(t, err)
		require.Zero(t, n)
	})
}

func TestThrottleTellsAgain(t *testing.T) {
	w := newDropWorld(t)
	w.clock = time.Now()
	one := newTestThrottle(w, "n1")
	bad := netip.MustParseAddr("192.0.2.7")
	guess(one, bad)
	w.fail = cluster.ErrUnavailable
	require.Error(t, one.tell(t.Context()))
	guess(one, bad)
	w.fail = nil
	require.NoError(t, one.tell(t.Context()))
	n, err := newTestThrottle(w, "n2").count(network(bad).String())
	require.NoError(t, err)
	require.Equal(t, 2, n)
	w.fail = cluster.ErrUnknown
	guess(one, bad)
	require.Error(t, one.tell(t.Context()))
	require.Empty(t, one.untold, "perhaps it was counted")
}

func TestThrottleRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newDropWorld(t)
		w.clock = time.Now()
		one := newTestThrottle(w, "n1")
		go func() { _ = one.run(t.Context()) }()
		proposed := func() int {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(w.frames)
		}
		frames := proposed()
		for range 50 {
			guess(one, netip.MustParseAddr("192.0.2.7"))
			time.Sleep(100 * time.Millisecond)
		}
		require.InDelta(t, 5, proposed()-frames, 1, "about one a second")
	})
}
