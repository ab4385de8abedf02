package node

import (
	"net"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/node/config"
)

// The ports where a CA asks are open to strangers, who take no more than so many connections.
func TestChallengePortsAreBounded(t *testing.T) {
	n := &Node{conf: &config.Config{ACME: config.ACME{
		Hosts: []string{"mx.example.test"}, TLSListen: "127.0.0.1:0", HTTPListen: "127.0.0.1:0",
	}}}
	require.NoError(t, n.listenACME())
	for _, l := range []net.Listener{n.acmeTLS, n.acmeHTTP} {
		accepted := make(chan net.Conn)
		go func() {
			defer close(accepted)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				accepted <- c
			}
		}()
		clients, servers := []net.Conn{}, []net.Conn{}
		for range adminConnections + 1 {
			c, err := net.Dial("tcp", l.Addr().String())
			require.NoError(t, err)
			clients = append(clients, c)
		}
		for range adminConnections {
			servers = append(servers, <-accepted)
		}
		for range 1000 {
			runtime.Gosched()
		}
		select {
		case <-accepted:
			require.Fail(t, "one more than the limit")
		default:
		}
		require.NoError(t, servers[0].Close())
		servers = append(servers, <-accepted)
		require.NoError(t, l.Close())
		for _, c := range append(clients, servers...) {
			_ = c.Close()
		}
		for range accepted { //nolint:revive // until the acceptor has ended
		}
	}
}
