package node

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster"
	"relay/pop3"
)

func newTestThrottle(w *dropWorld, node string) *throttle {
	return newThrottle(3, w, node, zap.NewNop())
}

func TestThrottleIsShared(t *testing.T) {
	w := newDropWorld(t)
	w.clock = time.Now()
	one, two := newTestThrottle(w, "n1"), newTestThrottle(w, "n2")
	bad, same, other := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8:1::1")
	for range 5 {
		one.failed(bad)
	}
	penalty := func(of *throttle, a netip.Addr) time.Duration {
		d, err := of.penalty(a)
		require.NoError(t, err)
		return d
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
		two.failed(same)
	}
	require.NoError(t, two.tell(t.Context()))
	require.ErrorIs(t, one.wait(t.Context(), bad), pop3.ErrThrottled)
	one.succeeded(bad)
	require.Zero(t, penalty(one, bad))
	one.failed(bad)
	require.NoError(t, one.tell(t.Context()))
	n, err := two.count(network(bad))
	require.NoError(t, err)
	require.Equal(t, 1, n)
}

func TestThrottleExemptsLoopback(t *testing.T) {
	one := newTestThrottle(newDropWorld(t), "n1")
	for _, a := range []string{"127.0.0.1", "::1", "::ffff:127.0.0.1"} {
		for range 100 {
			one.failed(netip.MustParseAddr(a))
		}
		require.NoError(t, one.wait(t.Context(), netip.MustParseAddr(a)))
	}
	require.Empty(t, one.untold)
}

func TestThrottleTellsAgain(t *testing.T) {
	w := newDropWorld(t)
	w.clock = time.Now()
	one := newTestThrottle(w, "n1")
	bad := netip.MustParseAddr("192.0.2.7")
	one.failed(bad)
	w.fail = cluster.ErrUnavailable
	require.Error(t, one.tell(t.Context()))
	one.failed(bad)
	w.fail = nil
	require.NoError(t, one.tell(t.Context()))
	n, err := newTestThrottle(w, "n2").count(network(bad))
	require.NoError(t, err)
	require.Equal(t, 2, n)
	w.fail = cluster.ErrUnknown
	one.failed(bad)
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
			one.failed(netip.MustParseAddr("192.0.2.7"))
			time.Sleep(100 * time.Millisecond)
		}
		require.InDelta(t, 5, proposed()-frames, 1, "about one a second")
	})
}
