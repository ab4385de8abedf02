package smtp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNetwork(t *testing.T) {
	require.Equal(t, "192.0.2.1/32", networkOf(netip.MustParseAddr("::ffff:192.0.2.1")).String())
	require.Equal(t, "2001:db8:0:1::/64", networkOf(netip.MustParseAddr("2001:db8:0:1:2::3")).String())
}

func TestAuthDelayGrows(t *testing.T) {
	m := NewMeters(Limits{})
	a := netip.MustParseAddr("192.0.2.1")
	var last time.Duration
	for range 8 {
		d := m.AuthDelay(a)
		require.GreaterOrEqual(t, d, last)
		last = d
	}
	require.Equal(t, 8*time.Second, last)
	require.Equal(t, time.Second/2, m.AuthDelay(netip.MustParseAddr("127.0.0.9")), "loopback is like others")
	require.Equal(t, time.Second/2, m.AuthDelay(netip.MustParseAddr("192.0.2.2")))
}
