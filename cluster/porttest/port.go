// Package porttest gives tests loopback ports that nobody else takes, also
// while the server that they are meant for is down.
package porttest

import (
	"net"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Ports are given out of blocks below those that the system gives to outgoing
// connections. A process owns a block while it listens on the block's first
// port, which keeps packages apart that are tested at the same time.
const (
	first = 13000
	block = 1000
	last  = 32000
)

// pool has the blocks of this process: one, and more once its tests hold too many ports
// at a time.
type pool struct {
	own    func() *ports // nil: no block is left
	mu     sync.Mutex
	blocks []*ports
}

// ports is one block. Ports are given out in turn, so that one comes back only after all
// others, and not before the test that has it ends.
type ports struct {
	guard net.Listener
	base  int
	next  int
	held  [block]bool
}

// process is the pool of this process.
var process = sync.OnceValue(func() *pool { return &pool{own: own} })

// Addr returns a free address on a loopback host; it is the test's until that ends. It is
// called from any goroutine of the test.
func Addr(t testing.TB, host string) string {
	t.Helper()
	return net.JoinHostPort(host, strconv.Itoa(process().take(t, host, 1)))
}

// Base returns the first of n free ports in a row of 127.0.0.1; they are the test's until
// that ends.
func Base(t testing.TB, n int) int {
	t.Helper()
	return process().take(t, "127.0.0.1", n)
}

func (p *pool) take(t testing.TB, host string, n int) int {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.blocks {
		if at, ok := b.find(host, n); ok {
			return p.give(t, b, at, n)
		}
	}
	for {
		b := p.own()
		require.NotNil(t, b, "no block of ports is free")
		p.blocks = append(p.blocks, b)
		if at, ok := b.find(host, n); ok { // else strangers listen in it
			return p.give(t, b, at, n)
		}
	}
}

func (p *pool) give(t testing.TB, b *ports, at, n int) int {
	b.hold(at, n, true)
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		b.hold(at, n, false)
	})
	return b.base + at
}

// own looks for a block that no process has.
func own() *ports {
	for base := first; base < last; base += block {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(base)))
		if err == nil {
			return &ports{guard: l, base: base, next: 1}
		}
	}
	return nil
}

// find looks for n ports in a row that nobody has, from behind the last ones that it found
// to the block's end, and once more from its beginning.
func (b *ports) find(host string, n int) (at int, ok bool) {
	for range 2 {
		for at := b.next; at+n <= block; {
			taken := b.taken(host, at, n)
			if taken < 0 {
				b.next = at + n
				return at, true
			}
			at = taken + 1
		}
		b.next = 1
	}
	return 0, false
}

// taken is the last of n ports that somebody has, or -1.
func (b *ports) taken(host string, at, n int) int {
	for i := at + n - 1; i >= at; i-- {
		if b.held[i] || !free(host, b.base+i) {
			return i
		}
	}
	return -1
}

func (b *ports) hold(at, n int, held bool) {
	for i := at; i < at+n; i++ {
		b.held[i] = held
	}
}

func free(host string, port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	return err == nil && l.Close() == nil
}
