package main

import (
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/node/admin/admintest"
)

// Errors say in plain words what is wrong and what to do, and bad flags are 2.
func TestErrorsNameTheNextStep(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"trace", "--since", "2h", "--limit", "many"}, `--limit "many" is not a whole number`},
		{[]string{"trace", "--since", "2h", "--limit", "-1"}, `--limit -1 is less than 0`},
		{[]string{"audit", "--limit", "-5"}, `--limit -5 is less than 0`},
		{[]string{"queue", "hold", "--all=perhaps"}, `--all "perhaps" is not true or false`},
		{[]string{"queue", "ls", "--limit", "-1"}, `--limit -1 is less than 0`},
	} {
		_, stderr, code := w.ctl(t, "", c.args...)
		require.Equal(t, 2, code, c.args)
		require.Contains(t, stderr, c.want)
		require.NotContains(t, stderr, "strconv")
		require.NotContains(t, stderr, "query.")
	}
	_, stderr, code := w.ctl(t, "", "status", "--token", "wrong")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "not an admin token")
	url := w.url
	w.url = "http://127.0.0.1:1"
	_, stderr, code = w.ctl(t, "", "status")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "the connection was refused")
	w.url = url

	srv := httptest.NewTLSServer(admin.NewServer(admin.Options{Ports: admintest.New().Ports(), Token: func() string { return "s3cret" }}))
	t.Cleanup(srv.Close)
	w.url = srv.URL
	_, stderr, code = w.ctl(t, "", "status")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "--ca FILE")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600))
	_, stderr, code = w.ctl(t, "", "status", "--ca", ca)
	require.Zero(t, code, stderr)
}

func TestRouteOfALocalDomainIsWarnedOf(t *testing.T) {
	w := newWorld(t)
	_, stderr, code := w.ctl(t, "", "route", "set", "example.test", "smtp:127.0.0.1:25")
	require.Zero(t, code)
	require.Contains(t, stderr, "warning: example.test is a local domain")
	_, stderr, code = w.ctl(t, "", "route", "set", "far.test", "mx")
	require.Zero(t, code)
	require.Empty(t, stderr)
}
