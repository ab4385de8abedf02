package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

func TestUserImport(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	users := filepath.Join(dir, "userinfo.txt")
	require.NoError(t, os.WriteFile(users, []byte("dora secret1\nalice other\nemil secret2\n"), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "dora"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "dora", "my_mailbox.txt"),
		[]byte("From: a\nTo: b\nSubject: c\nReceived: 2020-01-02 03:04\nhello\nFrom: not a field\n..\n.\n"+
			"From: a\nTo: b\n.\n"), 0o600))
	args := []string{"user", "import", users, "--domain", "example.test", "--mail", dir}
	out, stderr, code := w.ctl(t, "", append(args, "--dry-run")...)
	require.Zero(t, code, stderr)
	require.Contains(t, out, "Nothing was changed")
	require.Contains(t, out, "2 users added, 1 user kept as they were, 2 messages")
	out, stderr, code = w.ctl(t, "", args...)
	require.Zero(t, code, stderr)
	require.Contains(t, out, "2 users added, 1 user kept as they were, 2 messages")
	require.NotContains(t, out+stderr, "secret")
	out, _, code = w.ctl(t, "", "mailbox", "show", "dora@example.test")
	require.Zero(t, code)
	require.Contains(t, out, "2 messages")
	out, _, code = w.ctl(t, "", args...)
	require.Zero(t, code)
	require.Contains(t, out, "0 users added, 3 users kept as they were, 0 messages")

	require.NoError(t, os.WriteFile(users, []byte("one two three\n"), 0o600))
	_, stderr, code = w.ctl(t, "", args...)
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "line 1")
}

// TestUserImportThatFails: a user who was added is left alone the next time, so the
// mail that did not come along is named, were it all of it.
func TestUserImportThatFails(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	users, folder := filepath.Join(dir, "userinfo.txt"), filepath.Join(dir, "dora")
	require.NoError(t, os.WriteFile(users, []byte("dora secret1\n"), 0o600))
	require.NoError(t, os.Mkdir(folder, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "my_mailbox.txt"), []byte("From: a\nTo: b\n.\n"), 0o600))
	w.Fail = func(call string) error {
		if call == "ImportMail" {
			return admin.Invalid("not this one")
		}
		return nil
	}
	_, stderr, code := w.ctl(t, "", "user", "import", users, "--domain", "example.test", "--mail", dir)
	require.NotZero(t, code)
	require.Contains(t, stderr,
		"'relayctl mailbox import dora@example.test "+filepath.Join(folder, "my_mailbox.txt")+"' goes on")
}
