package operator

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
)

// inbox reads the messages in alice's mailbox.
func (w *world) inbox() (all []string) {
	m, err := w.Mailbox(context.Background(), "alice")
	require.NoError(w.t, err)
	for _, one := range m.Content {
		body, _, err := w.OpenMail(context.Background(), "alice", one.UID)
		require.NoError(w.t, err)
		b, err := io.ReadAll(body)
		require.NoError(w.t, err)
		require.NoError(w.t, body.Close())
		all = append(all, string(b))
	}
	return all
}

func TestBounceTellsTheSender(t *testing.T) {
	w := newWorld(t)
	id := w.accept("alice@example.test", "a1@far.test", "a2@far.test", "b@other.test")
	w.verdict("n1", id, 0, 1, pb.State_DEFERRED, "450 4.2.0 later", time.Hour)
	action := admin.QueueAction{Action: admin.ActionBounce, All: true, Filter: admin.QueueFilter{Domain: "far.test"},
		DryRun: true, Reason: "no such partner any more"}
	dry := w.manage(action)
	require.Equal(t, 1, dry.Changed)
	require.Len(t, w.states(), 3, "a dry run does nothing")
	require.Empty(t, w.inbox())

	action.DryRun = false
	res := w.manage(action)
	require.Equal(t, 1, res.Changed)
	require.Empty(t, res.Refused)
	require.Equal(t, map[string]string{"b@other.test": "queued"}, w.states())
	all := w.inbox()
	require.Len(t, all, 1, "one report on both")
	for _, part := range []string{
		"Final-Recipient: rfc822; a1@far.test", "Final-Recipient: rfc822; a2@far.test", "Status: 5.7.1",
		"no such partner any more", "Subject: x",
	} {
		require.Contains(t, all[0], part)
	}
	require.NotContains(t, all[0], "b@other.test")
	trace, err := w.Trace(context.Background(), id.String())
	require.NoError(t, err)
	last := trace.Events[len(trace.Events)-1]
	require.Equal(t, "notified", last.What)
	require.NotEmpty(t, last.Bounce)
	told := trace.Events[len(trace.Events)-2]
	require.Equal(t, "bounced", told.What)
	require.Equal(t, theBy.Who, told.Who)
	require.Equal(t, theBy.Why, told.Why)
	require.Equal(t, admin.StateBounced, trace.Recipients[0].State)
}

// TestBounceOfWhatNobodyIsToldOf: the null sender, reports, and NOTIFY=NEVER.
func TestBounceOfWhatNobodyIsToldOf(t *testing.T) {
	w := newWorld(t)
	null := w.accept("", "x@far.test")
	silent := w.newID()
	w.do(spool.KindAccept,
		&pb.Accept{Inline: true, Epoch: w.epochs["n1"], Message: &pb.Message{Id: silent[:], Sender: "alice@example.test"},
			Recipients: []*pb.Recipient{{Address: "y@far.test", Notify: 1}}}, []byte("Subject: z\r\n\r\n"))
	res := w.manage(admin.QueueAction{Action: admin.ActionBounce, IDs: texts(null, silent)})
	require.Equal(t, 2, res.Changed)
	require.Empty(t, w.states())
	require.Empty(t, w.inbox())
}

func TestBounceToARemoteSenderIsQueued(t *testing.T) {
	w := newWorld(t)
	id := w.accept("s@away.test", "x@far.test")
	require.Equal(t, 1, w.manage(admin.QueueAction{Action: admin.ActionBounce, IDs: texts(id)}).Changed)
	require.Equal(t, map[string]string{"s@away.test": "queued"}, w.states())
	page, _, err := w.Queue(context.Background(), admin.QueuePage{Limit: 5})
	require.NoError(t, err)
	require.Empty(t, page[0].Sender, "with the null reverse-path")
	require.Equal(t, "n1", page[0].Owner)
}

// TestBounceOfLongNames: recipients that do not fit one report go into several.
func TestBounceOfLongNames(t *testing.T) {
	w := newWorld(t)
	id := w.newID()
	var to []*pb.Recipient
	for i := range 200 {
		to = append(to, &pb.Recipient{
			Address: fmt.Sprintf("x%d@%sfar.test", i, strings.Repeat("y.", 110)), Original: "rfc822;" + strings.Repeat("o", 490),
		})
	}
	w.do(spool.KindAccept, &pb.Accept{
		Inline: true, Epoch: w.epochs["n1"], Message: &pb.Message{Id: id[:], Sender: "alice@example.test"}, Recipients: to,
	}, []byte("Subject: z\r\n\r\n"))
	res := w.manage(admin.QueueAction{Action: admin.ActionBounce, IDs: texts(id), Reason: strings.Repeat("r", 512)})
	require.Equal(t, 1, res.Changed)
	require.Empty(t, res.Refused)
	require.Empty(t, w.states())
	all := w.inbox()
	require.Greater(t, len(all), 1)
	for i := range 200 {
		require.Equal(t, 1, strings.Count(strings.Join(all, ""), fmt.Sprintf("Final-Recipient: rfc822; x%d@", i)))
	}
}

// TestBounceIsFenced: an entry tried since the operator looked is not reported as it
// no longer is.
func TestBounceIsFenced(t *testing.T) {
	w := newWorld(t)
	id := w.accept("alice@example.test", "x@far.test")
	m := &bulkAction{
		Operator: w.Operator, by: theBy, verb: pb.Action_BOUNCE, what: admin.QueueAction{Action: admin.ActionBounce},
		result: &admin.QueueActionResult{},
	}
	r := &bounceAction{id: id, record: &pb.Bouncing{Id: id[:], Recipients: []uint32{0}, Attempts: []uint32{0}},
		counts: true}
	require.NoError(t, m.write(r))
	w.verdict("n1", id, 0, 1, pb.State_DEFERRED, "450 4.2.0 later", time.Hour)
	require.NoError(t, m.bounce(context.Background(), []*bounceAction{r}))
	require.Zero(t, m.changed)
	require.Len(t, m.result.Refused, 1)
	require.Equal(t, map[string]string{"x@far.test": "deferred"}, w.states())
	require.Empty(t, w.inbox(), "no report without what it reports")
}
