package operator

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/operator/ids"
	"relay/node/replica/replicatest"
)

// newSecondWorld is a world whose cluster has version 2.
func newSecondWorld(t testing.TB) *world {
	w := newWorld(t)
	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	return w
}

// oldMail hands out messages of these texts, numbered as a client numbers them.
func oldMail(texts ...string) func() (*admin.OldMessage, error) {
	seen := map[string]uint32{}
	i := -1
	return func() (*admin.OldMessage, error) {
		if i++; i == len(texts) {
			return nil, io.EOF
		}
		text, uidl, _ := strings.Cut(texts[i], "\x00")
		sum := sha256.Sum256([]byte(text))
		m := &admin.OldMessage{
			Number: seen[text], Digest: sum[:], UIDL: uidl, Content: strings.NewReader(text),
			Received: admin.At(replicatest.Start),
		}
		seen[text]++
		return m, nil
	}
}

func outcomes(res *admin.ImportResult) (all []string) {
	for _, m := range res.Messages {
		all = append(all, m.Outcome)
	}
	return all
}

func theRequest(w *world, n byte) admin.By {
	request := ids.At(w.rep.Clock)
	request[15] = n
	return admin.By{Who: "olga", Request: ulid.ULID(request).String()}
}

// TestImportMail: a batch is one command, equal messages stay as many as there are,
// what comes again is known, and the same request is told that it was the one.
func TestImportMail(t *testing.T) {
	w := newSecondWorld(t)
	ctx := context.Background()
	large := strings.Repeat("0123456789abcde\n", 40_000)
	large = strings.ReplaceAll(large, "\n", "\r\n")
	texts := []string{"A: 1\r\n\r\none\r\n", "A: 2\r\n\r\ntwo\r\n", "A: 1\r\n\r\none\r\n", large, "A: 3\r\n\r\nthree\r\n"}
	frames := len(w.rep.Frames)
	res, err := w.ImportMail(ctx, theRequest(w, 1), "alice", admin.ImportOptions{}, oldMail(texts...))
	require.NoError(t, err)
	require.Nil(t, res.Stopped)
	stored, known := admin.ImportStored, admin.ImportKnown
	require.Equal(t, []string{stored, stored, stored, stored, stored}, outcomes(res))
	var kinds []spool.Kind
	for _, f := range w.rep.Frames[frames:] {
		kinds = append(kinds, f.Kind())
	}
	im, chunk := spool.KindImport, spool.KindChunk
	require.Equal(t, []spool.Kind{im, chunk, chunk, chunk, im, im}, kinds)

	again, err := w.ImportMail(ctx, theRequest(w, 1), "alice", admin.ImportOptions{Line: res.Line}, oldMail(texts...))
	require.NoError(t, err)
	require.Equal(t, res, again, "the answer got lost, and the request came again")
	again, err = w.ImportMail(ctx, theRequest(w, 2), "alice", admin.ImportOptions{}, oldMail(append(texts, texts[0])...))
	require.NoError(t, err)
	require.Equal(t, []string{known, known, known, known, known, stored}, outcomes(again))

	d, err := w.Mailbox(ctx, "alice")
	require.NoError(t, err)
	require.Len(t, d.Content, 6)
	for i, one := range d.Content[:5] {
		body, size, err := w.OpenMail(ctx, "alice", one.UID)
		require.NoError(t, err)
		require.True(t, texts[i] == readAll(t, body))
		require.EqualValues(t, len(texts[i]), size)
		require.Equal(t, admin.At(replicatest.Start), one.Received)
	}
	bodies := 0
	require.NoError(t, w.rep.Store.Scan([]byte{'o'}, []byte{'p'}, func(_, _ []byte) bool { bodies++; return true }))
	require.Zero(t, bodies, "nothing is left of what came again")
	audit, err := w.Audit(ctx, admin.AuditQuery{Limit: 10})
	require.NoError(t, err)
	require.Equal(t, "mailbox import alice@example.test, messages: 1", audit[0].What)
	require.Equal(t, "mailbox import alice@example.test, messages: 5", audit[1].What)
}

// TestImportMailKnowsTheAccount: a user who is removed and added again has none of it.
func TestImportMailKnowsTheAccount(t *testing.T) {
	w := newSecondWorld(t)
	ctx := context.Background()
	for n := range byte(2) {
		res, err := w.ImportMail(ctx, theRequest(w, n), "alice", admin.ImportOptions{}, oldMail("A: 1\r\n"))
		require.NoError(t, err)
		require.Equal(t, []string{admin.ImportStored}, outcomes(res))
		w.do(spool.KindDropAccount, &pb.DropAccount{Address: "alice@example.test"})
		w.do(spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: "alice@example.test"}, Create: true})
	}
}

// TestImportMailStops: the quota, the disk and a cluster without a majority end an
// import at an exact place.
func TestImportMailStops(t *testing.T) {
	w := newSecondWorld(t)
	ctx := context.Background()
	texts := make([]string, 2*maxOld+10)
	for i := range texts {
		texts[i] = fmt.Sprintf("A: %d\r\n", i)
	}
	opt := admin.ImportOptions{}
	alice := &pb.Account{Address: "alice@example.test", QuotaMessages: maxOld + 5}
	w.do(spool.KindPutAccount, &pb.PutAccount{Account: alice, Update: true})
	opt.DryRun = true
	res, err := w.ImportMail(ctx, theBy, "alice", opt, oldMail(texts...))
	require.NoError(t, err)
	require.Len(t, res.Messages, maxOld+5)
	require.ErrorContains(t, res.Stopped, "is full")
	opt.DryRun = false
	res, err = w.ImportMail(ctx, theBy, "alice", opt, oldMail(texts...))
	require.NoError(t, err)
	require.Len(t, res.Messages, maxOld+5)
	require.ErrorContains(t, res.Stopped, "--over-quota")

	opt.OverQuota = true
	looks := 0
	w.Operator.Full = func() bool { looks++; return looks > 1 }
	res, err = w.ImportMail(ctx, theBy, "alice", opt, oldMail(append(texts, texts[0])...))
	require.NoError(t, err)
	require.Len(t, res.Messages, 2*maxOld+5, "what was known, and a command")
	require.ErrorIs(t, res.Stopped, admin.ErrFull)
	_, err = w.ImportMail(ctx, theBy, "alice", opt, oldMail("B: 1\r\n"))
	require.ErrorIs(t, err, admin.ErrFull)

	w.Operator.Full = nil
	w.rep.Fail = cluster.ErrUnavailable
	res, err = w.ImportMail(ctx, theBy, "alice", opt, oldMail(texts...))
	require.NoError(t, err)
	require.Len(t, res.Messages, 2*maxOld+5)
	require.ErrorIs(t, res.Stopped, admin.ErrNoQuorum)
	w.rep.Fail = nil
	res, err = w.ImportMail(ctx, theBy, "alice", opt, oldMail(texts...))
	require.NoError(t, err)
	require.Nil(t, res.Stopped)
	d, err := w.Mailbox(ctx, "alice")
	require.NoError(t, err)
	require.Len(t, d.Content, len(texts))
}

// TestImportMailRefuses names what can not be imported.
func TestImportMailRefuses(t *testing.T) {
	ctx := context.Background()
	_, err := newWorld(t).ImportMail(ctx, theBy, "alice", admin.ImportOptions{}, oldMail("A: 1\r\n"))
	require.ErrorContains(t, err, "relayctl cluster upgrade", "cluster version 1")
	w := newSecondWorld(t)
	_, err = w.ImportMail(ctx, theBy, "nobody", admin.ImportOptions{}, oldMail("A: 1\r\n"))
	require.ErrorIs(t, err, admin.ErrNotFound)
	res, err := w.ImportMail(ctx, theBy, "alice", admin.ImportOptions{}, oldMail("A: 1\r\n", ""))
	require.NoError(t, err)
	require.Len(t, res.Messages, 1)
	require.ErrorContains(t, res.Stopped, "message 2 of the batch is empty")
	lying := oldMail(strings.Repeat("x", spool.MaxInline) + "y\r\n")
	_, err = w.ImportMail(ctx, theBy, "alice", admin.ImportOptions{}, func() (*admin.OldMessage, error) {
		m, err := lying()
		if err == nil {
			m.Digest = make([]byte, 32)
		}
		return m, err
	})
	require.ErrorContains(t, err, "is not what its digest says")
	chunks := 0
	require.NoError(t, w.rep.Store.Scan([]byte{'o'}, []byte{'p'}, func(_, _ []byte) bool { chunks++; return true }))
	require.Zero(t, chunks)
}

// TestImportMailKeepsUniqueIDs: a taken one is told, the rest goes in.
func TestImportMailKeepsUniqueIDs(t *testing.T) {
	w := newSecondWorld(t)
	ctx := context.Background()
	texts := []string{"A: 1\r\n\x00UID1", "A: 2\r\n\x00UID1", "A: 3\r\n"}
	want := []string{admin.ImportStored, admin.ImportTaken, admin.ImportStored}
	for _, dry := range []bool{true, false} {
		res, err := w.ImportMail(ctx, theBy, "alice", admin.ImportOptions{DryRun: dry}, oldMail(texts...))
		require.NoError(t, err)
		require.Equal(t, want, outcomes(res))
	}
	d, err := w.Mailbox(ctx, "alice")
	require.NoError(t, err)
	require.Len(t, d.Content, 2)
	require.Equal(t, "UID1", d.Content[0].UIDL)
	require.Regexp(t, `^[0-9a-z]+\.2$`, d.Content[1].UIDL)
}
