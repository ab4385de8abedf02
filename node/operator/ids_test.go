package operator

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/operator/ids"
)

// The part of an id that tables show is enough for every verb that takes one, for
// waiting and for finished mail; the end of two ids names neither, and nothing is
// changed.
func TestIDsByTheirEnd(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	waits := w.accept("s@x.test", "a@far.test")
	other := w.accept("s@x.test", "b@far.test")
	done := w.accept("s@x.test", "alice@example.test")
	end := func(s string, n int) string { return s[len(s)-n:] }
	differ := 1
	for end(waits.String(), differ) == end(other.String(), differ) ||
		end(waits.String(), differ) == end(done.String(), differ) {
		differ++
	}
	differ = max(differ, 4)
	short := end(waits.String(), differ)

	m, err := w.Message(ctx, strings.ToLower(short))
	require.NoError(t, err)
	require.Equal(t, waits.String(), m.ID)
	body, _, err := w.Open(ctx, short)
	require.NoError(t, err)
	require.NoError(t, body.Close())
	tr, err := w.Trace(ctx, end(done.String(), 25))
	require.NoError(t, err)
	require.Equal(t, done.String(), tr.ID)
	res := w.manage(admin.QueueAction{Action: admin.ActionHold, IDs: []string{short, short, waits.String(), "0000"}})
	require.Equal(t, 1, res.Changed)
	require.Len(t, res.Refused, 1)
	require.Equal(t, admin.QueueRefusal{ID: "0000", Why: "there is no such message"}, res.Refused[0])

	w.pass(time.Second)
	twin := ids.At(w.rep.Clock) // ends as another one does, and is made later
	copy(twin[6:], waits[6:])
	w.do(spool.KindAccept, &pb.Accept{
		Inline: true, Epoch: w.epochs["n1"], Message: &pb.Message{Id: twin[:], CreatedMs: w.rep.Clock.UnixMilli()},
		Recipients: []*pb.Recipient{{Address: "c@far.test"}},
	}, []byte("Subject: x\r\n\r\n"))
	same := end(waits.String(), 8)
	_, err = w.Trace(ctx, same)
	require.ErrorContains(t, err, "the ids of 2 messages end in "+same+": "+waits.String()+", "+twin.String())
	_, err = w.Manage(ctx, theBy, admin.QueueAction{Action: admin.ActionRemove, IDs: []string{other.String(), same}})
	var problem *admin.Error
	require.ErrorAs(t, err, &problem)
	require.Equal(t, admin.TitleAmbiguous, problem.Title)
	require.Contains(t, w.states(), "b@far.test", "nothing is done where it isn't clear what is meant")
	for _, text := range []string{"123", "not an id", "ILOU"} {
		_, err = w.Trace(ctx, text)
		require.ErrorIs(t, err, admin.ErrNotFound, text)
	}
}

// Rows that a limit leaves out are counted, and shown by going on behind the last.
func TestCountsAndPages(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	for i := range 30 {
		w.pass(time.Minute)
		id := w.accept(fmt.Sprintf("s%d@x.test", i%2), fmt.Sprintf("a%d@far.test", i%3), "b@near.test")
		if i%10 == 0 {
			w.verdict("n1", id, 0, 1, pb.State_DELIVERED, "250 ok", 0)
			w.verdict("n1", id, 1, 1, pb.State_DELIVERED, "250 ok", 0)
		}
	}
	queue := func(f admin.QueueFilter) admin.Count {
		n, err := w.CountQueue(ctx, f)
		require.NoError(t, err)
		return *n
	}
	require.Equal(t, admin.Count{Count: 27}, queue(admin.QueueFilter{}))
	require.Equal(t, admin.Count{Count: 27}, queue(admin.QueueFilter{Domain: "near.test"}))
	require.Equal(t, admin.Count{Count: 15}, queue(admin.QueueFilter{Sender: "s1@x.test"}))
	require.Equal(t, admin.Count{Count: 9}, queue(admin.QueueFilter{Recipient: "a1@*"}))
	require.Equal(t, admin.Count{}, queue(admin.QueueFilter{Domain: "none.test"}))
	found := func(q admin.TraceQuery) admin.Count {
		n, err := w.CountFound(ctx, q)
		require.NoError(t, err)
		return *n
	}
	require.Equal(t, admin.Count{Count: 30}, found(admin.TraceQuery{Limit: 2}))
	require.Equal(t, admin.Count{Count: 15}, found(admin.TraceQuery{From: "s0@x.test"}))
	require.Equal(t, admin.Count{Count: 10}, found(admin.TraceQuery{To: "a2@far.test"}))
	require.Equal(t, admin.Count{Count: 10},
		found(admin.TraceQuery{Since: admin.At(w.rep.Clock.Add(-9*time.Minute - time.Second))}))

	var all []string
	q := admin.TraceQuery{Limit: 7}
	for {
		page, err := w.Find(ctx, q)
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		for _, one := range page {
			all = append(all, one.ID)
		}
		q.Before = all[len(all)-1]
	}
	whole, err := w.Find(ctx, admin.TraceQuery{})
	require.NoError(t, err)
	require.Len(t, all, len(whole))
	for i := range whole {
		require.Equal(t, whole[i].ID, all[i])
	}

	lines, err := w.Audit(ctx, admin.AuditQuery{})
	require.NoError(t, err)
	n, err := w.CountAudit(ctx, admin.AuditQuery{Limit: 1})
	require.NoError(t, err)
	require.Equal(t, admin.Count{Count: uint64(len(lines))}, *n)
	rest, err := w.Audit(ctx, admin.AuditQuery{Before: lines[0].Index})
	require.NoError(t, err)
	require.Equal(t, lines[1:], rest)
}

// Counting ends at a bound, and says so.
func TestCountsAreBounded(t *testing.T) {
	w := newWorld(t)
	for range 10 {
		w.accept("s@x.test", "a@far.test")
	}
	s, err := w.newScan(t.Context(), admin.QueueFilter{})
	require.NoError(t, err)
	f := &finder{
		query: admin.TraceQuery{To: "a@far.test", Limit: 100}, queueScan: s, scan: 100, histories: 4, count: &admin.Count{},
	}
	ended, err := w.search(context.Background(), f)
	require.NoError(t, err)
	require.True(t, ended)
	require.EqualValues(t, 4, f.count.Count)
}
