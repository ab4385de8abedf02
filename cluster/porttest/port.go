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

// pool is the block of this process. Ports are given out in turn, so that one
// comes back only after all others.
type pool struct {
	mu    sync.Mutex
	guard net.Listener
	base  int
	next  int
}

// process is the pool of this process, or nil where no block is free.
var process = sync.OnceValue(own)

// Addr returns a free address on a loopback host. It is called from any
// goroutine of the test.
func Addr(t testing.TB, host string) string {
	t.Helper()
	return net.JoinHostPort(host, strconv.Itoa(process().take(t, host, 1)))
}

// Base returns the first of n free ports in a row of 127.0.0.1.
func Base(t testing.TB, n int) int {
	t.Helper()
	return process().take(t, "127.0.0.1", n)
}

func (p *pool) take(t testing.TB, host string, n int) int {
	t.Helper()
	require.NotNil(t, p, "no block of ports is free")
	p.mu.Lock()
	defer p.mu.Unlock()
	for range block {
		at := p.advance(n)
		if free(host, at, n) {
			return at
		}
	}
	require.Fail(t, "no free port")
	return 0
}

// own looks for a block that no other process has.
func own() *pool {
	for base := first; base < last; base += block {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(base)))
		if err == nil {
			return &pool{guard: l, base: base, next: 1}
		}
	}
	return nil
}

// advance returns the next n ports of the block, from its beginning again
// where too few are left.
func (p *pool) advance(n int) int {
	if p.next+n > block {
		p.next = 1
	}
	at := p.base + p.next
	p.next += n
	return at
}

func free(host string, at, n int) bool {
	for port := at; port < at+n; port++ {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil || l.Close() != nil {
			return false
		}
	}
	return true
}
