package remote

import (
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/queue"
)

// TestGreylistedMailComesAgainFromTheSameAddress: a host that greylists hears of a message from the address that it
// heard of it first; all others from each address in turns.
func TestGreylistedMailComesAgainFromTheSameAddress(t *testing.T) {
	for name, c := range map[string]struct {
		reply string
		same  bool
	}{
		"greylisted":       {"450 4.7.1 Greylisted, please come again in 5 minutes", true},
		"later for others": {"450 4.2.0 mailbox busy", false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHop(t, nil)
			h.script("RCPT", c.reply)
			target := hostOf(h)
			a := newAgent(t, Config{Messages: 1, Sources: []netip.Addr{
				netip.MustParseAddr("127.0.0.71"), netip.MustParseAddr("127.0.0.72"), netip.MustParseAddr("127.0.0.73"),
			}, Router: router(func(string) (Target, error) { return target, nil })})
			var mu sync.Mutex
			var from []string
			a.wrap = func(c net.Conn) net.Conn {
				mu.Lock()
				defer mu.Unlock()
				host, _, _ := net.SplitHostPort(c.LocalAddr().String())
				from = append(from, host)
				return c
			}
			v := deliver(t, a, jobTo("", "a@x"))[0]
			require.Equal(t, queue.Deferred, v.Outcome, v.Reply)
			h.script("RCPT", "250 Ok", "250 Ok", "250 Ok")
			for range 3 {
				require.Equal(t, queue.Delivered, deliver(t, a, jobTo("", "a@x"))[0].Outcome)
			}
			require.Len(t, from, 4)
			if c.same {
				require.Equal(t, []string{from[0], from[0], from[0], from[0]}, from)
			} else {
				require.NotEqual(t, from[0], from[1])
				require.Equal(t, from[0], from[3])
			}
		})
	}
}

// TestGreyedIsBounded: hosts that greylist are forgotten before they are many.
func TestGreyedIsBounded(t *testing.T) {
	g := newGreyed()
	some := []netip.Addr{netip.MustParseAddr("127.0.0.71"), netip.MustParseAddr("127.0.0.72")}
	for i := range 2 * greyedMost {
		h := hop{addr: netip.AddrPortFrom(some[0], uint16(i+1))}
		g.note(&conn{hop: h, from: some[i%2]}, "451 4.7.1 greylisted")
		g.note(&conn{hop: h, from: some[1-i%2]}, "451 4.7.1 greylisted")
		from, ok := g.of(h, some)
		require.True(t, ok)
		require.Equal(t, some[i%2], from, "the first counts")
		_, ok = g.of(h, some[:1])
		require.False(t, ok, "there is no choice")
	}
	require.LessOrEqual(t, len(g.all), greyedMost)
	g.note(&conn{}, "451 4.7.1 greylisted")
}
