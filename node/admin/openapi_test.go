package admin_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/node/admin/admintest"
)

// The description has what redocly's linter asks for, and where that linter is
// installed (npm install -g @redocly/cli) it says so itself.
func TestOpenAPIIsWhole(t *testing.T) {
	srv := httptest.NewServer(admin.NewServer(admin.Options{
		Ports: admintest.New().Ports(), Token: func() string { return "t" }, Version: "1.2.3",
	}))
	t.Cleanup(srv.Close)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/openapi.json", nil)
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer t")
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	var doc struct {
		Info struct {
			License struct{ Name, URL, Identifier string }
		}
		Servers    []struct{ URL string }
		Security   []map[string][]string
		Components struct{ Schemas map[string]any }
		Paths      map[string]map[string]struct {
			OperationID string
			Summary     string
			Security    []map[string][]string
			Responses   map[string]any
		}
	}
	require.NoError(t, json.Unmarshal(text, &doc))
	if file := os.Getenv("RELAY_OPENAPI"); file != "" { // for a look with other tools
		require.NoError(t, os.WriteFile(file, text, 0o600))
	}
	require.NotEmpty(t, doc.Info.License.Name)
	require.NotEmpty(t, doc.Servers)
	require.NotEmpty(t, doc.Security)
	seen := map[string]bool{}
	for path, verbs := range doc.Paths {
		for verb, op := range verbs {
			require.NotEmpty(t, op.Summary, path)
			require.False(t, seen[op.OperationID], op.OperationID)
			seen[op.OperationID] = true
			for status, wanted := range map[string]bool{
				"400": true, "401": true, "422": true, "404": strings.Contains(path, "{"), "409": verb != "get",
			} {
				_, declared := op.Responses[status]
				require.Equal(t, wanted, declared, "%s %s: %s", verb, path, status)
			}
		}
	}
	for name := range doc.Components.Schemas {
		require.Contains(t, string(text), `"#/components/schemas/`+name+`"`, "nothing uses it")
	}
	linter, err := exec.LookPath("redocly")
	if err != nil {
		t.Log("redocly is not installed, its own word is missing")
		return
	}
	file := filepath.Join(t.TempDir(), "openapi.json")
	require.NoError(t, os.WriteFile(file, text, 0o600))
	out, err := exec.CommandContext(t.Context(), linter, "lint", file).CombinedOutput()
	require.NoError(t, err, string(out))
}
