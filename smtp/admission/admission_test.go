package admission

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func address(s string) netip.Addr { return netip.MustParseAddr(s) }

func enters(t *testing.T, c *Counter, s Standing, want bool, all ...string) {
	t.Helper()
	for _, a := range all {
		require.Equal(t, want, c.Enter(address(a), s), a)
	}
}

func TestNetworksCountTogether(t *testing.T) {
	c := New(Limits{Host: 2})
	enters(t, c, Stranger, true, "192.0.2.1", "192.0.2.1")
	enters(t, c, Stranger, false, "192.0.2.1", "::ffff:192.0.2.1")
	enters(t, c, Stranger, true, "192.0.2.2", "192.0.2.3")
	enters(t, c, Stranger, false, "192.0.2.4") // the /24 has four
	enters(t, c, Trusted, true, "192.0.2.4", "192.0.2.1")
	enters(t, c, Stranger, true, "192.0.3.1")

	enters(t, c, User, true, "2001:db8::1", "2001:db8::2")
	enters(t, c, User, false, "2001:db8::3")
	enters(t, c, User, true, "2001:db8:0:1::1", "2001:db8:0:2::1")
	enters(t, c, User, false, "2001:db8:0:3::1") // the /48 has four
	enters(t, c, User, true, "2001:db8:1::1")

	c.Leave(address("192.0.2.1"), Stranger)
	enters(t, c, Stranger, true, "192.0.2.4")
	enters(t, c, Stranger, false, "192.0.2.5")
}

func TestPartIsKept(t *testing.T) {
	c := New(Limits{All: 16})
	for range 12 {
		enters(t, c, Stranger, true, "192.0.2.1")
	}
	enters(t, c, Stranger, false, "192.0.2.1")
	enters(t, c, User, true, "192.0.2.1", "192.0.2.1", "192.0.2.1")
	enters(t, c, User, false, "192.0.2.1")
	enters(t, c, Trusted, true, "192.0.2.1")
	enters(t, c, Trusted, false, "192.0.2.1") // there are no more at all

	small := New(Limits{All: 2})
	enters(t, small, Stranger, true, "192.0.2.1", "192.0.2.1")
	enters(t, small, Stranger, false, "192.0.2.1")
}

func TestLoad(t *testing.T) {
	now := time.Now()
	c := New(Limits{All: 20})
	load := func(want Load) {
		t.Helper()
		require.Equal(t, want, c.Load(now))
	}
	load(Low)
	require.False(t, c.Sweep(now))
	for range 8 {
		enters(t, c, Stranger, true, "192.0.2.1")
	}
	load(High)
	require.True(t, c.Sweep(now))
	require.False(t, c.Sweep(now.Add(sweepEvery/2)))
	require.True(t, c.Sweep(now.Add(sweepEvery)))
	for range 6 {
		enters(t, c, Stranger, true, "192.0.2.1")
	}
	load(Full)
	for range 14 {
		c.Leave(address("192.0.2.1"), Stranger)
	}
	load(Low)
	c.Press(now)
	load(Full)
	now = now.Add(pressed)
	load(Low)
	for load, want := range map[Load]time.Duration{Low: 0, High: time.Minute, Full: 10 * time.Second} {
		require.Equal(t, want, load.Patience(), "load %d", load)
	}
}
