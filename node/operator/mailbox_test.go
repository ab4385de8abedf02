package operator

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/operator/ids"
	"relay/node/operator/inspect"
	"relay/node/replica/replicatest"
)

func readAll(t *testing.T, r io.ReadCloser) string {
	t.Helper()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	return string(b)
}

func TestMailboxes(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	id := w.accept("s@remote.test", "alice@example.test")
	w.do(spool.KindLock, &pb.TakeLock{
		Mailbox: "alice@example.test", Node: "n2", Epoch: w.epochs["n2"], Session: "s1", Remote: "192.0.2.7:1",
	})
	w.pass(90 * time.Second)
	all, err := w.Mailboxes(ctx)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.EqualValues(t, 1, all[0].Messages)
	require.Equal(t, "n2", all[0].Lock.Node)
	require.EqualValues(t, 90, all[0].Lock.AgeSeconds)
	d, err := w.Mailbox(ctx, "Alice")
	require.NoError(t, err)
	require.Equal(t, []admin.MailboxMessage{{
		UID: 1, ID: id.String(), Size: all[0].Bytes, Received: admin.At(replicatest.Start), Recipient: "alice@example.test",
		Sender: "s@remote.test",
		UIDL:   d.Content[0].UIDL,
	}}, d.Content)
	body, size, err := w.OpenMail(ctx, "alice", 1)
	require.NoError(t, err)
	text := readAll(t, body)
	require.EqualValues(t, size, len(text))
	require.True(t, strings.HasPrefix(text, "Return-Path: <s@remote.test>\r\n"))
	_, _, err = w.OpenMail(ctx, "alice", 2)
	require.ErrorIs(t, err, admin.ErrNotFound)

	_, err = w.Mailbox(ctx, "bob")
	require.ErrorIs(t, err, admin.ErrNotFound)
	_, err = w.Unlock(ctx, theBy, "bob", 0)
	require.ErrorIs(t, err, admin.ErrNotFound)
	u, err := w.Unlock(ctx, theBy, "alice", 0)
	require.NoError(t, err)
	require.Equal(t, "s1", u.Lock.Session)
	u, err = w.Unlock(ctx, theBy, "alice", 0)
	require.NoError(t, err)
	require.Nil(t, u.Lock)
}

// TestUnlockOfTheLockThatWasSeen: a mailbox that another session holds by now stays that one's.
func TestUnlockOfTheLockThatWasSeen(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	lock := func(session string) {
		w.do(spool.KindLock, &pb.TakeLock{Mailbox: "alice@example.test", Node: "n2", Epoch: w.epochs["n2"], Session: session})
	}
	lock("s1")
	d, err := w.Mailbox(ctx, "alice")
	require.NoError(t, err)
	seen := d.Lock.Token
	_, err = w.Unlock(ctx, theBy, "alice", seen)
	require.ErrorIs(t, err, admin.ErrInvalid, "of version 1, whose commands have no token")
	u, err := w.Unlock(ctx, theBy, "alice", 0)
	require.NoError(t, err)
	require.Equal(t, "s1", u.Lock.Session)

	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	lock("s2")
	_, err = w.Unlock(ctx, theBy, "alice", seen)
	require.ErrorIs(t, err, admin.ErrConflict)
	require.ErrorContains(t, err, "held by another session by now")
	d, err = w.Mailbox(ctx, "alice")
	require.NoError(t, err)
	require.Equal(t, "s2", d.Lock.Session)
	w.rep.Arrive = func() { // another one logs in meanwhile
		w.rep.Arrive = nil
		w.do(spool.KindBreakLock, &pb.BreakLock{Mailbox: "alice@example.test"})
		lock("s3")
	}
	u, err = w.Unlock(ctx, theBy, "alice", d.Lock.Token)
	require.ErrorIs(t, err, admin.ErrConflict)
	require.Nil(t, u)
	u, err = w.Unlock(ctx, theBy, "alice", 0)
	require.NoError(t, err)
	require.Equal(t, "s3", u.Lock.Session)
}

func TestPutMail(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	then := replicatest.Start.Add(-1000 * time.Hour)
	id, err := w.PutMail(ctx, theBy, "alice", admin.At(then), strings.NewReader("Message-ID: <m@x>\nSubject: s\n\nbody"))
	require.NoError(t, err)
	d, err := w.Mailbox(ctx, "alice")
	require.NoError(t, err)
	require.Equal(t, id, d.Content[0].ID)
	require.Equal(t, admin.At(then), d.Content[0].Received)
	body, _, err := w.OpenMail(ctx, "alice", d.Content[0].UID)
	require.NoError(t, err)
	require.Equal(t, "Message-ID: <m@x>\r\nSubject: s\r\n\r\nbody\r\n", readAll(t, body))
	trace, err := w.Trace(ctx, id)
	require.NoError(t, err)
	require.Equal(t, "m@x", trace.MessageID)
	require.Equal(t, "imported by olga: a test", trace.Events[0].Detail)

	_, err = w.PutMail(ctx, theBy, "bob", admin.Time{}, strings.NewReader("x"))
	require.ErrorIs(t, err, admin.ErrNotFound)
	_, err = w.PutMail(ctx, theBy, "alice", admin.Time{}, strings.NewReader(""))
	require.ErrorIs(t, err, admin.ErrInvalid)
	_, err = w.PutMail(ctx, theBy, "alice", admin.Time{}, iotest.ErrReader(io.ErrUnexpectedEOF))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

// A node that lags behind says of no mailbox that it is not there before it has caught
// up; nor of the cluster that it is too old.
func TestMailboxesThatAreAboutToArrive(t *testing.T) {
	ctx := context.Background()
	for what, do := range map[string]func(*world) error{
		"put": func(w *world) error {
			_, err := w.PutMail(ctx, theBy, "late@example.test", admin.Time{}, strings.NewReader("Subject: s\n\nx\n"))
			return err
		},
		"import": func(w *world) error {
			_, err := w.ImportMail(ctx, theRequest(w, 1), "late@example.test", admin.ImportOptions{Line: 1},
				oldMail("a: b\r\n\r\nx\r\n"))
			return err
		},
		"unlock": func(w *world) error { _, err := w.Unlock(ctx, theBy, "late@example.test", 0); return err },
		"show":   func(w *world) error { _, err := w.Mailbox(ctx, "late@example.test"); return err },
		"another": func(w *world) error {
			_, err := w.PutMail(ctx, theBy, "no@example.test", admin.Time{}, nil)
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			w.rep.Arrive = func() {
				w.rep.Arrive = nil
				w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
				w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
				w.do(spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: "late@example.test"}, Create: true})
			}
			if err := do(w); what != "another" {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, admin.ErrNotFound)
			}
			require.Nil(t, w.rep.Arrive, "it has caught up")
		})
	}
	w := newWorld(t)
	w.rep.Fail = cluster.ErrUnavailable
	_, err := w.PutMail(ctx, theBy, "late@example.test", admin.Time{}, nil)
	require.ErrorIs(t, err, admin.ErrNoQuorum)
}

func TestPutLargeMail(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	for _, size := range []int{spool.MaxInline - 2, spool.MaxInline, spool.MaxInline + 1, 2 * spool.MaxInline, 900000} {
		text := strings.Repeat("0123456789abcdef", size/16+1)[:size-2] + "\r\n"
		_, err := w.PutMail(ctx, theBy, "alice", admin.Time{}, strings.NewReader(text))
		require.NoError(t, err)
		d, err := w.Mailbox(ctx, "alice")
		require.NoError(t, err)
		last := d.Content[len(d.Content)-1]
		body, n, err := w.OpenMail(ctx, "alice", last.UID)
		require.NoError(t, err)
		require.EqualValues(t, size, n)
		require.True(t, readAll(t, body) == text)
		_ = w.rep.View(func(v spool.View) error {
			id, _ := messageID(last.ID)
			m, _, _ := v.Message(id)
			require.Empty(t, inspect.ReadBody(w.rep, id, m))
			return nil
		})
	}
}

// The same request makes the same message; the same request with another
// message, or another request, makes another.
// TestPutMailStopsBeforeTheDisk: an import ends at the watermark, where mail by
// SMTP does, and leaves nothing of the message it ends in.
func TestPutMailStopsBeforeTheDisk(t *testing.T) {
	w := newWorld(t)
	looks := 0
	w.Operator.Full = func() bool { looks++; return looks > 2 }
	_, err := w.PutMail(context.Background(), theBy, "alice", admin.Time{},
		strings.NewReader(strings.Repeat("Subject: large\n", 1<<20)))
	require.ErrorIs(t, err, admin.ErrFull)
	require.Equal(t, 3, looks, "once for each chunk")
	_, err = w.PutMail(context.Background(), theBy, "alice", admin.Time{}, strings.NewReader("x"))
	require.ErrorIs(t, err, admin.ErrFull)
	d, err := w.Mailbox(context.Background(), "alice")
	require.NoError(t, err)
	require.Empty(t, d.Content)
	bodies := 0
	require.NoError(t, w.rep.Store.Scan([]byte{'b'}, []byte{'c'}, func(_, _ []byte) bool { bodies++; return true }))
	require.Zero(t, bodies)
}

func TestPutMailIsTakenOnce(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	request := ids.At(w.rep.Clock)
	request[15] = 7
	by := admin.By{Who: "olga", Request: ulid.ULID(request).String()}
	large := strings.Repeat("x", 300000) + "\r\n"
	seen := map[string]bool{}
	for _, text := range []string{"one\r\n", "two\r\n", large, "one\r\n", large} {
		id, err := w.PutMail(ctx, by, "alice", admin.Time{}, strings.NewReader(text))
		require.NoError(t, err)
		seen[id] = true
	}
	require.Len(t, seen, 3)
	_, err := w.PutMail(ctx, theBy, "alice", admin.Time{}, strings.NewReader("one\r\n"))
	require.NoError(t, err)
	d, err := w.Mailbox(ctx, "alice")
	require.NoError(t, err)
	require.Len(t, d.Content, 4)
}

func FuzzCRLF(f *testing.F) {
	for _, seed := range []string{"", "a", "a\n", "a\r\n", "\n\n", "a\rb\n", "a\r", "\r", "\r\r\n\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		whole, err := io.ReadAll(newCRLF(bytes.NewReader(in)))
		require.NoError(t, err)
		single, err := io.ReadAll(iotest.OneByteReader(newCRLF(iotest.OneByteReader(bytes.NewReader(in)))))
		require.NoError(t, err)
		require.Equal(t, whole, single)
		require.NotContains(t, strings.ReplaceAll(string(whole), "\r\n", ""), "\n")
		if len(in) > 0 {
			require.True(t, bytes.HasSuffix(whole, []byte("\r\n")))
		}
		again, err := io.ReadAll(newCRLF(bytes.NewReader(whole)))
		require.NoError(t, err)
		require.Equal(t, whole, again)
		require.Equal(t, strings.Count(string(in), "\n"), bytes.Count(whole, []byte("\n"))-extraEnd(in))
	})
}

// extraEnd is 1 where the last line end was missing.
func extraEnd(in []byte) int {
	if len(in) == 0 || in[len(in)-1] == '\n' {
		return 0
	}
	return 1
}

// TestMailboxShowsAllHolders: of a shared maildrop every session is told.
func TestMailboxShowsAllHolders(t *testing.T) {
	w := newWorld(t)
	w.do(spool.KindPutAccount, &pb.PutAccount{
		Account: &pb.Account{Address: "alice@example.test", Password: "$argon2id$x", Shared: true}, Update: true,
	})
	for _, session := range []string{"s/1", "s/2"} {
		w.do(spool.KindLock, &pb.TakeLock{
			Mailbox: "alice@example.test", Node: "n1", Epoch: w.epochs["n1"], Session: session,
		})
	}
	d, err := w.Mailbox(t.Context(), "alice@example.test")
	require.NoError(t, err)
	require.Equal(t, "n1", d.Lock.Node)
	require.Len(t, d.Others, 1)
	require.NotEqual(t, d.Lock.Session, d.Others[0].Session)
}
