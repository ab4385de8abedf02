package operator

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/operator/ids"
	"relay/node/replica/replicatest"
)

func TestTrace(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	id := w.accept("s@x.test", "alice@example.test", "a@far.test", "b@far.test", "c@far.test", "d@far.test")
	w.pass(time.Minute)
	w.verdict("n1", id, 0, 1, pb.State_DEFERRED, "451 not yet", time.Minute)
	w.pass(time.Minute)
	w.verdict("n1", id, 0, 2, pb.State_DELIVERED, "250 2.0.0 taken", 0)
	w.verdict("n1", id, 1, 1, pb.State_BOUNCED, "550 no such user", 0)
	w.verdict("n1", id, 2, 1, pb.State_DEFERRED, "452 full", time.Hour)
	w.manage(admin.QueueAction{Action: admin.ActionHold, IDs: texts(id), Recipient: "d@far.test"})

	tr, err := w.Trace(ctx, id.String())
	require.NoError(t, err)
	require.Equal(t, "n1", tr.Owner)
	require.Equal(t, "192.0.2.1:5", tr.Client.Address)
	byAddress := map[string]admin.QueueRecipient{}
	for _, r := range tr.Recipients {
		byAddress[r.Address] = r
	}
	require.Len(t, byAddress, 5)
	require.Equal(t, admin.StateDelivered, byAddress["alice@example.test"].State)
	require.Equal(t, admin.QueueRecipient{
		Address: "a@far.test", Domain: "far.test", State: admin.StateDelivered, Attempts: 2, LastReply: "250 2.0.0 taken",
		LastAttempt: admin.At(replicatest.Start.Add(2 * time.Minute)),
	}, byAddress["a@far.test"])
	require.Equal(t, admin.StateBounced, byAddress["b@far.test"].State)
	require.Equal(t, admin.StateDeferred, byAddress["c@far.test"].State)
	require.Equal(t, "452 full", byAddress["c@far.test"].LastReply)
	require.Equal(t, admin.StateHeld, byAddress["d@far.test"].State)
	what := []string{}
	for _, e := range tr.Events {
		what = append(what, e.What)
	}
	require.Equal(t, []string{"accepted", "delivered", "deferred", "delivered", "bounced", "deferred", "held"}, what)

	// Finished: the same, from the timeline alone.
	w.manage(admin.QueueAction{Action: admin.ActionRemove, IDs: texts(id)})
	tr, err = w.Trace(ctx, id.String())
	require.NoError(t, err)
	require.Empty(t, tr.Owner)
	for _, r := range tr.Recipients {
		if r.Address == "c@far.test" {
			require.Equal(t, admin.StateDeleted, r.State)
			require.EqualValues(t, 1, r.Attempts)
			require.Equal(t, "452 full", r.LastReply)
		}
	}
	_, err = w.Trace(ctx, w.newID().String())
	require.ErrorIs(t, err, admin.ErrNotFound)
}

// An id that a client was told by another node a moment ago is no stranger.
func TestTraceCatchesUp(t *testing.T) {
	w := newWorld(t)
	id := w.newID()
	w.made-- // the next message gets it
	_, err := w.Trace(t.Context(), id.String())
	require.ErrorContains(t, err, "there is no message")
	w.rep.Arrive = func() { w.accept("s@x.test", "r@y.test") }
	got, err := w.Trace(t.Context(), id.String())
	require.NoError(t, err)
	require.Equal(t, id.String(), got.ID)
	w.rep.Arrive, w.rep.Fail = nil, errors.New("no majority")
	_, err = w.Trace(t.Context(), id.String())
	require.NoError(t, err, "what is known is told without a majority")
}

func TestFind(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	var all []spool.ID
	for i := range 40 {
		w.pass(time.Duration(i) * time.Minute)
		id := w.accept(fmt.Sprintf("s%d@x.test", i%4), fmt.Sprintf("r%d@far.test", i%5))
		if i%2 == 0 {
			w.verdict("n1", id, 0, 1, pb.State_DELIVERED, "250 ok", 0)
		}
		all = append(all, id)
	}
	found := func(q admin.TraceQuery) (got []string) {
		list, err := w.Find(ctx, q)
		require.NoError(t, err)
		for _, one := range list {
			got = append(got, one.ID)
		}
		return got
	}
	newest := func(match func(int) bool, limit int) (want []string) {
		for i := len(all) - 1; i >= 0 && len(want) < limit; i-- {
			if match(i) {
				want = append(want, all[i].String())
			}
		}
		return want
	}
	any := func(int) bool { return true }
	require.Equal(t, newest(any, 100), found(admin.TraceQuery{}))
	require.Equal(t, newest(any, 7), found(admin.TraceQuery{Limit: 7}))
	require.Equal(t, newest(func(i int) bool { return i%4 == 1 }, 100), found(admin.TraceQuery{From: "S1@x.test"}))
	require.Equal(t, newest(func(i int) bool { return i%5 == 2 }, 3), found(admin.TraceQuery{To: "r2@*", Limit: 3}))
	require.Equal(t, newest(func(i int) bool { return i >= 30 }, 100),
		found(admin.TraceQuery{Since: admin.AtMs(int64(all[30].Time()))}))
	require.Equal(t, texts(all[11]), found(admin.TraceQuery{MessageID: "<" + "0" + ulidLower(all[11])[1:] + "@x>"}))
	require.Empty(t, found(admin.TraceQuery{From: "nobody@x.test"}))
	require.Empty(t, found(admin.TraceQuery{Since: admin.At(w.rep.Clock.Add(time.Hour))}))
}

func ulidLower(id spool.ID) string {
	b := []byte(id.String())
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func TestFindSaysWhereItStopped(t *testing.T) {
	w := newWorld(t)
	for range 10 {
		w.pass(time.Second)
		w.accept("s@x.test", "a@far.test")
	}
	s, err := w.newScan(context.Background(), admin.QueueFilter{})
	require.NoError(t, err)
	f := &finder{query: admin.TraceQuery{To: "b@far.test", Limit: 5}, queueScan: s, scan: 100, histories: 4}
	_ = w.rep.View(func(v spool.View) error {
		_, more, err := f.stretch(context.Background(), v, spool.ID{}, ids.Last(), 100)
		require.NoError(t, err)
		require.False(t, more)
		return nil
	})
	require.Zero(t, f.histories)
}

func TestAudit(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	none, err := w.Audit(ctx, admin.AuditQuery{Since: admin.At(replicatest.Start.Add(time.Hour))})
	require.NoError(t, err)
	require.Empty(t, none)
	for i := range 50 {
		w.pass(time.Minute)
		for range i % 7 {
			w.accept("s@x.test", "alice@example.test") // gaps in the index
		}
		require.NoError(t, w.AddDomain(ctx, theBy, admin.Domain{Name: fmt.Sprintf("d%d.test", i)}))
	}
	lines, err := w.Audit(ctx, admin.AuditQuery{Limit: 3})
	require.NoError(t, err)
	require.Len(t, lines, 3)
	require.Equal(t, "domain add d49.test", lines[0].What)
	require.Equal(t, "domain add d47.test", lines[2].What)
	require.Equal(t, admin.AuditEntry{
		At: admin.At(w.rep.Clock), Who: "olga", Why: "a test", What: "domain add d49.test", Node: "n1", Index: w.rep.Index,
	}, lines[0])
	lines, err = w.Audit(ctx, admin.AuditQuery{})
	require.NoError(t, err)
	require.Len(t, lines, 52, "with those of the set-up")
	for i := range lines[1:] {
		require.Greater(t, lines[i].Index, lines[i+1].Index)
	}
	lines, err = w.Audit(ctx, admin.AuditQuery{Since: admin.At(w.rep.Clock.Add(-10 * time.Minute))})
	require.NoError(t, err)
	require.Len(t, lines, 11)
}
