package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each file that the node reads at its start is looked at, and what is wrong with one
// is told with its line and the cure.
func TestFilesAreLookedAt(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	require.NoError(t, os.WriteFile(empty, []byte("\n"), 0o600))
	load := func(lines string) (*Config, string) {
		file := filepath.Join(dir, "relay.toml")
		text := "[node]\nid = \"n1\"\nhostname = \"n1\"\ndata_dir = \"" + dir + "\"\n[cluster]\n" +
			"listen = \"127.0.0.1:7170\"\n" + strings.ReplaceAll(lines, "DIR", dir)
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		c, err := Load(file)
		if err != nil {
			return c, strings.Join(strings.Fields(err.Error()), " ")
		}
		return c, ""
	}
	for _, c := range []struct{ lines, want string }{
		{"[tls]\ncert = \"DIR/c\"\nkey = \"DIR/empty\"\n", "line 8: tls.cert: there is no file DIR/c: put it there, or name"},
		{"[tls]\ncert = \"DIR/empty\"\nkey = \"DIR/empty\"\n", "line 8: tls.cert: DIR/empty does not hold a certificate"},
		{"[tls]\ncert = \"DIR/empty\"\nkey = \"DIR/k\"\n", "line 9: tls.key: there is no file DIR/k: put it there"},
		{"[relay]\nclient_ca = \"DIR/ca\"\n", "line 8: relay.client_ca: there is no file DIR/ca: put it there, or name"},
		{"[relay]\nclient_ca = \"DIR/empty\"\n", "line 8: relay.client_ca: there is no certificate in DIR/empty: name"},
		{"[acme]\nca = \"DIR/empty\"\n", "line 8: acme.ca: there is no certificate in DIR/empty: name a file"},
		{"[admin]\ntoken_file = \"DIR/t\"\n", "line 8: admin.token_file: there is no file DIR/t: '(umask 077;"},
		{"[admin]\ntoken_file = \"DIR/empty\"\n", "line 8: admin.token_file: the file DIR/empty is empty: '(umask 077;"},
		{"join = [\"10.0.0.2:7170\"]\njoin_token_file = \"DIR/empty\"\n",
			"line 8: cluster.join_token_file: the file DIR/empty is empty: 'relayctl node token > DIR/empty' on a member"},
	} {
		_, err := load(c.lines)
		require.Contains(t, err, strings.ReplaceAll(c.want, "DIR", dir), c.lines)
	}
	_, err := load("[tls]\ncert = \"DIR/empty\"\nkey = \"DIR/empty\"\ncertificates = [\"DIR/empty\"]\n")
	require.Contains(t, err, "and 1 more mistake, 'relayd config check") // the certificates

	one, err := load("[admin]\nlisten = \"127.0.0.1:7180\"\n[[folder]]\nuser = \"news@example.com\"\n" +
		"dir = \"DIR/news\"\n")
	require.Empty(t, err, "a disk that is not mounted stops no node")
	all := strings.Join(one.Warnings(), "\n")
	require.Contains(t, all, "line 11: folder[0].dir: there is no directory "+dir+"/news, so news@example.com can not")
	require.Contains(t, all, "line 7: admin: has no token, so every user")
}
