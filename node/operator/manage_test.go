package operator

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
)

// states lists the recipients of the queue with their states.
func (w *world) states() map[string]string {
	all := map[string]string{}
	page, _, err := w.Queue(context.Background(), admin.QueuePage{Limit: admin.MaxPage})
	require.NoError(w.t, err)
	for _, m := range page {
		for _, r := range m.Recipients {
			all[r.Address] = r.State
		}
	}
	return all
}

func (w *world) manage(a admin.QueueAction) *admin.QueueActionResult {
	w.t.Helper()
	res, err := w.Manage(context.Background(), theBy, a)
	require.NoError(w.t, err)
	return res
}

func TestManageByIDs(t *testing.T) {
	w := newWorld(t)
	a := w.accept("s@x.test", "a1@far.test", "a2@far.test")
	b := w.accept("s@x.test", "b@far.test")
	done := w.accept("s@x.test", "alice@example.test")
	unknown := w.newID()
	names := append(texts(a, b, done, unknown, a), "garbage")

	dry := w.manage(admin.QueueAction{Action: admin.ActionHold, IDs: names, DryRun: true})
	require.Equal(t, 2, dry.Matched)
	require.Equal(t, 2, dry.Changed)
	require.Len(t, dry.Messages, 2)
	require.Len(t, dry.Refused, 3)
	require.Equal(t, map[string]string{
		"a1@far.test": "queued", "a2@far.test": "queued", "b@far.test": "queued",
	}, w.states())

	res := w.manage(admin.QueueAction{Action: admin.ActionHold, IDs: names})
	dry.DryRun = false
	require.Equal(t, dry, res, "a dry run says what is done")
	require.Equal(t, map[string]string{"a1@far.test": "held", "a2@far.test": "held", "b@far.test": "held"}, w.states())

	res = w.manage(admin.QueueAction{Action: admin.ActionRelease, IDs: texts(a), Recipient: "A2@far.test"})
	require.Equal(t, 1, res.Changed)
	require.Equal(t, map[string]string{"a1@far.test": "held", "a2@far.test": "queued", "b@far.test": "held"}, w.states())
	res = w.manage(admin.QueueAction{Action: admin.ActionHold, IDs: texts(a)})
	require.Equal(t, 1, res.Changed)
	res = w.manage(admin.QueueAction{Action: admin.ActionRetry, IDs: texts(b)})
	require.Equal(t, []admin.QueueRefusal{{ID: b.String(), Why: "it is held: release it"}}, res.Refused)
	require.Zero(t, res.Changed)
	require.Equal(t, 1, res.Matched)
	res = w.manage(admin.QueueAction{Action: admin.ActionRemove, IDs: texts(b), Recipient: "nobody@far.test"})
	require.Len(t, res.Refused, 1)
	res = w.manage(admin.QueueAction{Action: admin.ActionRemove, IDs: texts(b)})
	require.Equal(t, 1, res.Changed)
	res = w.manage(admin.QueueAction{Action: admin.ActionReroute, IDs: texts(a), Route: "SMTP:other.test"})
	require.Equal(t, 1, res.Changed)
	d, err := w.Message(context.Background(), a.String())
	require.NoError(t, err)
	require.Equal(t, []string{"smtp:other.test", "smtp:other.test"}, d.Route)
}

// A filter by recipients changes the recipients it picks and no others.
func TestManageByFilter(t *testing.T) {
	w := newWorld(t)
	w.accept("s@x.test", "a@far.test", "a@near.test")
	w.accept("s@x.test", "b@far.test")
	w.accept("other@x.test", "c@far.test")
	w.accept("s@x.test", "d@near.test")
	act := admin.QueueAction{
		Action: admin.ActionHold, All: true, Filter: admin.QueueFilter{Domain: "far.test", Sender: "s@x.test"}, DryRun: true,
	}
	dry := w.manage(act)
	require.Equal(t, 2, dry.Matched)
	require.Equal(t, 2, dry.Changed)
	act.DryRun = false
	res := w.manage(act)
	require.Equal(t, 2, res.Changed)
	require.Equal(t, map[string]string{
		"a@far.test": "held", "a@near.test": "queued", "b@far.test": "held", "c@far.test": "queued", "d@near.test": "queued",
	}, w.states())
	res = w.manage(admin.QueueAction{Action: admin.ActionRemove, All: true, Recipient: "c@far.test"})
	require.Equal(t, 1, res.Changed)
	require.Empty(t, res.Refused)
	res = w.manage(admin.QueueAction{Action: admin.ActionRemove, All: true})
	require.Equal(t, 3, res.Changed)
	require.Empty(t, w.states())
	require.Zero(t, w.manage(admin.QueueAction{
		Action: admin.ActionRetry, All: true, Filter: admin.QueueFilter{State: admin.StateHeld},
	}).Matched)
}

func TestManageInBatches(t *testing.T) {
	w := newWorld(t)
	for i := range manageIDs + 500 {
		w.accept("s@x.test", fmt.Sprintf("r%d@far.test", i))
	}
	before := len(w.rep.Frames)
	dry := w.manage(admin.QueueAction{Action: admin.ActionHold, All: true, DryRun: true})
	require.Len(t, w.rep.Frames, before)
	res := w.manage(admin.QueueAction{Action: admin.ActionHold, All: true})
	dry.DryRun = false
	require.Equal(t, dry, res, "a dry run says what is done, and to which messages")
	require.Equal(t, manageIDs+500, res.Changed)
	require.Equal(t, manageIDs+500, res.Matched)
	require.Len(t, res.Messages, manageShown)
	require.Len(t, w.rep.Frames[before:], 2)
	n, err := w.counter(spool.CountQueueRecipients)
	require.NoError(t, err)
	require.EqualValues(t, manageIDs+500, n)
}

func (w *world) counter(name string) (n int64, err error) {
	err = w.rep.View(func(v spool.View) error { n, err = v.Counter(name); return err })
	return n, err
}

func TestManageRefusesNonsense(t *testing.T) {
	w := newWorld(t)
	id := texts(w.accept("s@x.test", "a@far.test"))
	for _, a := range []admin.QueueAction{
		{Action: "explode", IDs: id},
		{Action: admin.ActionHold},
		{Action: admin.ActionHold, IDs: id, All: true},
		{Action: admin.ActionHold, IDs: id, Filter: admin.QueueFilter{Domain: "x.test"}},
		{Action: admin.ActionHold, IDs: id, Route: "mx"},
		{Action: admin.ActionHold, IDs: id, Reason: "because"},
		{Action: admin.ActionReroute, IDs: id},
		{Action: admin.ActionReroute, IDs: id, Route: "nowhere"},
	} {
		_, err := w.Manage(context.Background(), theBy, a)
		require.ErrorIs(t, err, admin.ErrInvalid, "%+v", a)
	}
	w.rep.Fail = cluster.ErrUnavailable
	_, err := w.Manage(context.Background(), theBy, admin.QueueAction{Action: admin.ActionHold, IDs: id})
	require.ErrorIs(t, err, admin.ErrNoQuorum)
}

// A request that is sent again changes nothing twice, and finishes what the
// first left over.
func TestManageAgain(t *testing.T) {
	w := newWorld(t)
	by := theBy
	by.Request = ulid.Make().String()
	a := admin.QueueAction{Action: admin.ActionRetry, All: true}
	w.accept("s@x.test", "a@far.test")
	_, err := w.Manage(context.Background(), by, a)
	require.NoError(t, err)
	_, err = w.Manage(context.Background(), by, a)
	require.NoError(t, err)
	b := w.accept("s@x.test", "b@far.test")
	w.pass(time.Second)
	_, err = w.Manage(context.Background(), by, a)
	require.NoError(t, err)
	trace, err := w.Trace(context.Background(), b.String())
	require.NoError(t, err)
	require.Equal(t, "retried", trace.Events[1].What)
	require.Equal(t, "olga", trace.Events[1].Who)
	lines, err := w.Audit(context.Background(), admin.AuditQuery{})
	require.NoError(t, err)
	n := 0
	for _, l := range lines {
		if l.Who == "olga" {
			n++
		}
	}
	require.Equal(t, 2, n)
}

// A message that was delivered between the look and the command is no error.
func TestManageMeetsDelivery(t *testing.T) {
	w := newWorld(t)
	id := w.accept("s@x.test", "a@far.test")
	m := &bulkAction{
		Operator: w.Operator, by: theBy, what: admin.QueueAction{Action: admin.ActionHold}, verb: pb.Action_HOLD,
	}
	w.verdict("n1", id, 0, 1, pb.State_DELIVERED, "250 ok", 0)
	require.NoError(t, m.command(context.Background(), "", &part{ids: [][]byte{id[:]}, messages: 1}))
	require.Zero(t, m.changed)
}

// The same action on all twice is no mistake, says how much was so already, and
// leaves one line in the audit log however many commands it takes.
func TestManageAllIsIdempotentAndOneAuditLine(t *testing.T) {
	w := newWorld(t)
	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c1", Name: "test", Version: 2}})
	for range 3 {
		w.accept("s@x.test", "a@far.test", "a@near.test", "b@far.test")
	}
	audits := func() []admin.AuditEntry {
		lines, err := w.Audit(context.Background(), admin.AuditQuery{})
		require.NoError(t, err)
		return lines
	}
	before := len(audits())
	for _, action := range []string{admin.ActionHold, admin.ActionRelease, admin.ActionRetry} {
		res := w.manage(admin.QueueAction{Action: action, All: true})
		require.Equal(t, 3, res.Changed, action)
		again := w.manage(admin.QueueAction{Action: action, All: true})
		require.Empty(t, again.Refused, action)
		if action != admin.ActionRetry {
			require.Zero(t, again.Changed, action)
			require.Equal(t, 3, again.Already, action)
		}
	}
	require.Len(t, audits(), before+4, "what changed nothing leaves no line")
	w.manage(admin.QueueAction{
		Action: admin.ActionReroute, All: true, Filter: admin.QueueFilter{Domain: "far.test"}, Route: "smtp:hub.test",
	})
	lines := audits()
	require.Len(t, lines, before+5, "two recipients of each of three messages")
	require.Contains(t, lines[0].What, "queue reroute of 3 messages: to smtp:hub.test, domain=far.test, ids ")
	w.manage(admin.QueueAction{Action: admin.ActionHold, All: true})
	retry := w.manage(admin.QueueAction{Action: admin.ActionRetry, All: true})
	require.Empty(t, retry.Refused)
	require.Equal(t, 3, retry.Already)
	require.Equal(t, 3, w.manage(admin.QueueAction{Action: admin.ActionRemove, All: true}).Changed)
	require.Empty(t, w.manage(admin.QueueAction{Action: admin.ActionRemove, All: true}).Refused)
}

// However many commands an action takes, it is one line in the audit log, which has
// the number of all messages.
func TestOneAuditLineForManyMessages(t *testing.T) {
	w := newWorld(t)
	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c1", Name: "test", Version: 2}})
	const messages = 2*manageIDs + 10
	for range messages {
		w.accept("s@x.test", "a@far.test")
	}
	audits := func() []admin.AuditEntry {
		lines, err := w.Audit(t.Context(), admin.AuditQuery{})
		require.NoError(t, err)
		return lines
	}
	for _, action := range []string{admin.ActionHold, admin.ActionRelease, admin.ActionBounce} {
		before := len(audits())
		require.Equal(t, messages, w.manage(admin.QueueAction{Action: action, All: true}).Changed)
		lines := audits()
		require.Len(t, lines, before+1, action)
		require.Contains(t, lines[0].What, fmt.Sprintf("queue %s of %d messages: all that waits, ids ", action, messages))
		require.Contains(t, lines[0].What, fmt.Sprintf(" and %d more", messages-noteIDs))
	}
}

// A caller that names a message that is so already is told that it was, and no error;
// a state that the action did not bring about is one.
func TestManageByIDTwice(t *testing.T) {
	w := newWorld(t)
	a, b := w.accept("s@x.test", "a@far.test"), w.accept("s@x.test", "b@far.test")
	twice := func(action string, id spool.ID) {
		act := admin.QueueAction{Action: action, IDs: texts(id)}
		res := w.manage(act)
		require.Equal(t, 1, res.Changed, action)
		res = w.manage(act)
		require.Empty(t, res.Refused, action)
		require.Zero(t, res.Changed, action)
		require.Equal(t, 1, res.Already, action)
	}
	twice(admin.ActionHold, a)
	require.Len(t, w.manage(admin.QueueAction{Action: admin.ActionRetry, IDs: texts(a)}).Refused, 1)
	twice(admin.ActionRelease, a)
	require.Equal(t, 1, w.manage(admin.QueueAction{Action: admin.ActionRetry, IDs: texts(a)}).Changed)
	require.Equal(t, 1, w.manage(admin.QueueAction{Action: admin.ActionRetry, IDs: texts(a)}).Changed)
	twice(admin.ActionRemove, a)
	twice(admin.ActionBounce, b)
	for _, id := range []spool.ID{w.newID(), b} { // nobody's, and one that was given back
		require.Len(t, w.manage(admin.QueueAction{Action: admin.ActionRemove, IDs: texts(id)}).Refused, 1)
	}
}
