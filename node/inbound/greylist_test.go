package inbound

import (
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

func TestGreySender(t *testing.T) {
	for address, want := range map[string]string{
		"":                                      "@",
		"Ann@Far.Example":                       "ann@far.example",
		"ann+list@far.example":                  "ann@far.example",
		"bounce-1234-99@list.example":           "bounce-#-#@list.example",
		"prvs=1234ab=ann@far.example":           "ann@far.example",
		"prvs=ann@far.example":                  "prvs=ann@far.example",
		"bounces+77-ann=here.example@x.example": "bounces@x.example",
	} {
		require.Equal(t, want, greySender(address), address)
	}
	require.Equal(t, "192.0.2.0/24", ClientNetwork(netip.MustParseAddr("::ffff:192.0.2.77")).String())
	require.Equal(t, "2001:db8::/64", ClientNetwork(netip.MustParseAddr("2001:db8::1:2:3%eth0")).String())
}

func TestGreylistBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		time.Sleep(time.Until(w.Clock)) // the replica's time never runs backwards
		w.Clock = time.Now()
		w.Must(spool.KindPutSettings, &pb.PutSettings{
			Settings: &pb.Settings{GreylistMs: 60_000, GreylistExempt: []string{"198.51.100.0/24"}},
		})
		g := newGreylist(w, zap.NewNop())
		go func() { _ = g.run(t.Context()) }()
		frames := len(w.Frames)
		var wg sync.WaitGroup
		look := func(client, sender string) (time.Duration, error) {
			wait, _, err := g.look(t.Context(), netip.MustParseAddr(client), sender, "example.test")
			return wait, err
		}
		for i := range 500 {
			wg.Go(func() {
				wait, err := look("192.0.2.1", strings.Repeat("x", i+1))
				assert.NoError(t, err)
				assert.InDelta(t, time.Minute, wait, float64(time.Second))
			})
		}
		wg.Wait()
		require.LessOrEqual(t, len(w.Frames)-frames, 3, "many attempts in a command")
		frames = len(w.Frames)
		for range 100 {
			wait, err := look("192.0.2.200", "x")
			require.NoError(t, err)
			require.Positive(t, wait)
		}
		require.Len(t, w.Frames, frames, "impatience costs nothing")
		wait, err := look("198.51.100.9", "x")
		require.NoError(t, err)
		require.Zero(t, wait, "exempt")

		// A cluster that can not be asked lets nobody through, and keeps nobody waiting.
		w.Fail = cluster.ErrUnavailable
		_, err = look("203.0.113.1", "x")
		require.ErrorIs(t, err, cluster.ErrUnavailable)
		w.Fail = nil
		time.Sleep(2 * time.Minute)
		w.Clock = time.Now()
		wait, err = look("192.0.2.9", "xx")
		require.NoError(t, err)
		require.Zero(t, wait)
		time.Sleep(time.Second)
		require.NoError(t, w.View(func(v spool.View) error {
			one, net, err := v.Grey(spool.Triplet("192.0.2.0/24", "xx", "example.test"), "192.0.2.0/24")
			require.EqualValues(t, 1, one.GetPassed(), "it is written down that it came again")
			require.EqualValues(t, 1, net.GetPassed())
			return err
		}))
	})
}

// First attempts of one network have a share of the records, and what comes beyond
// waits together.
func TestGreylistRecordsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		time.Sleep(time.Until(w.Clock))
		w.Clock = time.Now()
		w.Must(spool.KindPutSettings, &pb.PutSettings{Settings: &pb.Settings{GreylistMs: 60_000}})
		g := newGreylist(w, zap.NewNop())
		go func() { _ = g.run(t.Context()) }()
		var wg sync.WaitGroup
		bad := make(chan error, 2*greyShare)
		for i := range 2 * greyShare {
			wg.Go(func() {
				client := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
				if wait, _, err := g.look(t.Context(), client, strings.Repeat("x", i+1), "example.test"); err != nil || wait <= 0 {
					bad <- err
				}
			})
		}
		wg.Wait()
		require.Empty(t, bad, "all have to wait")
		known := 0
		require.NoError(t, w.View(func(v spool.View) error {
			for i := range 2 * greyShare {
				one, _, err := v.Grey(spool.Triplet("192.0.2.0/24", strings.Repeat("x", i+1), "example.test"), "192.0.2.0/24")
				if err != nil {
					return err
				}
				if one != nil {
					known++
				}
			}
			return nil
		}))
		require.Equal(t, greyShare, known)
		wait, _, err := g.look(t.Context(), netip.MustParseAddr("198.51.100.1"), "x", "example.test")
		require.NoError(t, err)
		require.Positive(t, wait)
		time.Sleep(2 * time.Minute)
		w.Mu.Lock()
		w.Clock = time.Now()
		w.Mu.Unlock()
		wait, _, err = g.look(t.Context(), netip.MustParseAddr("192.0.2.9"), "somebody", "example.test")
		require.NoError(t, err)
		require.Zero(t, wait, "what waited together passes together")
	})
}
