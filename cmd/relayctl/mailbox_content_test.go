package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

func TestMailboxImportAndExport(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	mbox := file("inbox",
		"From a@b Thu Jan  1 00:00:01 1970\nA: 1\n\none\n\nFrom a@b Thu Jan  1 00:00:01 1970\nA: 2\n\ntwo\n\n")
	single := file("x.eml", "A: 3\n\nthree\n")
	out, stderr, code := w.ctl(t, "", "mailbox", "import", "alice@example.test", mbox, single)
	require.Zero(t, code, stderr)
	require.Contains(t, out, "3 messages")
	out, stderr, code = w.ctl(t, "", "mailbox", "import", "alice@example.test", mbox, single)
	require.Zero(t, code, stderr)
	require.Contains(t, out, "0 messages went into the maildrop of alice@example.test; 3 had been imported before.")

	file("my_mailbox.txt", "From: a\nhello\n.\nFrom: b\n.\n")
	_, stderr, code = w.ctl(t, "", "mailbox", "import", "alice@example.test", filepath.Join(dir, "my_mailbox.txt"),
		filepath.Join(dir, "none"))
	require.NotZero(t, code)
	require.Contains(t, stderr, "The import ended early; the same command goes on from there.")

	to := filepath.Join(dir, "out")
	out, stderr, code = w.ctl(t, "", "mailbox", "export", "alice@example.test", to)
	require.Zero(t, code, stderr)
	require.Contains(t, out, "5 messages")
	first, err := os.ReadFile(filepath.Join(to, "00000001.eml"))
	require.NoError(t, err)
	require.Equal(t, "A: 1\r\n\r\none\r\n", string(first))
	file("b.eml", "A: 4\n\nfour\n")
	_, stderr, code = w.ctl(t, "", "mailbox", "import", "alice@example.test", filepath.Join(dir, "b.eml"))
	require.Zero(t, code, stderr)
	require.NoError(t, os.Chtimes(filepath.Join(to, "00000002.eml"), time.Now(), time.Now()), "a copy that lost its time")
	out, _, code = w.ctl(t, "", "mailbox", "export", "alice@example.test", to)
	require.Zero(t, code)
	require.Contains(t, out, "6 messages of alice@example.test are in "+to+", 1 of them new.")
	require.NoError(t, os.WriteFile(filepath.Join(to, "00000001.eml"), []byte("B: 1\r\n\r\none\r\n"), 0o600))
	_, stderr, code = w.ctl(t, "", "mailbox", "export", "alice@example.test", to)
	require.NotZero(t, code, "nothing is written over")
	require.Contains(t, stderr, "00000001.eml is another message")
}

// TestMailboxImportLeavesOutWhatIsEmpty: one file of no octets does not end an
// import.
func TestMailboxImportLeavesOutWhatIsEmpty(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"a.eml": "", "b.eml": "A: 1\n\none\n"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	out, stderr, code := w.ctl(t, "", "mailbox", "import", "alice@example.test", dir)
	require.Zero(t, code, stderr)
	require.Contains(t, out, "1 message went")
	require.Contains(t, stderr, "a.eml has nothing in it")
}

// TestMailboxExportBesideItsUser: a message deleted while it goes on does not end an
// export, but a message that only could not be found does.
func TestMailboxExportBesideItsUser(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "inbox")
	require.NoError(t, os.WriteFile(path, []byte("From a@b x\nA: 1\n\nFrom a@b x\nA: 2\n\nFrom a@b x\nA: 3\n"), 0o600))
	_, stderr, code := w.ctl(t, "", "mailbox", "import", "alice@example.test", path)
	require.Zero(t, code, stderr)
	w.Fail = func(call string) error {
		if call == "OpenMail" {
			w.TakeOut("alice@example.test", 2)
		}
		return nil
	}
	out, stderr, code := w.ctl(t, "", "mailbox", "export", "alice@example.test", filepath.Join(dir, "out"))
	require.Zero(t, code, stderr)
	require.Contains(t, out, "2 messages")
	require.Contains(t, stderr, "deleted by its user meanwhile: 1 message")

	w.Fail = func(call string) error {
		if call == "OpenMail" {
			return admin.NotFound("message", "that this node does not have yet")
		}
		return nil
	}
	_, _, code = w.ctl(t, "", "mailbox", "export", "alice@example.test", filepath.Join(dir, "again"))
	require.NotZero(t, code)
}

// TestMailboxExportUnended: a message that is stored without its last line end is
// smaller than what POP3 sends, and known in its file all the same.
func TestMailboxExportUnended(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "a.eml")
	require.NoError(t, os.WriteFile(path, []byte("A: 1\r\n\r\nno end"), 0o600))
	_, stderr, code := w.ctl(t, "", "mailbox", "import", "alice@example.test", path)
	require.Zero(t, code, stderr)
	w.Grow("alice@example.test", 2)
	for _, said := range []string{"1 of them new", "0 of them new"} {
		out, stderr, code := w.ctl(t, "", "mailbox", "export", "alice@example.test", filepath.Join(dir, "out"))
		require.Zero(t, code, stderr)
		require.Contains(t, out, said)
	}
}

func TestMailboxShowsItsQuotas(t *testing.T) {
	w := newWorld(t)
	_, stderr, code := w.ctl(t, "password\n", "user", "add", "carol@example.test", "--password-stdin", "--quota", "1GB",
		"--quota-messages", "2")
	require.Zero(t, code, stderr)
	for _, args := range [][]string{{"show", "carol@example.test"}, {"ls"}} {
		out, stderr, code := w.ctl(t, "", append([]string{"mailbox"}, args...)...)
		require.Zero(t, code, stderr)
		require.Contains(t, out, "GB, 2 messages")
	}
}

// TestMailboxImportSwallowsNothing: a file that is not imported is named, and one that
// should be mail and is not makes the exit code 1 after the rest went in.
func TestMailboxImportSwallowsNothing(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.eml": "A: 1\n\none\n", "b.eml": "\x28\xb5\x2f\xfdpacked", "c.eml": "A: 3\nX-Mozilla-Status: 0009\n\nthree\n",
		"notes.txt": "x",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	out, stderr, code := w.ctl(t, "", "mailbox", "import", "alice@example.test", dir)
	require.Equal(t, 1, code, stderr)
	require.Contains(t, out, "1 message went")
	require.Regexp(t, `left out: \S*b\.eml is compressed with zstd`, stderr)
	require.Regexp(t, `left out: \S*c\.eml is marked as deleted`, stderr)
	require.Contains(t, stderr, "notes.txt")
	require.Contains(t, stderr, "1 item could not be read or taken")
	require.NoError(t, os.Remove(filepath.Join(dir, "b.eml")))
	out, stderr, code = w.ctl(t, "", "mailbox", "import", "--include-deleted", "bob@example.test", dir)
	require.Zero(t, code, stderr)
	require.Contains(t, out, "2 messages went")
}

func TestMailboxImportOfAMaildirFolder(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	for _, sub := range []string{"cur", ".Sent/cur"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, sub), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, sub, "1000000000.M1P1.x:2,S"), []byte("A: 1\n\n"+sub+"\n"), 0o600))
	}
	out, stderr, code := w.ctl(t, "", "mailbox", "import", "alice@example.test", dir)
	require.Zero(t, code, stderr)
	require.Contains(t, out, "1 message went")
	require.Contains(t, stderr, "--folder .Sent takes it")
	_, stderr, code = w.ctl(t, "", "mailbox", "import", "--folder", "Sent", "alice@example.test", dir)
	require.Zero(t, code, stderr)
	_, stderr, code = w.ctl(t, "", "mailbox", "import", "--folder", "Drafts", "alice@example.test", dir)
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "no folder Drafts: it has .Sent")
}
