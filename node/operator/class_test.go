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
	"relay/queue/replyclass"
)

// A failure shows its class where one message is looked at, and none in lists; the end by an operator or a rule has
// none.
func TestFailuresShowTheirClass(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	id := w.accept("s@remote.test", "grey@far.test", "full@far.test", "nobody@far.test", "fine@far.test", "fresh@far.test",
		"given@far.test")
	w.verdict("n1", id, 0, 1, pb.State_DEFERRED, "451 4.7.1 Greylisted", time.Minute)
	w.verdict("n1", id, 1, 1, pb.State_DEFERRED, "452 4.2.2 Mailbox full", time.Minute)
	w.verdict("n1", id, 2, 1, pb.State_BOUNCED, "550 5.1.1 User unknown", 0)
	w.verdict("n1", id, 3, 1, pb.State_DELIVERED, "250 Ok, User unknown", 0)
	w.verdict("n1", id, 1, 2, pb.State_DEFERRED, "4.4.1 connection refused", time.Minute)

	d, err := w.Message(ctx, id.String())
	require.NoError(t, err)
	got := map[string]string{}
	for _, r := range d.Recipients {
		got[r.Address] = r.Class
	}
	require.Equal(t, map[string]string{
		"grey@far.test": "greylist", "full@far.test": "network", "fresh@far.test": "", "given@far.test": "",
	}, got)
	why := strings.Join(d.Why, "\n")
	require.Contains(t, why, "Class greylist: "+replyclass.Greylist.Advice()+".")
	require.Contains(t, why, "Class network: ")
	require.NotContains(t, why, "Class bad_address")

	w.manage(admin.QueueAction{
		Action: admin.ActionBounce, IDs: texts(id), Recipient: "given@far.test", Reason: "User unknown",
	})
	tr, err := w.Trace(ctx, id.String())
	require.NoError(t, err)
	got = map[string]string{}
	for _, r := range tr.Recipients {
		got[r.Address] = r.Class
	}
	require.Equal(t, map[string]string{
		"grey@far.test": "greylist", "full@far.test": "network", "nobody@far.test": "bad_address", "fine@far.test": "",
		"fresh@far.test": "", "given@far.test": "",
	}, got)
	var lines []string
	for _, e := range tr.Events {
		if e.Class != "" {
			lines = append(lines, e.What+" "+e.Recipient+" "+e.Class)
		}
	}
	require.Equal(t, []string{
		"deferred grey@far.test greylist", "deferred full@far.test full", "bounced nobody@far.test bad_address",
		"deferred full@far.test network",
	}, lines)
	require.Empty(t, eventClass(nil, &pb.Event{What: "bounced", Host: "rule 7", Reply: "550 5.7.1 no"}))

	list, _, err := w.Queue(ctx, admin.QueuePage{Limit: 10})
	require.NoError(t, err)
	for _, r := range list[0].Recipients {
		require.Empty(t, r.Class, r.Address)
	}
}

// The site's own rules come before the built-in ones, for what happened before they were made, too.
func TestOwnRulesOfReplies(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	id := w.accept("s@remote.test", "a@far.test")
	w.verdict("n1", id, 0, 1, pb.State_DEFERRED, "451 4.7.1 Greylisted: quota of this hour used up", time.Minute)
	require.NoError(t, w.SetSettings(ctx, theBy, admin.Settings{ReplyRules: []string{"rate 451 quota of this hour"}}))
	d, err := w.Message(ctx, id.String())
	require.NoError(t, err)
	require.Equal(t, "rate", d.Recipients[0].Class)
	require.Contains(t, strings.Join(d.Why, "\n"), "Class rate: ")
	tr, err := w.Trace(ctx, id.String())
	require.NoError(t, err)
	require.Equal(t, "rate", tr.Recipients[0].Class)
	require.Equal(t, "rate", tr.Events[1].Class)
	s, err := w.Stats(ctx)
	require.NoError(t, err)
	require.Equal(t, "rate", s.Destinations[0].Class)
	require.Equal(t, map[string]uint64{"rate": 1}, s.Classes)
}

// Each destination says how many wait for what, and what its latest failure was.
func TestStatsByClass(t *testing.T) {
	w := newWorld(t)
	for i := range 30 {
		id := w.accept("s@remote.test", fmt.Sprintf("u%d@far.test", i), "x@other.test")
		w.verdict("n1", id, 0, 1, pb.State_DEFERRED, fmt.Sprintf("450 4.2.0 Greylisted, number %d", i), time.Hour)
		if i%3 == 0 {
			w.pass(time.Second)
			w.verdict("n1", id, 1, 1, pb.State_DEFERRED, "421 4.7.0 too many connections", time.Hour)
		}
	}
	w.pass(time.Minute)
	last := w.accept("s@remote.test", "last@far.test")
	w.verdict("n1", last, 0, 1, pb.State_DEFERRED, "4.4.1 connection refused", time.Hour)
	s, err := w.Stats(context.Background())
	require.NoError(t, err)
	require.Equal(t, map[string]uint64{"greylist": 30, "rate": 10, "network": 1}, s.Classes)
	require.Len(t, s.Advice, 2)
	require.Contains(t, s.Advice[0], "30 recipients are put off by greylisting: a retry rule")
	require.Contains(t, s.Advice[1], "10 recipients are put off because too much comes at a time")
	require.Empty(t, reactions(s.Classes,
		&pb.Settings{RetryRules: []string{"* greylist first=1m"}, SlowClasses: []string{"rate"}}), "they are made")
	require.Len(t, s.Destinations, 2)
	require.Equal(t, "network", s.Destinations[0].Class)
	require.Equal(t, map[string]uint64{"greylist": 30, "network": 1}, s.Destinations[0].Classes)
	require.Equal(t, "rate", s.Destinations[1].Class)
	require.Equal(t, map[string]uint64{"rate": 10}, s.Destinations[1].Classes)

	// A part that was read stands for the whole.
	m := &ageMatrix{
		now: w.rep.Clock, ages: admin.QueueAges(), rows: map[string]*ageRow{}, all: make([]float64, 6), every: 1,
	}
	require.NoError(t, w.rep.View(func(v spool.View) error {
		return m.slice(context.Background(), v, spool.ID{}, ids.Last(), 12, 0)
	}))
	d := admin.Destination{Domain: "far.test", Total: 62, Deferred: 31}
	m.finish(&d)
	sum := uint64(0)
	for _, n := range d.Classes {
		sum += n
	}
	require.EqualValues(t, 31, sum, "%v", d.Classes)
}

// However many replies there are, a bounded number is looked at and remembered.
func TestClassesAreBounded(t *testing.T) {
	var c classes
	for i := range 2 * classesLooked {
		reply := fmt.Sprintf("550 5.1.1 <%d>", i)
		class, ok := c.of(reply)
		require.Equal(t, i < classesLooked, ok, i)
		if ok {
			require.Equal(t, replyclass.BadAddress, class)
			_, ok = c.of(reply)
			require.True(t, ok)
		}
		require.LessOrEqual(t, len(c.known), classesKept)
	}
}
