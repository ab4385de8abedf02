package node

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/node/config"
)

// A CA that hangs, or says to come back in minutes, does not hold up a node that
// stops.
func TestStopInTheMiddleOfAnOrder(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request){
		"hangs": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"later": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "20")
			w.WriteHeader(http.StatusServiceUnavailable)
		},
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan struct{}, 10)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked <- struct{}{}
				answer(w, r)
			}))
			defer server.Close() // waits for the request that hangs
			a, err := newAuthority(config.ACME{Directory: server.URL, Hosts: []string{"mx.example.test"}}, newFakeReplica(t), func() bool { return true }, zap.NewNop())
			require.NoError(t, err)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			done := make(chan error, 1)
			go func() { done <- a.run(ctx) }()
			<-asked
			stop()
			select {
			case err := <-done:
				require.NoError(t, err)
			case <-time.After(5 * time.Second):
				require.Fail(t, "it waits for the CA")
			}
		})
	}
}
