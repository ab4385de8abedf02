package config

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A short token is refused where strangers may try, with its line and the cure.
func TestShortTokens(t *testing.T) {
	dir := t.TempDir()
	token, file := filepath.Join(dir, "admin.token"), filepath.Join(dir, "relay.toml")
	require.NoError(t, os.WriteFile(token, []byte("# two\nolga 0123456789abcdef\npeer 0123456789abcde\n"), 0o600))
	load := func(listen string) []Problem {
		text := "[node]\nid = \"n1\"\nhostname = \"mx.example.test\"\ndata_dir = \"" + dir +
			"\"\n[cluster]\nlisten = \"127.0.0.1:7170\"\n" +
			"[admin]\nlisten = \"" + listen + "\"\ntoken_file = \"" + token + "\"\n"
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		return Check(file)
	}
	require.Empty(t, load("127.0.0.1:7180"))
	problems := load("10.0.0.1:7180")
	require.Len(t, problems, 2)
	require.Equal(t, "line 9: admin.token_file: line 3 of "+token+" is shorter than 16 characters, which can be "+
		"guessed, and admin.listen "+
		"is not a loopback address: 'head -c 24 /dev/urandom | base64' makes a token", problems[1].String())
	require.NotContains(t, problems[1].String(), "0123456789abcde")
}

func TestAnonymousLoopbackIsUnsetByItself(t *testing.T) {
	c, problems := Parse([]byte(Default()), noEnv)
	require.Empty(t, problems)
	require.Nil(t, c.Admin.AnonymousLoopback)
	c, problems = Parse([]byte(Default()), env("RELAY_ADMIN_ANONYMOUS_LOOPBACK", "false"))
	require.Empty(t, problems)
	require.False(t, *c.Admin.AnonymousLoopback)
	_, problems = Parse([]byte(Default()), env("RELAY_ADMIN_ANONYMOUS_LOOPBACK", "perhaps"))
	require.Len(t, problems, 1)
}
