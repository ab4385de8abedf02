package nodetest_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/nodetest"
	"relay/pop3"
)

// TestScramOnEveryNode logs in by SCRAM with a password that was set on one
// node.
func TestScramOnEveryNode(t *testing.T) {
	c := nodetest.New(t, nodetest.Options{Nodes: 2})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, m := range c.Nodes {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", m.POP3)
		require.NoError(t, err)
		one, err := pop3.NewClient(ctx, conn)
		require.NoError(t, err)
		require.Error(t, one.Auth(ctx, pop3.NewSCRAMClient("alice", "wrong", nil)))
		require.NoError(t, one.Auth(ctx, pop3.NewSCRAMClient("alice", "secret", nil)))
		require.NoError(t, one.Quit(ctx))
	}
}
