package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// hello is what a client of TLS says first.
func hello(t *testing.T) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer far.Close()
	go func() {
		_ = tls.Client(near, &tls.Config{ServerName: "n1", NextProtos: []string{"relay-rpc/1"}}).Handshake()
	}()
	b := make([]byte, 16<<10)
	n, err := far.Read(b)
	require.NoError(t, err)
	return b[:n]
}

// strangers hold half-open connections to the cluster ports of all nodes, from the members'
// own address and from others, until stop is called, which returns how many there were. A
// connection says nothing, half a word or all of it, waits until it is closed, and another
// one takes its place.
func strangers(d *Dev) (stop func() int64) {
	const each = 250 // a node has places for 192 strangers, 64 of them from one address
	word := hello(d.t)
	ctx, end := context.WithCancel(d.t.Context())
	var made atomic.Int64
	var all sync.WaitGroup
	for i := range 3 * each {
		from := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
		if i%3 > 0 {
			from.IP = net.IPv4(127, 0, 0, byte(10+i%8))
		}
		node, says := i/each+1, word[:[]int{0, len(word) / 2, len(word)}[rand.IntN(3)]]
		all.Go(func() {
			for ctx.Err() == nil {
				if linger(ctx, from, d.Addr(node, clusterPort), says) {
					made.Add(1)
				}
				hold(time.Now().Add(time.Second), ctx.Done())
			}
		})
	}
	return func() int64 { end(); all.Wait(); return made.Load() }
}

// linger opens one connection, and reports whether it could be opened.
func linger(ctx context.Context, from net.Addr, to string, says []byte) bool {
	dialer := net.Dialer{LocalAddr: from, Timeout: 5 * time.Second}
	c, err := dialer.DialContext(ctx, "tcp", to)
	if err != nil {
		return false
	}
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	defer c.Close()
	_, err = c.Write(says)
	for b := make([]byte, 4<<10); err == nil; {
		_, err = c.Read(b)
	}
	return true
}

// TestStrangersAndPauses: under load, strangers hold hundreds of half-open connections to
// each cluster port, and a node that dies comes back all the same. Then the leader and a
// follower hold still in the middle of a write, for longer than one may hang; the same
// processes serve on. Nothing is lost, doubled or held twice.
func TestStrangersAndPauses(t *testing.T) {
	d := startSlow(t)
	mail, fight, accounts := d.busy()
	amidStrangers(t, d)
	d.paused(d.leader())
	d.paused(d.leader()%3 + 1)
	d.settle(mail, fight, accounts)
}

func amidStrangers(t *testing.T, d *Dev) {
	t.Helper()
	begin := time.Now()
	stop := strangers(d)
	pause(d, 2*time.Second) // for the crowd to gather
	victim := d.leader()%3 + 1
	d.kill(victim)
	pause(d, time.Second)
	began := d.revive(victim, "")
	d.ready(victim, 60*time.Second)
	took := time.Since(began)
	d.healthy(60 * time.Second)
	made := stop()
	t.Logf("n%d was ready %s after its start, amid %d half-open connections in %s", victim, seconds(took), made,
		seconds(time.Since(begin)))
	require.Greater(t, made, int64(500))
	minutes := int(time.Since(begin)/time.Minute) + 1
	for node := 1; node <= 3; node++ {
		// Of strangers, and of nodes that are not allowed; n2 and n3 have started twice.
		require.LessOrEqual(t, len(d.logged(node, "cluster port: connection refused")), 4*minutes, "n%d", node)
	}
}

// paused stops a node's process for longer than a write may hang, and wants it to go on.
func (d *Dev) paused(node int) {
	d.t.Helper()
	const long = 12 * time.Second // a write that hangs for 10 s ends a node
	pid := d.PID(node)
	d.slow(300*time.Millisecond, node) // so that one is under way
	pause(d, time.Second)
	d.freeze(node, func() { pause(d, long) })
	d.slow(0, node)
	began := time.Now()
	d.Await(60*time.Second, fmt.Sprintf("n%d serves again", node), func() bool {
		require.False(d.t, dead(pid), "n%d has ended", node)
		return send(d.Addr(node, SMTP), "bob@example.test", []string{"bob@example.test"},
			message(fmt.Sprintf("awake-%d-%d", node, pid))) == nil
	})
	took := time.Since(began)
	d.healthy(60 * time.Second)
	require.Equal(d.t, pid, d.PID(node))
	require.False(d.t, dead(pid), "n%d has ended", node)
	require.Empty(d.t, d.logged(node, "the log has failed", "panic:"))
	d.t.Logf("n%d held still for %s, took mail after %s more", node, long, seconds(took))
}
