package e2e

import (
	"fmt"
	"net"
	"net/smtp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/porttest"
	"relay/smtp/hoptest"
)

// limitedHop is a hop with a limit of ten connections and fifty messages a second, of all nodes together.
type limitedHop struct {
	*hoptest.Hop
	d    *Dev
	sent int
}

// feed gives a node so many messages.
func (h *limitedHop) feed(node, n int) {
	h.d.t.Helper()
	c, err := smtp.Dial(h.d.Addr(node, SMTP))
	require.NoError(h.d.t, err)
	defer c.Close()
	require.NoError(h.d.t, c.Hello("client.test"))
	for i := range n {
		h.sent++
		text := fmt.Sprintf("Subject: limited %d\r\nMessage-ID: <%d.%d@limited.test>\r\n\r\nx\r\n", i, h.sent, node)
		require.NoError(h.d.t, c.Mail("s@far.example"))
		require.NoError(h.d.t, c.Rcpt(fmt.Sprintf("x%d@limited.example", h.sent)))
		w, err := c.Data()
		require.NoError(h.d.t, err)
		_, err = w.Write([]byte(text))
		require.NoError(h.d.t, err)
		require.NoError(h.d.t, w.Close())
	}
}

// left waits until at most so many messages have not begun.
func (h *limitedHop) left(n int) {
	h.d.t.Helper()
	h.d.Await(2*time.Minute, "the mail goes", func() bool { return len(h.Begun()) >= h.sent-n })
}

// use is which part of the rate was used from the n-th message on.
func (h *limitedHop) use(n int) float64 {
	begun := h.Begun()[n:]
	return float64(len(begun)-1) / begun[len(begun)-1].Sub(begun[0]).Seconds() / 50
}

// TestLimitsOfTheCluster: a limit holds as the hop counts, with mail at one node, at all and in turns, and while nodes
// are killed and held still; and it is used.
func TestLimitsOfTheCluster(t *testing.T) {
	addr := porttest.Addr(t, "127.0.0.1")
	h := &limitedHop{Hop: hoptest.New(t, addr, 100*time.Millisecond)}
	h.d = Start(t, "--relay", addr, "--restart-after", "3s")
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	h.d.Await(30*time.Second, "the limit is set", func() bool {
		_, err := h.d.Try("", h.d.bin+"/relayctl", "limit", "set", "route:smtp:127.0.0.1:"+port, "--connections", "10",
			"--rate", "50/s")
		return err == nil
	})
	phase := func(name string, least float64, work func()) {
		t.Helper()
		from := len(h.Begun())
		work()
		h.left(0)
		open, most := h.Connections()
		t.Logf("%-14s %d messages, %.1f %% of the rate; at most %d in 10 s; %d connections, at most %d", name,
			len(h.Begun())-from, 100*h.use(from), h.Window(10*time.Second), open, most)
		require.LessOrEqual(t, most, 10)
		require.LessOrEqual(t, h.Window(10*time.Second), 550, "512, and what a busy machine brings late")
		require.GreaterOrEqual(t, h.use(from), least)
	}
	phase("one node", 0.6, func() { h.feed(1, 500) })
	phase("all nodes", 0.6, func() {
		for node := 1; node <= 3; node++ {
			h.feed(node, 170)
		}
	})
	phase("in turns", 0.6, func() {
		for turn := range 4 {
			h.feed(turn%3+1, 120)
			h.left(30)
		}
	})
	phase("one held still", 0, func() {
		for node := 1; node <= 3; node++ {
			h.feed(node, 100)
		}
		h.d.freeze(h.d.leader()%3+1, func() { pause(h.d, 8*time.Second) })
	})
	h.d.healthy(time.Minute)
	phase("leader killed", 0, func() {
		for node := 1; node <= 3; node++ {
			h.feed(node, 100)
		}
		h.d.kill(h.d.leader())
	})
}
