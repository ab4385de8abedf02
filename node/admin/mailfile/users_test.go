package mailfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestUsers(t *testing.T) {
	got, err := Users(strings.NewReader("\ufeffalice secret\r\n\r\n  bob \t pass-word\ncarol@example.test  x"))
	require.NoError(t, err)
	require.Equal(t, []User{{"alice", "secret"}, {"bob", "pass-word"}, {"carol@example.test", "x"}}, got)
	for text, want := range map[string]string{
		"alice\n":                  "line 1: there are 1 words",
		"a b\nc top secret\n":      "line 2: there are 3 words",
		"a b\n\nA c\n":             "line 3: A is in line 1",
		"a \xff\n":                 "line 1 is not in UTF-8",
		strings.Repeat("a", 1<<17): "can not be read",
	} {
		_, err := Users(strings.NewReader(text))
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "secret")
	}
}

func TestMailboxOf(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"alice", "bob", "carol"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o700))
	}
	path := filepath.Join(dir, "alice", mailboxName)
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, os.Symlink(path, filepath.Join(dir, "carol", mailboxName)))
	require.NoError(t, os.WriteFile(filepath.Join(dir, mailboxName), nil, 0o600))
	for login, want := range map[string]string{
		"alice": path, "bob": "", "carol": "", "dave": "", "../alice": "", "alice/../alice": "", "..": "", ".": "", "": "", `a\b`: "", "/etc": "",
	} {
		got, err := MailboxOf(dir, login)
		require.NoError(t, err)
		require.Equal(t, want, got, login)
	}
}
