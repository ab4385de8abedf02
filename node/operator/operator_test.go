package operator

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/operator/ids"
	"relay/node/replica"
	"relay/node/replica/replicatest"
	"relay/queue"
)

// fakeMembers is the membership of a cluster whose other nodes are functions.
type fakeMembers struct {
	status   cluster.Status
	answers  map[string]func(ctx context.Context, method string, req []byte) ([]byte, error)
	asked    []string
	removed  []string
	hash     func() (uint64, []byte, error)
	err      error
	mu       sync.Mutex
	upgrade  cluster.Upgrade
	rotates  cluster.Rotation
	sealKeys int
	without  []string
}

func (m *fakeMembers) Rotation() (cluster.Rotation, error) { return m.rotates, nil }

func (m *fakeMembers) NewSealKey(context.Context) error { m.sealKeys++; return nil }

func (m *fakeMembers) RotateCA(_ context.Context, without []string, _ *pb.Admin) error {
	m.rotates.Step, m.without = 1, without
	return m.err
}

func (m *fakeMembers) Upgrade() (cluster.Upgrade, error) { return m.upgrade, nil }

func (m *fakeMembers) Raise(context.Context, *pb.Admin) error {
	m.upgrade.Version = m.upgrade.Next
	return m.err
}

func (m *fakeMembers) Hold(_ context.Context, on bool, _ *pb.Admin) error {
	m.upgrade.Held = on
	return m.err
}

func (m *fakeMembers) Status(context.Context) (cluster.Status, error) { return m.status, nil }

func (m *fakeMembers) Token(_ context.Context, uses int, ttl time.Duration, adm *pb.Admin) (string, error) {
	return fmt.Sprintf("token %d %s %s", uses, ttl, adm.Who), m.err
}

func (m *fakeMembers) Remove(_ context.Context, id string, _ bool, _ *pb.Admin) error {
	m.removed = append(m.removed, id)
	return m.err
}

func (m *fakeMembers) Transfer(_ context.Context, id string) error {
	m.status.Leader = id
	return m.err
}

func (m *fakeMembers) MarkHash(context.Context, string) (uint64, []byte, error) { return m.hash() }

func (m *fakeMembers) Ask(ctx context.Context, node, method string, req []byte) ([]byte, error) {
	m.mu.Lock()
	m.asked = append(m.asked, node+" "+method)
	answer := m.answers[node]
	m.mu.Unlock()
	if answer == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return answer(ctx, method, req)
}

// world is an operator with all that it needs.
type world struct {
	*Operator
	t       testing.TB
	rep     *replicatest.Fake
	members *fakeMembers
	trial   []queue.Ref // being tried by n1
	epochs  map[string]uint64
	made    int64
}

var theBy = admin.By{Who: "olga", Why: "a test"}

// newWorld makes a cluster of three nodes, n1 (asked here, leads), n2 and n3,
// with the local domain example.test and the user alice.
func newWorld(t testing.TB) *world {
	r := replicatest.New(t)
	w := &world{
		t: t, rep: r, members: &fakeMembers{answers: map[string]func(context.Context, string, []byte) ([]byte, error){}},
		epochs: map[string]uint64{},
	}
	w.Operator = New(Config{
		Node: "n1", Hostname: "n1.example.test", Replica: r, Members: w.members, Log: zap.NewNop(),
		Now:          func() time.Time { return r.Clock },
		HashPassword: func(p string) (string, error) { return "$argon2id$hash-of-" + p, nil },
		Active:       func() []queue.Ref { return w.trial },
		Why:          func(queue.Ref) string { return "n1 waits for a turn" },
		NodeStats: func() NodeStats {
			return NodeStats{Uptime: 5, DiskFree: 50, DiskTotal: 100, POP3: 2, SMTP: 3, Version: "v1"}
		},
	})
	w.members.hash = func() (uint64, []byte, error) { return r.Index, r.Store.Sum(), nil }
	w.members.status = cluster.Status{Cluster: "c1", Name: "test", Node: "n1", Leader: "n1", Term: 3}
	for _, id := range []string{"n1", "n2", "n3"} {
		w.register(id)
		w.peer(id)
	}
	w.do(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "example.test"}, Create: true})
	w.do(spool.KindPutAccount, &pb.PutAccount{
		Account: &pb.Account{Address: "alice@example.test", Password: "$argon2id$x"}, Create: true,
	})
	return w
}

// register gives a node a session.
func (w *world) register(id string) {
	res := w.do(spool.KindRegister, &pb.Register{Nonce: id + fmt.Sprint(w.rep.Index), Member: &pb.Member{
		Id: id, MaxCommand: spool.MaxVersion, Address: id + ":7170", Admin: "http://" + id, Version: "v1",
		Hostname: id + ".example.test",
	}})
	w.epochs[id] = res.Epoch
	if id == "n1" {
		w.rep.Session = res.Epoch
	}
	role := memberVoter
	if id == "n1" {
		role = memberLeader
	}
	w.members.status.Members = append(w.members.status.Members, cluster.MemberStatus{
		ID: id, Role: role, Live: true, Answers: true, Epoch: res.Epoch, Applied: 1 << 40, Version: "v1",
	})
}

// peer makes another node answer, with nothing to say.
func (w *world) peer(id string) {
	w.members.answers[id] = func(_ context.Context, method string, req []byte) ([]byte, error) {
		peer := New(Config{
			Node: id, Members: w.members, NodeStats: func() NodeStats { return NodeStats{Uptime: 7, Version: "v1"} },
		})
		peer.Why = func(queue.Ref) string { return id + " waits for its turn" }
		return peer.Answer(context.Background(), "n1", method, req)
	}
}

func (w *world) member(id string) *cluster.MemberStatus {
	for i := range w.members.status.Members {
		if m := &w.members.status.Members[i]; m.ID == id {
			return m
		}
	}
	w.t.Fatalf("no member %s", id)
	return nil
}

// kill ends a node's session.
func (w *world) kill(id string) {
	var renewed uint64
	require.NoError(w.t, w.rep.View(func(v spool.View) error {
		s, _, err := v.Session(id)
		renewed = s.Renewed
		return err
	}))
	w.do(spool.KindExpire, &pb.Expire{Node: id, Epoch: w.epochs[id], Renewed: renewed})
	m := w.member(id)
	m.Live, m.Answers, m.Epoch = false, false, 0
	delete(w.members.answers, id)
	w.forget()
}

// forget empties what is remembered of the peers.
func (w *world) forget() { w.peers.activeAt, w.peers.vitalsAt = time.Time{}, time.Time{} }

// do applies a command that must succeed.
func (w *world) do(kind spool.Kind, h proto.Message, body ...[]byte) *pb.Result {
	w.t.Helper()
	res, err := replica.Propose(context.Background(), w.rep, kind, h, body...)
	require.NoError(w.t, err)
	require.Contains(w.t, []pb.Code{pb.Code_OK, pb.Code_DUPLICATE}, res.Code, res.Text)
	return res
}

// pass moves the clock.
func (w *world) pass(d time.Duration) { w.rep.Clock = w.rep.Clock.Add(d) }

// newID makes an id of now that sorts behind the others.
func (w *world) newID() spool.ID {
	id := ids.At(w.rep.Clock)
	w.made++
	binary.BigEndian.PutUint64(id[8:], uint64(w.made))
	return id
}

// accept takes a message in at n1.
func (w *world) accept(sender string, recipients ...string) spool.ID {
	return w.acceptAt("n1", sender, "Subject: x\r\n\r\ntext\r\n", recipients...)
}

func (w *world) acceptAt(node, sender, body string, recipients ...string) spool.ID {
	w.t.Helper()
	id := w.newID()
	h := &pb.Accept{Inline: true, Epoch: w.epochs[node], Message: &pb.Message{
		Id: id[:], CreatedMs: w.rep.Clock.UnixMilli(), Sender: sender, MessageId: strings.ToLower(id.String()) + "@x",
		Client: &pb.Client{Node: node, Address: "192.0.2.1:5", Protocol: "ESMTP"},
	}}
	for _, r := range recipients {
		if strings.HasSuffix(r, "@example.test") {
			h.Drops = append(h.Drops, &pb.Drop{Mailbox: r, Recipient: r, Header: []byte("Return-Path: <" + sender + ">\r\n")})
			continue
		}
		h.Recipients = append(h.Recipients, &pb.Recipient{Address: r})
	}
	w.do(spool.KindAccept, h, []byte(body))
	return id
}

// verdict settles or defers one recipient.
func (w *world) verdict(node string, id spool.ID, n, attempt uint32, st pb.State, reply string, next time.Duration) {
	w.t.Helper()
	v := &pb.Verdict{
		Id: id[:], Recipient: n, Attempt: attempt, State: st, Reply: reply, Host: "mx.remote.test [192.0.2.9]:25",
		AtMs: w.rep.Clock.UnixMilli(),
	}
	if st == pb.State_DEFERRED {
		v.NextMs = w.rep.Clock.Add(next).UnixMilli()
	}
	res := w.do(spool.KindSettle, &pb.Settle{Epoch: w.epochs[node], Node: node, Verdicts: []*pb.Verdict{v}})
	require.Equal(w.t, []pb.Code{pb.Code_OK}, res.Codes)
}

func listed(list []admin.QueueMessage) (all []string) {
	for _, m := range list {
		all = append(all, m.ID)
	}
	return all
}

func texts(list ...spool.ID) (all []string) {
	for _, id := range list {
		all = append(all, id.String())
	}
	return all
}

func TestErrorsOfProposals(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	for _, one := range []struct {
		fail error
		want error
	}{
		{cluster.ErrUnavailable, admin.ErrNoQuorum},
		{cluster.ErrUnknown, admin.ErrUnknown},
		{context.DeadlineExceeded, admin.ErrUnknown},
	} {
		w.rep.Fail = fmt.Errorf("wrapped: %w", one.fail)
		err := w.AddDomain(ctx, theBy, admin.Domain{Name: "new.test"})
		require.ErrorIs(t, err, one.want)
	}
	w.rep.Fail = errors.New("the disk")
	var p *admin.Error
	require.False(t, errors.As(w.AddDomain(ctx, theBy, admin.Domain{Name: "new.test"}), &p), "not the operator's business")
}

func TestRequestIsAppliedOnce(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	by := theBy
	by.Request = ulid.Make().String()
	require.NoError(t, w.AddDomain(ctx, by, admin.Domain{Name: "new.test"}))
	require.NoError(t, w.AddDomain(ctx, by, admin.Domain{Name: "new.test"}), "the same request")
	require.ErrorIs(t, w.AddDomain(ctx, theBy, admin.Domain{Name: "new.test"}), admin.ErrConflict, "another one")
	_, err := w.RemoveDomain(ctx, theBy, "new.test", admin.DropOptions{})
	require.NoError(t, err)
	by.Request = ulid.Make().String()
	require.NoError(t, w.AddDomain(ctx, by, admin.Domain{Name: "new.test"}))
	by.Request = ulid.Make().String()
	for range 2 {
		_, err = w.RemoveDomain(ctx, by, "new.test", admin.DropOptions{})
		require.NoError(t, err, "asked again after the answer was lost")
	}
	by.Request = "x"
	require.ErrorIs(t, w.AddDomain(ctx, by, admin.Domain{Name: "more.test"}), admin.ErrInvalid)
}
