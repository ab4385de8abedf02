package main

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/config"
)

// Nobody answers, or somebody who is no cluster: then a cluster may be made.
func TestAskOthersWhereNoClusterIs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("220 mx.example.test\r\n"))
			_ = c.Close()
		}
	}()
	c := &config.Config{Cluster: config.Cluster{
		Advertise: "127.0.0.1:7170", Join: []string{"127.0.0.1:7170", l.Addr().String()}, Peers: []string{"n2=127.0.0.1:1"},
	}}
	require.NotContains(t, others(c.Cluster), "127.0.0.1:7170", "itself")
	require.Len(t, others(c.Cluster), 2)
	var out bytes.Buffer
	require.NoError(t, askOthers(t.Context(), &out, c, 1500*time.Millisecond))
	require.Contains(t, out.String(), "127.0.0.1:1")

	out.Reset()
	require.NoError(t, askOthers(t.Context(), &out, &config.Config{}, time.Minute), "there is nobody to ask")
	require.Empty(t, out.String())
}
