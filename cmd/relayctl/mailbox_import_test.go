package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

// mboxOf writes an mbox of n small messages.
func mboxOf(t *testing.T, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "From a@b Thu Jan  1 00:00:01 1970\nSubject: %d\n\ntext\n\n", i)
	}
	path := filepath.Join(t.TempDir(), "inbox")
	require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o600))
	return path
}

func (w *world) importJSON(t *testing.T, wantCode int, args ...string) imported {
	t.Helper()
	out, stderr, code := w.ctl(t, "",
		append([]string{"mailbox", "import", "-o", "json", "alice@example.test"}, args...)...)
	require.Equal(t, wantCode, code, stderr)
	var done imported
	require.NoError(t, json.Unmarshal([]byte(out), &done), out)
	return done
}

// TestMailboxImportKeepsEqualMessages: two equal messages of one file stay two, and
// the same file again brings none.
func TestMailboxImportKeepsEqualMessages(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "inbox")
	one := "From a@b Thu Jan  1 00:00:01 1970\nA: 1\n\none\n\n"
	require.NoError(t, os.WriteFile(path, []byte(one+one), 0o600))
	require.Equal(t, 2, w.importJSON(t, 0, path, path).Messages)
	again := w.importJSON(t, 0, path)
	require.Equal(t, 0, again.Messages)
	require.Equal(t, 2, again.Known)
	require.NoError(t, os.WriteFile(path, []byte(one+one+one), 0o600))
	again = w.importJSON(t, 0, path)
	require.Equal(t, 1, again.Messages)
	require.True(t, again.Complete)
}

// TestMailboxImportOfTheStandardInput: "-" is an mbox that another program writes.
func TestMailboxImportOfTheStandardInput(t *testing.T) {
	w := newWorld(t)
	r, in, err := os.Pipe()
	require.NoError(t, err)
	stdin := os.Stdin
	os.Stdin = r
	defer func() { os.Stdin = stdin }()
	text, err := os.ReadFile(mboxOf(t, 3))
	require.NoError(t, err)
	_, err = in.Write(text)
	require.NoError(t, err)
	require.NoError(t, in.Close())
	done := w.importJSON(t, 0, "-")
	require.Equal(t, 3, done.Messages)
	require.True(t, done.Complete)
}

// TestMailboxImportGoesOn: an election and a node that goes away end no import, and
// each message is counted as what it is.
func TestMailboxImportGoesOn(t *testing.T) {
	w := newWorld(t)
	path := mboxOf(t, 2*batchMessages+10)
	calls := 0
	w.Fail = func(call string) error {
		if calls++; call == "ImportMail" && calls%2 == 0 {
			return admin.NoQuorum("nobody leads")
		}
		return nil
	}
	done := w.importJSON(t, 0, path)
	require.Equal(t, 2*batchMessages+10, done.Messages)
	require.Zero(t, done.Known)
	require.Len(t, done.IDs, done.Messages)
	require.Greater(t, calls, 4)
}

// TestMailboxImportInterrupted: the number that went in is told exactly, and the next
// run goes on behind it.
func TestMailboxImportInterrupted(t *testing.T) {
	w := newWorld(t)
	path := mboxOf(t, 3*batchMessages)
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	w.Fail = func(call string) error {
		if calls++; calls == 2 {
			cancel() // the signal comes while a batch is under way
		}
		return nil
	}
	w.ctx = ctx
	done := w.importJSON(t, 1, path)
	require.Equal(t, 2*batchMessages, done.Messages)
	require.False(t, done.Complete)
	w.ctx, w.Fail = nil, nil
	done = w.importJSON(t, 0, path)
	require.Equal(t, batchMessages, done.Messages)
	require.Equal(t, 2*batchMessages, done.Known)
}

func TestMailboxImportDryRunAndQuota(t *testing.T) {
	w := newWorld(t)
	_, stderr, code := w.ctl(t, "password\n", "user", "add", "carol@example.test", "--password-stdin",
		"--quota-messages", "2")
	require.Zero(t, code, stderr)
	path := mboxOf(t, 3)
	out, stderr, code := w.ctl(t, "", "mailbox", "import", "--dry-run", "--over-quota", "carol@example.test", path)
	require.Zero(t, code, stderr)
	require.Contains(t, out, "3 messages would go into the maildrop of carol@example.test.")
	out, stderr, code = w.ctl(t, "", "mailbox", "import", "carol@example.test", path)
	require.Equal(t, 1, code)
	require.Contains(t, out, "2 messages went")
	require.Contains(t, stderr, "inbox, message 3: mailbox carol@example.test is full")
	out, _, code = w.ctl(t, "", "mailbox", "import", "--over-quota", "carol@example.test", path)
	require.Zero(t, code)
	require.Contains(t, out, "1 message went into the maildrop of carol@example.test; 2 had been imported before.")
}

// TestMailboxImportKeepsUniqueIDs: by X-UIDL, dovecot-uidlist or a list; one that is
// taken, or that POP3 can not show, is refused by name, and comes in without.
func TestMailboxImportKeepsUniqueIDs(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	from := "From a@b Thu Jan  1 00:00:01 1970\n"
	mbox := write("inbox",
		from+"A: 1\nX-UIDL: abc\n\none\n\n"+from+"A: 2\nX-UIDL: abc\n\ntwo\n\n"+from+"A: 3\n\n"+from+"A: 4\nX-UIDL: a b\n\n")
	done := w.importJSON(t, 1, "--keep-uidl", mbox)
	require.Equal(t, 2, done.Messages)
	require.Len(t, done.LeftOut, 2)
	require.Contains(t, done.LeftOut[0].Why+done.LeftOut[1].Why, `has the unique id "abc" of another message`)
	require.Contains(t, done.LeftOut[0].Why+done.LeftOut[1].Why, `"a b", which POP3 can not show`)
	done = w.importJSON(t, 0, mbox)
	require.Equal(t, 2, done.Messages)
	require.Equal(t, 2, done.Known)

	write("md/cur/1000000000.M1P1.h:2,S", "B: 1\n\n")
	write("md/cur/1000000001.M1P1.h:2,", "B: 2\n\n")
	md := filepath.Join(dir, "md")
	write("md/dovecot-uidlist",
		"3 V1275660208 N3 G3085f01b7f11094c501100008c4a11c1\n1 PkeptByP :1000000000.M1P1.h\n2 :1000000001.M1P1.h\n")
	require.Equal(t, 2, w.importJSON(t, 0, "--keep-uidl", md).Messages)
	list := write("list", "1 first\n3 third one\n2 second\r\n")
	_, stderr, code := w.ctl(t, "", "mailbox", "import", "--keep-uidl="+list, "bob@example.test", mbox)
	require.Equal(t, 1, code, stderr)
	m, err := w.Mailbox(t.Context(), "alice@example.test")
	require.NoError(t, err)
	var ids []string
	for _, one := range m.Content {
		ids = append(ids, one.UIDL)
	}
	require.Equal(t, []string{"abc", "", "", "", "keptByP", "000000024c0907b0"}, ids)
	m, err = w.Mailbox(t.Context(), "bob@example.test")
	require.NoError(t, err)
	require.Equal(t, []string{"first", "second"}, []string{m.Content[0].UIDL, m.Content[1].UIDL})
	broken := write("broken", "one\n")
	_, stderr, code = w.ctl(t, "", "mailbox", "import", "--keep-uidl="+broken, "bob@example.test", mbox)
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "broken, line 1")
}

// TestMailboxImportSaysHowLongItTook: more than two seconds, and no terminal.
func TestMailboxImportSaysHowLongItTook(t *testing.T) {
	w := newWorld(t)
	var passed atomic.Int64
	w.Fail = func(string) error { passed.Add(5); return nil }
	w.now = func() time.Time { return time.Unix(1_700_000_000+passed.Load(), 0) }
	_, stderr, code := w.ctl(t, "", "mailbox", "import", "alice@example.test", mboxOf(t, 10))
	require.Zero(t, code, stderr)
	require.Contains(t, stderr, "10 messages, 2 a second, in 5s.")
}

// TestTheBarIsForTerminals: it comes after two seconds, says how many messages and how
// fast, and is gone at the end; elsewhere there is a line at the end.
func TestTheBarIsForTerminals(t *testing.T) {
	for _, terminal := range []bool{true, false} {
		var stderr bytes.Buffer
		now := time.Unix(1_700_000_000, 0)
		var passed atomic.Int64
		a := &app{stderr: &stderr, output: "table", now: func() time.Time { return now.Add(time.Duration(passed.Load())) }}
		p := a.workBar(t.Context())
		p.terminal = terminal
		p.expect([]string{mboxOf(t, 100)})
		p.add(1000, 10)
		require.Nil(t, p.bar, "work may be short")
		passed.Store(int64(4 * time.Second))
		p.add(2500, 60)
		require.Equal(t, terminal, p.bar != nil)
		if terminal {
			require.Positive(t, p.total)
			require.EqualValues(t, 3500, p.bar.Current())
			require.Equal(t, "60 messages, 15 a second, in 4s", p.rate())
		}
		p.add(10_000, 100) // packed, it was larger than it looked
		p.end(100)
		require.Contains(t, stderr.String(), "100 messages, 25 a second, in 4s.\n")
	}
}
