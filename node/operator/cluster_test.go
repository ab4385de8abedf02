package operator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/replica/replicatest"
)

func TestStatus(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	w.accept("s@x.test", "a@far.test", "b@far.test")
	s, err := w.Status(ctx)
	require.NoError(t, err)
	require.True(t, s.Healthy, s.Problems)
	require.Equal(t, "test", s.Cluster)
	require.Equal(t, admin.QueueTotals{Messages: 1, Recipients: 2, Bytes: 20}, s.Queue)
	require.Equal(t, admin.Node{
		ID: "n1", State: admin.NodeAlive, Role: admin.RoleLeader, Applied: 1 << 40, Owned: 2,
		POP3Sessions: 2, SMTPSessions: 3,
		Version: "v1", DiskFree: 50, DiskTotal: 100, UptimeSeconds: 5, LastSeen: admin.At(replicatest.Start),
	}, s.Nodes[0])
	require.EqualValues(t, 7, s.Nodes[1].UptimeSeconds)

	w.kill("n2")
	s, err = w.Status(ctx)
	require.NoError(t, err)
	require.False(t, s.Healthy)
	require.Equal(t, admin.NodeDead, s.Nodes[1].State)
	require.Contains(t, strings.Join(s.Problems, "\n"),
		"node n2 is down: start it, or take it out with 'relayctl node rm n2'")
	require.Contains(t, strings.Join(s.Problems, "\n"), "2 of 3 voting nodes are up: no other may fail now")
	w.member("n2").Draining = true
	s, err = w.Status(ctx)
	require.NoError(t, err)
	require.Contains(t, strings.Join(s.Problems, "\n"),
		"node n2 is down, and drained: start it, then 'relayctl node undrain n2'")
	w.members.status.Leader = ""
	s, err = w.Status(ctx)
	require.NoError(t, err, "without a quorum too")
	require.Contains(t, s.Problems[0], "no leader")
}

func TestToken(t *testing.T) {
	w := newWorld(t)
	tok, err := w.Token(context.Background(), theBy, admin.TokenRequest{})
	require.NoError(t, err)
	require.Equal(t, &admin.Token{
		Token: "token 1 1h0m0s olga", Expires: admin.At(replicatest.Start.Add(time.Hour)), Uses: 1, Address: "n1:7170",
	}, tok)
	_, err = w.Token(context.Background(), theBy, admin.TokenRequest{Uses: 101})
	require.ErrorIs(t, err, admin.ErrInvalid)
	w.members.err = cluster.ErrUnavailable
	_, err = w.Token(context.Background(), theBy, admin.TokenRequest{})
	require.ErrorIs(t, err, admin.ErrNoQuorum)
}

func TestRemoveNode(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	w.acceptAt("n2", "s@x.test", "x\r\n", "a@far.test")
	change, err := w.Remove(ctx, theBy, "n2", admin.RemoveOptions{DryRun: true})
	require.NoError(t, err)
	require.Contains(t, strings.Join(change.Effects, "\n"), "the other nodes deliver what it was to: 1 recipient")
	require.Contains(t, change.Effects, "no node may fail then: the cluster would stop")
	require.Empty(t, w.members.removed)
	_, err = w.Remove(ctx, theBy, "n9", admin.RemoveOptions{})
	require.ErrorIs(t, err, admin.ErrNotFound)
	require.ErrorContains(t, err, "there is no node n9; 'relayctl node ls' lists them")

	w.kill("n3")
	_, err = w.Remove(ctx, theBy, "n2", admin.RemoveOptions{})
	require.ErrorIs(t, err, admin.ErrConflict)
	require.ErrorContains(t, err, "only 1 of 2 voting nodes")
	change, err = w.Remove(ctx, theBy, "n2", admin.RemoveOptions{Force: true, DryRun: true})
	require.NoError(t, err)
	require.Contains(t, change.Effects[0], "loses its quorum")
	_, err = w.Remove(ctx, theBy, "n3", admin.RemoveOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{"n3"}, w.members.removed)

	w.members.err = fmt.Errorf("%w: without n3 only 1 of 2 voters would be up: bring the others back first",
		cluster.ErrQuorum)
	_, err = w.Remove(ctx, theBy, "n3", admin.RemoveOptions{})
	var p *admin.Error
	require.True(t, errors.As(err, &p))
	require.Equal(t, "without n3 only 1 of 2 voters would be up", p.Detail)
	require.Equal(t, "bring the others back first", p.Next)

	w.members.err = fmt.Errorf("%w: configuration changed since 7 (latest is 9)", cluster.ErrChanged)
	_, err = w.Remove(ctx, theBy, "n3", admin.RemoveOptions{})
	require.ErrorIs(t, err, admin.ErrConflict)
	require.ErrorContains(t, err, "nothing was changed: the members have changed meanwhile")

	w.members.status.Members = w.members.status.Members[:1]
	_, err = w.Remove(ctx, theBy, "n1", admin.RemoveOptions{Force: true})
	require.ErrorIs(t, err, admin.ErrConflict)
}

// TestNodesAreJudgedByTheNewestMembers: a node that has not heard yet of its own vote, or of
// another node, does not refuse what is right: it looks again when it has caught up. It
// refuses where no leader answers.
func TestNodesAreJudgedByTheNewestMembers(t *testing.T) {
	for name, do := range map[string]func(*world) error{
		"remove": func(w *world) error {
			_, err := w.Remove(t.Context(), theBy, "n2", admin.RemoveOptions{DryRun: true})
			return err
		},
		"the last voter": func(w *world) error {
			_, err := w.Remove(t.Context(), theBy, "n1", admin.RemoveOptions{DryRun: true})
			return err
		},
		"drain": func(w *world) error {
			_, err := w.Drain(t.Context(), theBy, "n2", admin.DrainOptions{DryRun: true})
			return err
		},
		"rotate": func(w *world) error {
			_, err := w.RotateCA(t.Context(), theBy, admin.RotateOptions{Without: []string{"n2"}, DryRun: true})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			all := w.members.status.Members
			w.members.status.Members = all[:1]
			w.rep.Fail = cluster.ErrUnavailable
			err := do(w)
			require.True(t, errors.Is(err, admin.ErrNotFound) || errors.Is(err, admin.ErrConflict), "%v", err)
			w.rep.Fail = nil
			w.rep.Arrive = func() { w.members.status.Members = all }
			require.NoError(t, do(w))
		})
	}
}

// TestRemoveNodeWithoutAMajority: a removal that cannot be done now is refused, and
// does not wait until the node that was taken for dead is there again.
func TestRemoveNodeWithoutAMajority(t *testing.T) {
	w := newWorld(t)
	w.kill("n2")
	w.kill("n3")
	for _, o := range []admin.RemoveOptions{{}, {Force: true}, {DryRun: true}} {
		_, err := w.Remove(context.Background(), theBy, "n2", o)
		require.ErrorContains(t, err, "1 of 3 voting nodes answer, and 2 are needed")
		require.ErrorIs(t, err, admin.ErrNoQuorum)
	}
	require.Empty(t, w.members.removed)
}

func TestDrain(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	w.acceptAt("n2", "s@x.test", "x\r\n", "a@far.test")
	change, err := w.Drain(ctx, theBy, "n2", admin.DrainOptions{DryRun: true})
	require.NoError(t, err)
	require.Contains(t, change.Effects[1], "what it is to deliver goes to 2 other nodes: 1 recipient")
	require.Equal(t, "n2", w.owner())
	_, err = w.Drain(ctx, theBy, "n2", admin.DrainOptions{})
	require.NoError(t, err)
	require.Equal(t, "n2", w.owner(), "it hands over itself, when no attempt is under way")
	w.do(spool.KindAdopt, &pb.Adopt{From: w.epochs["n2"]})
	require.NotEqual(t, "n2", w.owner())
	w.member("n2").Draining = true
	s, err := w.Status(ctx)
	require.NoError(t, err)
	require.Equal(t, admin.NodeDrained, s.Nodes[1].State)
	w.kill("n3")
	_, err = w.Drain(ctx, theBy, "n1", admin.DrainOptions{})
	require.ErrorIs(t, err, admin.ErrConflict)
	_, err = w.Drain(ctx, theBy, "n3", admin.DrainOptions{})
	require.ErrorIs(t, err, admin.ErrConflict)
	_, err = w.Drain(ctx, theBy, "n2", admin.DrainOptions{Off: true})
	require.NoError(t, err)
}

// owner is who is to deliver the only message.
func (w *world) owner() string {
	page, _, err := w.Queue(context.Background(), admin.QueuePage{Limit: 1})
	require.NoError(w.t, err)
	return page[0].Owner
}

func TestTransfer(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	_, err := w.Transfer(ctx, theBy, "n9")
	require.ErrorIs(t, err, admin.ErrNotFound)
	change, err := w.Transfer(ctx, theBy, "n1")
	require.NoError(t, err)
	require.Contains(t, change.Effects[0], "leads already")
	w.member("n3").Live = false
	_, err = w.Transfer(ctx, theBy, "n3")
	require.ErrorIs(t, err, admin.ErrConflict)
	_, err = w.Transfer(ctx, theBy, "n2")
	require.NoError(t, err)
	require.Equal(t, "n2", w.members.status.Leader)
	w.members.status.Leader = ""
	_, err = w.Transfer(ctx, theBy, "n2")
	require.ErrorIs(t, err, admin.ErrNoQuorum)
}

func TestVerify(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	id := w.accept("s@x.test", "alice@example.test", "a@far.test", "b@far.test")
	w.verdict("n1", id, 0, 1, 5, "550 no", 0)
	done := w.accept("s@x.test", "c@far.test")
	w.verdict("n1", done, 0, 1, 4, "250 ok", 0)
	_, err := w.PutMail(ctx, theBy, "alice", admin.Time{}, strings.NewReader(strings.Repeat("x", 400000)))
	require.NoError(t, err)
	res, err := w.Verify(ctx, admin.VerifyOptions{Bodies: true})
	require.NoError(t, err)
	require.True(t, res.OK, res.Findings)
	require.Equal(t, admin.VerifyCounts{Messages: 3, Bodies: 2, Recipients: 1, Mailboxes: 1}, res.Checked)
	require.Len(t, res.Nodes, 3)

	// A node that differs, and one that is silent.
	w.members.answers["n2"] = func(context.Context, string, []byte) ([]byte, error) {
		return fmt.Appendf(nil, `{"index":%d,"hash":"AAAA"}`, w.rep.Index), nil
	}
	w.members.answers["n3"] = func(context.Context, string, []byte) ([]byte, error) { return nil, errors.New("no route") }
	w.register("n4")
	w.peer("n4")
	res, err = w.Verify(ctx, admin.VerifyOptions{})
	require.NoError(t, err)
	require.False(t, res.OK)
	require.Contains(t, res.Findings[0]+res.Findings[1], "node n2 holds another state")
	require.Contains(t, res.Findings[0]+res.Findings[1], "node n3 gave no hash: no route")
	require.Len(t, res.Findings, 2)
}

func TestVerifyFindsDamage(t *testing.T) {
	for name, damage := range map[string]func(w *world, id spool.ID, b spool.Batch){
		"references": func(_ *world, id spool.ID, b spool.Batch) {
			_ = b.Delete(append([]byte{'r'}, append(id[:], 0, 0, 0, 0)...))
		},
		"counter": func(_ *world, _ spool.ID, b spool.Batch) { _ = b.Set([]byte("c"+spool.CountQueueMessages), []byte{8}) },
		"body": func(_ *world, id spool.ID, b spool.Batch) {
			_ = b.Set(replicatest.BodyKey(id, 0), bytes.Repeat([]byte("y"), 20))
		},
		"cut off": func(_ *world, id spool.ID, b spool.Batch) { _ = b.Set(replicatest.BodyKey(id, 0), nil) },
		"entry":   func(_ *world, id spool.ID, b spool.Batch) { _ = b.Delete(append([]byte{'m'}, id[:]...)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			for range 3 {
				w.peer(fmt.Sprint("n", 2))
			}
			text, err := w.PutMail(context.Background(), theBy, "alice", admin.Time{},
				strings.NewReader(strings.Repeat("x", 18)+"\r\n"))
			require.NoError(t, err)
			put, err := messageID(text)
			require.NoError(t, err)
			queued := w.accept("s@x.test", "a@far.test")
			id := put
			if name == "references" {
				id = queued
			}
			require.NoError(t, w.rep.Store.Update(func(b spool.Batch) error { damage(w, id, b); return nil }))
			res, err := w.Verify(context.Background(), admin.VerifyOptions{Bodies: true})
			require.NoError(t, err)
			require.False(t, res.OK, name)
		})
	}
}

func TestAnswerRefusesTheUnknown(t *testing.T) {
	w := newWorld(t)
	_, err := w.Answer(context.Background(), "n2", "explode", nil)
	require.Error(t, err)
	_, err = w.Answer(context.Background(), "n2", askWhy, []byte("x"))
	require.Error(t, err)
}

func TestSend(t *testing.T) {
	w := newWorld(t)
	_, err := w.Send(context.Background(), theBy, admin.Envelope{Recipients: []string{"a"}}, strings.NewReader(""))
	require.ErrorIs(t, err, admin.ErrUnsupported)
	w.Submit = func(_ context.Context, sender string, _ []string, _ io.Reader, _ admin.By) (*admin.Receipt, error) {
		return &admin.Receipt{ID: sender}, nil
	}
	_, err = w.Send(context.Background(), theBy, admin.Envelope{}, strings.NewReader(""))
	require.ErrorIs(t, err, admin.ErrInvalid)
	r, err := w.Send(context.Background(), theBy, admin.Envelope{Sender: "s", Recipients: []string{"a"}},
		strings.NewReader(""))
	require.NoError(t, err)
	require.Equal(t, "s", r.ID)
}

// Status says how far back the history goes, and advises where its bound cuts it short.
func TestStatusSaysHowLongHistoryLasts(t *testing.T) {
	w := newWorld(t)
	id := w.accept("s@x.test", "a@far.test")
	w.verdict("n1", id, 0, 1, pb.State_DELIVERED, "250 ok", 0)
	w.pass(2 * time.Hour)
	w.accept("s@x.test", "a@far.test")
	s, err := w.Status(t.Context())
	require.NoError(t, err)
	require.InDelta(t, 7200, s.HistorySpan, 60)
	require.EqualValues(t, 3*24*3600, s.HistoryLasts)
	require.NotContains(t, strings.Join(s.Advice, "\n"), "history")

	w.do(spool.KindPutSettings, &pb.PutSettings{Settings: &pb.Settings{HistoryBytes: 1000}})
	s, err = w.Status(t.Context())
	require.NoError(t, err)
	require.Positive(t, s.HistoryLasts)
	require.Less(t, s.HistoryLasts, int64(12*3600))
	require.Contains(t, strings.Join(s.Advice, "\n"), "not 3 days: its bound is too low; raise it with")
}
