package operator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/operator/ids"
	"relay/node/replica/replicatest"
	"relay/queue"
)

// pages reads a whole listing page by page.
func pages(t require.TestingT, o *Operator, p admin.QueuePage) (all []admin.QueueMessage) {
	for range 10000 {
		page, next, err := o.Queue(context.Background(), p)
		require.NoError(t, err)
		require.LessOrEqual(t, len(page), p.Limit)
		all = append(all, page...)
		if next == "" {
			return all
		}
		require.NotEqual(t, p.After, next, "no progress")
		p.After = next
	}
	t.Errorf("the listing does not end")
	return all
}

func TestQueueShowsWaitingMail(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	first := w.accept("s@remote.test", "a@Far.test", "b@other.test", "alice@example.test")
	w.pass(time.Hour)
	second := w.acceptAt("n2", "", "x\r\n", "c@far.test")
	w.accept("s@remote.test", "alice@example.test") // nothing waits
	w.verdict("n1", first, 0, 1, pb.State_DEFERRED, "451 4.7.1 Greylisted", 10*time.Minute)
	w.pass(time.Minute)

	page, next, err := w.Queue(ctx, admin.QueuePage{Limit: 10})
	require.NoError(t, err)
	require.Empty(t, next)
	require.Equal(t, texts(first, second), listed(page))
	require.Equal(t, admin.QueueMessage{
		ID: first.String(), Created: admin.At(replicatest.Start), AgeSeconds: 3660,
		Size:   uint64(len("Subject: x\r\n\r\ntext\r\n")),
		Sender: "s@remote.test", Owner: "n1",
		Recipients: []admin.QueueRecipient{
			{
				Address: "a@Far.test", Domain: "far.test", State: admin.StateDeferred, Attempts: 1,
				NextAttempt: admin.At(replicatest.Start.Add(70 * time.Minute)), LastReply: "451 4.7.1 Greylisted",
				LastAttempt: admin.At(replicatest.Start.Add(time.Hour)),
			},
			{Address: "b@other.test", Domain: "other.test", State: admin.StateQueued, NextAttempt: admin.At(replicatest.Start)},
		},
	}, page[0])
	require.Equal(t, "n2", page[1].Owner)

	for _, one := range []struct {
		filter     admin.QueueFilter
		want       []spool.ID
		recipients int
	}{
		{admin.QueueFilter{State: admin.StateDeferred}, []spool.ID{first}, 1},
		{admin.QueueFilter{Domain: "far.test"}, []spool.ID{first, second}, 2},
		{admin.QueueFilter{Domain: "nowhere.test"}, nil, 0},
		{admin.QueueFilter{Domain: "*.test"}, []spool.ID{first, second}, 3},
		{admin.QueueFilter{Sender: "<>"}, []spool.ID{second}, 1},
		{admin.QueueFilter{Sender: "@remote.test"}, []spool.ID{first}, 2},
		{admin.QueueFilter{Recipient: "B@other.test"}, []spool.ID{first}, 1},
		{admin.QueueFilter{Owner: "n2"}, []spool.ID{second}, 1},
		{admin.QueueFilter{OlderThanSeconds: 3600}, []spool.ID{first}, 2},
		{admin.QueueFilter{Error: "greylist"}, []spool.ID{first}, 1},
		{admin.QueueFilter{State: admin.StateHeld}, nil, 0},
		{admin.QueueFilter{State: admin.StateActive}, nil, 0},
	} {
		for _, sort := range []string{"created", "-created", "size"} {
			page, _, err := w.Queue(ctx, admin.QueuePage{Filter: one.filter, Limit: 10, Sort: sort})
			require.NoError(t, err)
			require.ElementsMatch(t, texts(one.want...), listed(page), "%+v", one.filter)
			n := 0
			for _, m := range page {
				n += len(m.Recipients)
			}
			require.Equal(t, one.recipients, n, "%+v", one.filter)
		}
	}
	_, _, err = w.Queue(ctx, admin.QueuePage{Sort: "colour"})
	require.ErrorIs(t, err, admin.ErrInvalid)
	for _, sort := range []string{"", "size"} {
		_, _, err = w.Queue(ctx, admin.QueuePage{After: "!", Sort: sort})
		require.ErrorIs(t, err, admin.ErrInvalid)
	}
}

func TestQueueShowsWhatIsTried(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	first := w.accept("s@remote.test", "a@far.test", "b@far.test")
	second := w.acceptAt("n2", "s@remote.test", "x\r\n", "c@far.test")
	w.accept("s@remote.test", "d@far.test")
	w.trial = []queue.Ref{{ID: queue.ID(first), Recipient: 1}}
	w.members.answers["n2"] = func(_ context.Context, method string, _ []byte) ([]byte, error) {
		require.Equal(t, askActive, method)
		return encodeRefs([]queue.Ref{{ID: queue.ID(second)}}), nil
	}
	page, _, err := w.Queue(ctx, admin.QueuePage{Limit: 10, Filter: admin.QueueFilter{State: admin.StateActive}})
	require.NoError(t, err)
	require.Equal(t, texts(first, second), listed(page))
	require.Equal(t, "b@far.test", page[0].Recipients[0].Address)
	require.Len(t, page[0].Recipients, 1)
	page, _, err = w.Queue(ctx, admin.QueuePage{
		Limit: 1, Sort: "-created", Filter: admin.QueueFilter{State: admin.StateActive},
	})
	require.NoError(t, err)
	require.Equal(t, texts(second), listed(page))

	stats, err := w.Stats(ctx)
	require.NoError(t, err)
	require.Equal(t, map[string]uint64{admin.StateActive: 2, admin.StateQueued: 2}, stats.States)
}

// A node that does not answer costs one page 300 ms, and then nobody anything.
func TestSilentPeerIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	delete(w.members.answers, "n3")
	began := time.Now()
	w.trying(context.Background())
	require.Less(t, time.Since(began), 2*time.Second)
	require.ElementsMatch(t, []string{"n2 active", "n3 active"}, w.members.asked)
	w.pass(100 * time.Millisecond)
	w.trying(context.Background())
	require.Len(t, w.members.asked, 2, "remembered for a second")
	w.pass(2 * time.Second)
	w.trying(context.Background())
	require.Equal(t, "n2 active", w.members.asked[2])
	require.Len(t, w.members.asked, 3)
	w.pass(10 * time.Second)
	w.trying(context.Background())
	require.Len(t, w.members.asked, 5)
}

// Every order shows every message once, in order, whatever the page size.
func TestQueuePagesProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		n := rapid.IntRange(0, 30).Draw(rt, "messages")
		raise := rapid.IntRange(0, 31).Draw(rt, "raise") // records have their message's size from there on
		w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
		for i := range n {
			if i == raise {
				w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
			}
			w.pass(time.Duration(rapid.SampledFrom([]int{0, 1, 40, 5000, 3600000, 90000000}).Draw(rt, "gap")) * time.Millisecond)
			var to []string
			for r := range rapid.IntRange(1, 4).Draw(rt, "recipients") {
				to = append(to, fmt.Sprintf("r%d@d%d.test", r, rapid.IntRange(0, 3).Draw(rt, "domain")))
			}
			id := w.acceptAt("n1", fmt.Sprintf("s%d@x.test", rapid.IntRange(0, 3).Draw(rt, "sender")),
				strings.Repeat("x", rapid.IntRange(1, 5).Draw(rt, "size")), to...)
			if i%3 == 0 {
				w.verdict("n1", id, 0, 1, pb.State_DEFERRED, "451 no", time.Minute)
			}
		}
		w.forget()
		all := pages(rt, w.Operator, admin.QueuePage{Limit: 1000})
		require.Len(rt, all, n)
		limit := rapid.IntRange(1, 12).Draw(rt, "limit")
		filter := admin.QueueFilter{}
		if rapid.Bool().Draw(rt, "filtered") {
			filter.Domain = "d1.test"
		}
		for _, key := range []string{orderCreated, orderSize, orderAttempts, orderNext, orderSender, orderDomain} {
			for _, down := range []bool{false, true} {
				var want []*waitingMail
				for _, m := range all {
					if m, ok := filter.Pick(m); ok {
						id, err := messageID(m.ID)
						require.NoError(rt, err)
						want = append(want, &waitingMail{id: id, mail: m})
					}
				}
				o := queueOrder{key, down}
				slices.SortFunc(want, func(a, b *waitingMail) int { return o.compare(o.rank(a), o.rank(b)) })
				sort := key
				if down {
					sort = "-" + key
				}
				got := pages(rt, w.Operator, admin.QueuePage{Limit: limit, Sort: sort, Filter: filter})
				require.Len(rt, got, len(want), sort)
				for i := range want {
					require.Equal(rt, want[i].mail, got[i], "%s %d", sort, i)
				}
			}
		}
	})
}

// backward meets every record once, newest first, however dense they stand.
func TestBackwardProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var all []spool.ID
		at := replicatest.Start
		for range rapid.IntRange(1, 6).Draw(rt, "bursts") {
			at = at.Add(time.Duration(rapid.IntRange(0, 1<<30).Draw(rt, "gap")) * time.Millisecond)
			for range rapid.SampledFrom([]int{1, 2, 50, 700, 6000}).Draw(rt, "size") {
				id := ids.At(at)
				id[14], id[15], id[13] = byte(len(all)>>8), byte(len(all)), byte(len(all)>>16)
				all = append(all, id)
				if rapid.SampledFrom([]bool{true, false, false, false}).Draw(rt, "step") {
					at = at.Add(time.Millisecond)
				}
			}
		}
		slices.SortFunc(all, spool.ID.Compare)
		seen, last, most := 0, ids.Last(), 0
		err := backward(context.Background(), at.Add(-time.Hour), all[0], ids.Last(),
			func(lo, hi spool.ID, limit int) (int, bool, error) {
				require.Equal(rt, last, hi)
				from, _ := slices.BinarySearchFunc(all, lo, spool.ID.Compare)
				to, _ := slices.BinarySearchFunc(all, hi, spool.ID.Compare)
				if n := to - from; n > limit {
					return limit + 1, true, nil
				}
				last = lo
				seen += to - from
				most = max(most, to-from)
				return to - from, true, nil
			})
		require.NoError(rt, err)
		require.Equal(rt, len(all), seen)
	})
}

func TestMessageSaysWhyItWaits(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	id := w.accept("s@remote.test", "a@far.test", "b@far.test", "c@far.test", "d@gone.test")
	require.NoError(t, w.SetRoute(ctx, theBy, admin.Route{Domain: "gone.test", Target: "smtp:smart.test"}))
	w.verdict("n1", id, 0, 1, pb.State_DEFERRED, "451 4.7.1 Greylisted", 10*time.Minute)
	w.do(spool.KindManage, &pb.Manage{Admin: &pb.Admin{Who: "olga", Why: "looks odd"}, Action: pb.Action_HOLD,
		Ids: [][]byte{id[:]}, Recipient: "b@far.test"})
	w.pass(2 * time.Minute)
	w.trial = []queue.Ref{{ID: queue.ID(id), Recipient: 2}}

	d, err := w.Message(ctx, strings.ToLower(id.String()))
	require.NoError(t, err)
	require.Equal(t, []string{"mx", "mx", "mx", "smtp:smart.test"}, d.Route)
	require.Equal(t, []string{"mx.remote.test [192.0.2.9]:25", "", "", ""}, d.LastHost)
	require.Equal(t, admin.At(replicatest.Start.Add(5*24*time.Hour)), d.Expires)
	require.Equal(t, []string{"n1", "n2", "n3"}, d.Replicas)
	why := strings.Join(d.Why, "\n")
	for _, part := range []string{
		"Node n1 is to deliver it.",
		"a@far.test: attempt 1 failed at 2026-05-04 12:00:00Z (2 minutes ago): mx.remote.test [192.0.2.9]:25 said 451 " +
			"4.7.1 Greylisted. The next attempt is due at 2026-05-04 12:10:00Z (in 8 minutes), by mx. The queue manager says: " +
			"n1 waits for a turn",
		"b@far.test: held by olga at 2026-05-04 12:00:00Z (2 minutes ago) (looks odd); it waits until 'relayctl " +
			"queue release " + id.String() + "'.",
		"c@far.test: is being tried right now by node n1 (attempt 1, by mx).",
		"d@gone.test: not tried yet; has been due since 2026-05-04 12:00:00Z (2 minutes ago), by smtp:smart.test: it goes " +
			"as soon as its turn comes.",
		"The queue gives up at 2026-05-09 12:00:00Z (in 4 days); then the sender gets a report.",
	} {
		require.Contains(t, why, part)
	}

	shut := w.accept("s@remote.test", "a@shut.test")
	w.verdict("n1", shut, 0, 1, pb.State_DEFERRED, "4.4.1 connection refused", 10*time.Minute)
	silent, err := w.Message(ctx, shut.String())
	require.NoError(t, err)
	require.Contains(t, silent.Why[1], "with mx.remote.test [192.0.2.9]:25: 4.4.1 connection refused. The next")

	said := w.Why
	w.Why = func(queue.Ref) string { return "waiting for its turn within the limit of domain:shut.test (rate=1/d)" }
	limited, err := w.Message(ctx, shut.String())
	require.NoError(t, err)
	require.Contains(t, strings.Join(limited.Why, " "), "While it waits for a limit it is not given up")
	require.NotContains(t, strings.Join(limited.Why, " "), "The queue gives up at")
	w.Why = said

	w.trial = nil
	w.kill("n1")
	d, err = w.Message(ctx, id.String())
	require.NoError(t, err)
	require.Contains(t, d.Why[0], "it took it over from n1 at")
	require.Contains(t, strings.Join(d.Why, " "), d.Owner+" waits for its turn")

	_, err = w.Message(ctx, w.newID().String())
	require.ErrorIs(t, err, admin.ErrNotFound)
	_, err = w.Message(ctx, "nonsense")
	require.ErrorIs(t, err, admin.ErrNotFound)
	done := w.accept("s@remote.test", "alice@example.test")
	_, err = w.Message(ctx, done.String())
	require.ErrorIs(t, err, admin.ErrNotFound)
	require.ErrorContains(t, err, "relayctl trace")
}

func TestOpenReadsTheMessage(t *testing.T) {
	w := newWorld(t)
	id := w.acceptAt("n1", "s@remote.test", "the text\r\n", "a@far.test")
	body, size, err := w.Open(context.Background(), id.String())
	require.NoError(t, err)
	require.EqualValues(t, 10, size)
	require.Equal(t, "the text\r\n", readAll(t, body))
	w.verdict("n1", id, 0, 1, pb.State_DELIVERED, "250 ok", 0)
	_, _, err = w.Open(context.Background(), id.String())
	require.ErrorIs(t, err, admin.ErrNotFound)
	require.ErrorContains(t, err, "its content is deleted")
	_, _, err = w.Open(context.Background(), w.newID().String())
	require.ErrorIs(t, err, admin.ErrNotFound)
}

func TestStats(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	old := w.acceptAt("n1", "s@remote.test", strings.Repeat("x", 100), "a@far.test", "b@other.test")
	w.verdict("n1", old, 0, 1, pb.State_DEFERRED, "451 first", time.Hour)
	w.pass(2 * time.Hour)
	mid := w.acceptAt("n2", "s@remote.test", strings.Repeat("x", 300), "c@far.test")
	w.verdict("n2", mid, 0, 1, pb.State_DEFERRED, "452 later", time.Hour)
	w.do(spool.KindManage, &pb.Manage{Action: pb.Action_HOLD, Ids: [][]byte{mid[:]}})
	w.pass(10 * time.Minute)
	w.acceptAt("n2", "s@remote.test", strings.Repeat("x", 50), "d@far.test")

	s, err := w.Stats(ctx)
	require.NoError(t, err)
	require.Equal(t, &admin.QueueStats{
		Total:  admin.QueueTotals{Messages: 3, Recipients: 4, Bytes: 450},
		States: map[string]uint64{admin.StateQueued: 2, admin.StateDeferred: 1, admin.StateHeld: 1},
		Ages:   admin.QueueAges(), Owners: map[string]uint64{"n1": 2, "n2": 2}, Classes: map[string]uint64{"system": 1},
		Destinations: []admin.Destination{
			{Domain: "far.test", Total: 3, Bytes: 450, Ages: []uint64{1, 1, 0, 1, 0, 0}, Deferred: 1, Parked: 1,
				LastReply: "452 later", Class: "system", Classes: map[string]uint64{"system": 1}},
			{Domain: "other.test", Total: 1, Bytes: 100, Ages: []uint64{0, 0, 0, 1, 0, 0}},
		},
	}, s)
}

// A sampled matrix adds up, and comes close to a counted one.
func TestStatsOfALongQueueAreSampled(t *testing.T) {
	w := newWorld(t)
	now := replicatest.Start.Add(26 * time.Hour)
	for i := range 2000 {
		// Two thirds in a burst, one third evenly.
		w.rep.Clock = replicatest.Start.Add(time.Duration(i) * 45 * time.Second)
		if i%3 != 0 {
			w.rep.Clock = now.Add(-2*time.Hour - time.Duration(i)*300*time.Millisecond)
		}
		w.rep.Clock = slices.MinFunc([]time.Time{w.rep.Clock, now}, time.Time.Compare)
		w.accept("s@remote.test", fmt.Sprintf("a@d%d.test", i%7%3))
	}
	w.rep.Clock = now
	matrix := func(fill func(*ageMatrix, spool.View) error) []float64 {
		m := &ageMatrix{now: now, ages: admin.QueueAges(), rows: map[string]*ageRow{}, all: make([]float64, 6), every: 1}
		require.NoError(t, w.rep.View(func(v spool.View) error { return fill(m, v) }))
		return m.all
	}
	exact := matrix(func(m *ageMatrix, v spool.View) error {
		return m.slice(context.Background(), v, spool.ID{}, ids.Last(), 1<<30, 0)
	})
	sampled := matrix(func(m *ageMatrix, v spool.View) error { return m.sample(context.Background(), v, 16) })
	for i := range exact {
		require.InDelta(t, exact[i], sampled[i], 0.08*2000, "column %d: %v %v", i, exact, sampled)
	}
}

func TestApportion(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shares := rapid.SliceOfN(rapid.Float64Range(0, 1e6), 1, 8).Draw(t, "shares")
		total := rapid.Uint64Range(0, 1e6).Draw(t, "total")
		var sum uint64
		for _, n := range apportion(shares, total) {
			sum += n
		}
		require.Equal(t, total, sum)
	})
}

func TestRefs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		refs := make([]queue.Ref, rapid.IntRange(0, 5).Draw(t, "n"))
		for i := range refs {
			copy(refs[i].ID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
			refs[i].Recipient = rapid.Uint32().Draw(t, "n")
		}
		got, err := decodeRefs(encodeRefs(refs))
		require.NoError(t, err)
		require.Equal(t, refs, got)
	})
	_, err := decodeRefs(make([]byte, 21))
	require.Error(t, err)
}
