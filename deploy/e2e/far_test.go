package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// weather is how slow and bad the links between nodes are, each way.
type weather struct {
	delay time.Duration
	loss  float64 // of packets
}

// late is how long one piece of a stream is under way: a packet that is lost is sent
// again after a fifth of a second, beside the time there and back, as connections
// between nodes do not double that (TCP_THIN_LINEAR_TIMEOUTS).
func (w weather) late() time.Duration {
	d := w.delay
	for rand.Float64() < w.loss {
		d += 200*time.Millisecond + 2*w.delay
	}
	return d
}

// knock is how long a new connection takes; TCP doubles these waits.
func (w weather) knock() time.Duration {
	d := 2 * w.delay
	for range 2 {
		for wait := time.Second; rand.Float64() < w.loss; wait *= 2 {
			d += wait
		}
	}
	return d
}

// distance stands before the cluster ports of all nodes, in the test's process.
type distance struct {
	now atomic.Pointer[weather]
}

// before forwards from one address to another until the test ends.
func (f *distance) before(t *testing.T, from, to string) {
	l, err := net.Listen("tcp", from)
	require.NoError(t, err)
	var all sync.WaitGroup
	over := make(chan struct{})
	all.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { f.connect(near, to, over, &all) })
		}
	})
	t.Cleanup(func() { close(over); _ = l.Close(); all.Wait() })
}

func (f *distance) connect(near net.Conn, to string, over chan struct{}, all *sync.WaitGroup) {
	defer near.Close()
	if !hold(time.Now().Add(f.now.Load().knock()), over) {
		return
	}
	far, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer far.Close()
	gone := make(chan struct{})
	end := sync.OnceFunc(func() { close(gone); _ = near.Close(); _ = far.Close() })
	defer end()
	all.Go(func() { f.carry(far, near, gone); end() })
	all.Go(func() {
		select {
		case <-over:
			end()
		case <-gone:
		}
	})
	f.carry(near, far, gone)
}

// hold waits until a moment; false: something ended before it.
func hold(at time.Time, end <-chan struct{}) bool {
	timer := time.NewTimer(max(time.Until(at), 0))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-end:
		return false
	}
}

// carry passes on one direction. A delay costs time and no throughput, and what is
// sent later arrives later.
func (f *distance) carry(from io.Reader, to io.Writer, gone <-chan struct{}) {
	type piece struct {
		b  []byte
		at time.Time
	}
	pieces := make(chan piece, 4096)
	go func() {
		defer close(pieces)
		var last time.Time
		buf := make([]byte, 16<<10)
		for {
			n, err := from.Read(buf)
			if at := time.Now().Add(f.now.Load().late()); at.After(last) {
				last = at
			}
			select {
			case pieces <- piece{append([]byte(nil), buf[:n]...), last}:
			case <-gone:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range pieces {
		if !hold(p.at, gone) {
			return
		}
		if _, err := to.Write(p.b); err != nil {
			return
		}
	}
}

// separate moves the cluster ports of all nodes behind a distance.
func (d *Dev) separate(t *testing.T, latency time.Duration) *distance {
	f := &distance{}
	f.now.Store(&weather{})
	var peers []string
	for node := 1; node <= 3; node++ {
		peers = append(peers, fmt.Sprintf(`"n%d=%s"`, node, d.Addr(node, clusterPort+2)))
	}
	for node := 1; node <= 3; node++ {
		f.before(t, d.Addr(node, clusterPort+2), d.Addr(node, clusterPort+1))
		d.edit(node, func(text string) string {
			text = strings.ReplaceAll(text, d.Addr(node, clusterPort), d.Addr(node, clusterPort+1))
			text = regexp.MustCompile(`(?m)^(peers|advertise|latency) = .*\n`).ReplaceAllString(text, "")
			return clusterKey(text, fmt.Sprintf("advertise = %q\nlatency = %q\npeers = [%s]",
				d.Addr(node, clusterPort+2), latency, strings.Join(peers, ", ")))
		})
	}
	return f
}

// TestFarNodes: links that take 200 ms one way, and then links that lose 30 % of what
// is sent. All three nodes serve all the time: no session ends, no mail is lost or
// doubled, and no mailbox has two holders. RELAY_FAR says for how long each.
func TestFarNodes(t *testing.T) {
	text := os.Getenv("RELAY_FAR")
	if text == "" {
		t.Skip("set RELAY_FAR=60s to keep the nodes far from each other for a minute")
	}
	each, err := time.ParseDuration(text)
	require.NoError(t, err, "RELAY_FAR")
	d := Start(t, "--restart-after", "0")
	d.Stop()
	far := d.separate(t, 200*time.Millisecond)
	d.Restart("--restart-after", "0")
	d.healthy(60 * time.Second)
	mail, fight, accounts := d.busy()
	before := d.lapses()
	for _, w := range []weather{{delay: 200 * time.Millisecond}, {delay: 5 * time.Millisecond, loss: 0.3}} {
		far.now.Store(&w)
		served := 0
		for end := time.Now().Add(each); time.Now().Before(end); served++ {
			for node := 1; node <= 3; node++ {
				require.NoError(t, d.call(node, "GET", "/readyz", nil, nil), "n%d does not serve", node)
			}
			pause(d, time.Second)
		}
		require.Equal(t, before, d.lapses(), "a session ended: %+v", w)
		t.Logf("%+v: all nodes served for %s", w, each)
	}
	far.now.Store(&weather{})
	d.settle(mail, fight, accounts)
	require.Equal(t, before, d.lapses())
}

// lapses counts the ends of sessions that all nodes have logged.
func (d *Dev) lapses() (n int) {
	for node := 1; node <= 3; node++ {
		n += len(d.logged(node, "cluster: session is over"))
	}
	return n
}
