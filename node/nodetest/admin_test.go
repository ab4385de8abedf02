package nodetest

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/node/config"
)

// status asks one URL, with a token unless that is empty.
func status(t *testing.T, url, token string) int {
	r, err := http.NewRequestWithContext(within(t, 3*time.Minute), http.MethodGet, url, nil)
	require.NoError(t, err)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}

// TestAdminToken: a node of a former configuration is open to its machine until
// it has a token; from then on it never opens again, and its port for balancers
// tells health alone.
func TestAdminToken(t *testing.T) {
	t.Parallel()
	health := freeAddr(t)
	c := New(t, Options{Tuning: Quick(), Nodes: 1, Configure: func(_ int, conf *config.Config) {
		conf.Admin.Token, conf.Admin.HealthListen = "", health
	}})
	m := c.Nodes[0]
	url := m.Admin + "/v1/status"
	require.Equal(t, 200, status(t, url, ""))
	file := filepath.Join(m.conf.Node.DataDir, "admin.token")
	require.NoError(t, os.WriteFile(file, []byte("olga 0123456789abcdef\n"), 0o600))
	require.NoError(t, m.Node().Reload())
	require.Equal(t, 401, status(t, url, ""))
	require.Equal(t, 200, status(t, url, "0123456789abcdef"))
	require.Equal(t, 401, status(t, url, "guess"))
	require.Regexp(t, `\nrelay_admin_token_failures_total [1-9]`, metrics(t, m))
	r, err := http.Get(url)
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	require.Equal(t, file, r.Header.Get(admin.TokenFileHeader))
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.Error(t, m.Node().Reload())
	require.NoError(t, os.Remove(file))
	require.Error(t, m.Node().Reload())
	require.Equal(t, 401, status(t, url, ""))

	require.Equal(t, 200, status(t, "http://"+health+"/healthz", ""))
	require.Equal(t, 200, status(t, "http://"+health+"/readyz", ""))
	for _, path := range []string{"/metrics", "/v1/status", "/", "/debug/pprof/"} {
		require.Equal(t, 404, status(t, "http://"+health+path, "0123456789abcdef"), path)
	}
}
