package node

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/netutil"
)

// TestIdleConnectionsKeepNobodyOut: ten clients keep their connections open where
// four are allowed, and each is answered.
func TestIdleConnectionsKeepNobodyOut(t *testing.T) {
	const limit = 4
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok")
	}))
	s.Listener = netutil.LimitListener(s.Listener, limit)
	s.Config.ConnState = newSpareConns(limit).hook
	s.Start()
	t.Cleanup(s.Close)
	for range 10 {
		c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
			DialContext: (&net.Dialer{}).DialContext,
		}}
		t.Cleanup(c.CloseIdleConnections)
		res, err := c.Get(s.URL)
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, "ok", string(body))
	}
}
