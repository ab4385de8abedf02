package spool_test

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"relay/cluster/spool"
	"relay/cluster/spool/memory"
	pb "relay/cluster/spool/spoolpb"
)

// historyInvariants recounts the windows and the expiry index, and checks that nothing
// is without the record by which it will go. Late has the ids that have references; true:
// finished late.
func historyInvariants(t require.TestingT, s *memory.Store, late map[spool.ID]bool) {
	var messages, bytes int64
	var closed uint64
	if v, _ := s.Get([]byte("zswept")); v != nil {
		closed = binary.BigEndian.Uint64(v)
	}
	windows := map[uint64]*pb.Window{}
	_ = s.Scan([]byte{'W'}, []byte{'X'}, func(k, v []byte) bool {
		var w pb.Window
		require.NoError(t, proto.Unmarshal(v, &w))
		at := binary.BigEndian.Uint64(k[1:])
		require.True(t, at >= closed || at == closed-1 && len(w.Cursor) > 0, "window %d is closed (%d)", at, closed)
		windows[at] = &w
		messages, bytes = messages+int64(w.Count), bytes+int64(w.Bytes)
		return true
	})
	index := map[spool.ID]bool{}
	_ = s.Scan([]byte{'e'}, []byte{'f'}, func(k, v []byte) bool {
		id, _ := toID(k[9:])
		index[id] = true
		n, _ := binary.Uvarint(v)
		messages, bytes = messages+1, bytes+int64(n)
		return true
	})
	counter := func(name string) int64 {
		n, err := spool.View{R: s}.Counter(name)
		require.NoError(t, err)
		return n
	}
	require.Equal(t, messages, counter(spool.CountHistoryMessages))
	require.Equal(t, bytes, counter(spool.CountHistoryBytes))
	for id, is := range late {
		if is {
			require.True(t, index[id], "%s is marked as late, and nothing will delete it", id)
		}
	}
	found := map[uint64]uint64{}
	_ = s.Scan([]byte{'m'}, []byte{'n'}, func(k, _ []byte) bool {
		id, _ := toID(k[1:])
		if _, there := late[id]; !there && !index[id] {
			found[id.Time()/60000]++
		}
		return true
	})
	for at, n := range found {
		require.NotNil(t, windows[at], "%d messages of window %d that nothing will delete", n, at)
	}
	for at, w := range windows {
		require.Equal(t, found[at], w.Count, "window %d", at)
	}
}

// idAt is an id of a time.
func idAt(at time.Time, n int) (id spool.ID) {
	_ = id.SetTime(uint64(at.UnixMilli()))
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	return id
}

// historyWorld is a replica of cluster version 2 and what a store that keeps everything
// would know of its messages.
type historyWorld struct {
	*replica
	epoch    uint64
	n        int
	open     []spool.ID // with a recipient in the queue
	boxed    []spool.ID // in the mailbox, by uid
	finished map[spool.ID]time.Time
	lines    map[spool.ID]int
}

func newHistoryWorld(t require.TestingT) *historyWorld {
	w := &historyWorld{replica: newReplica(t), finished: map[spool.ID]time.Time{}, lines: map[spool.ID]int{}}
	w.raised(2)
	w.user(alice)
	w.pass(3 * time.Minute)
	w.epoch = w.register("n1", "a")
	return w
}

// accept takes a message with an id of a time, for a remote recipient or a mailbox.
func (w *historyWorld) accept(at time.Time, box bool) spool.ID {
	w.n++
	id := idAt(at, w.n)
	h := acceptOf(id, w.epoch, []string{"x@far.example"})
	w.lines[id] = 1
	if box {
		h = acceptOf(id, w.epoch, nil, alice)
		w.boxed, w.lines[id] = append(w.boxed, id), 2
	} else {
		w.open = append(w.open, id)
	}
	require.Equal(w.t, pb.Code_OK, w.do(spool.KindAccept, h, []byte("body")).Code)
	return id
}

func (w *historyWorld) deliver(i int) {
	id := w.open[i]
	w.open = slices.Delete(w.open, i, i+1)
	require.Equal(w.t, pb.Code_OK, w.settle(w.epoch, id, 0, 1, pb.State_DELIVERED))
	w.finished[id] = w.now
	w.lines[id]++
}

// fetch takes the first n messages out of the mailbox.
func (w *historyWorld) fetch(first, n int) {
	token := w.lock("n1", w.epoch, "s").Token
	var uids []uint64
	for i := range n {
		uids = append(uids, uint64(first+i+1))
	}
	require.Equal(w.t, pb.Code_OK, w.remove(w.epoch, token, 1, true, uids...).Code)
	for w.do(spool.KindSweep, &pb.Sweep{Limit: 1000}).Count > 0 { // what the tombstone lists
	}
	for _, id := range w.boxed[first : first+n] {
		w.finished[id] = w.now
		w.lines[id]++
	}
}

// reload has the machine begin again with what the store has.
func (w *historyWorld) reload() {
	var err error
	w.m, err = spool.Load(w.store)
	require.NoError(w.t, err)
}

// check compares the state with what is known.
func (w *historyWorld) check(keep time.Duration, bounded bool) {
	invariants(w.t, w.store)
	now := time.UnixMilli(w.clock())
	for id, lines := range w.lines {
		end, finished := w.finished[id]
		if finished && (bounded || now.Sub(end) >= keep) {
			continue
		}
		_, there, err := w.view().Message(id)
		require.NoError(w.t, err)
		require.True(w.t, there, "message %s is gone, of %s", id, now.Sub(end))
		events, err := w.view().History(id)
		require.NoError(w.t, err)
		require.GreaterOrEqual(w.t, len(events), lines, "lines of %s", id)
		_, refs, err := w.view().Refs(id)
		require.NoError(w.t, err)
		require.Equal(w.t, !finished, refs)
	}
}

// sweepAll sweeps until nothing is left to sweep.
func (w *historyWorld) sweepAll() {
	for w.do(spool.KindSweep, &pb.Sweep{Limit: 7, Ages: true}).Count > 0 {
	}
}

// History of random messages, some of which are finished late or stay in a mailbox, is
// kept as long as it should be, and then nothing is left of it.
func TestHistoryByWindows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newHistoryWorld(t)
		const keep = 30 * time.Minute
		bounded, fetched := false, 0
		put := func(bytes uint64) {
			s := &pb.Settings{HistoryMs: keep.Milliseconds(), HistoryBytes: bytes}
			require.Equal(t, pb.Code_OK, w.do(spool.KindPutSettings, &pb.PutSettings{Settings: s}).Code)
		}
		put(0)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0, 1, 2:
				ahead := rapid.SampledFrom([]time.Duration{0, 0, 0, -time.Hour, time.Minute, time.Hour}).Draw(t, "ahead")
				w.accept(w.now.Add(ahead), rapid.Bool().Draw(t, "box"))
			case 3, 4:
				if n := len(w.open); n > 0 {
					w.deliver(rapid.IntRange(0, n-1).Draw(t, "which"))
				}
			case 5:
				if n := len(w.boxed) - fetched; n > 0 {
					n = rapid.IntRange(1, n).Draw(t, "fetched")
					w.fetch(fetched, n)
					fetched += n
				}
			case 6, 7:
				w.pass(rapid.SampledFrom([]time.Duration{20 * time.Second, 2 * time.Minute, 12 * time.Minute, time.Hour}).
					Draw(t, "pass"))
			case 8:
				if rapid.Bool().Draw(t, "restart") {
					w.reload()
				}
				w.sweep()
			case 9:
				bounded = true
				put(uint64(rapid.IntRange(1, 2000).Draw(t, "bound")))
			}
			w.check(keep, bounded)
		}
		for len(w.open) > 0 {
			w.deliver(0)
		}
		if n := len(w.boxed) - fetched; n > 0 {
			w.fetch(fetched, n)
		}
		w.check(keep, bounded)
		w.pass(keep + 75*time.Minute) // an id may be an hour ahead
		w.sweepAll()
		require.Zero(t, countKeys(w.replica, 'h')+countKeys(w.replica, 'm')+countKeys(w.replica, 'e')+
			countKeys(w.replica, 'W')+countKeys(w.replica, 'f'))
		require.Zero(t, w.counter(spool.CountHistoryMessages))
		require.Zero(t, w.counter(spool.CountHistoryBytes))
	})
}

// A message that is deferred for five days keeps all of its history between two ranges.
func TestAStragglerKeepsItsHistory(t *testing.T) {
	w := newHistoryWorld(t)
	w.accept(w.now, false)
	id := w.accept(w.now, false)
	w.accept(w.now, false)
	w.deliver(0)
	w.deliver(1)
	w.pass(5 * 24 * time.Hour)
	w.sweepAll()
	w.check(3*24*time.Hour, false)
	require.Equal(t, 1, countKeys(w.replica, 'm'))
	require.Zero(t, countKeys(w.replica, 'W'))
	w.deliver(0)
	require.Equal(t, 1, countKeys(w.replica, 'e'), "it is late")
	w.pass(2 * 24 * time.Hour)
	w.sweepAll()
	w.check(3*24*time.Hour, false)
	events, err := w.view().History(id)
	require.NoError(t, err)
	require.Len(t, events, 2)
	w.pass(25 * time.Hour)
	w.sweepAll()
	for _, kind := range []byte("hmef") {
		require.Zero(t, countKeys(w.replica, kind), "%c", kind)
	}
}

// Messages go one by one, a bounded number in each Sweep, where many of a window stay.
func TestAWindowWithManySurvivors(t *testing.T) {
	w := newHistoryWorld(t)
	at := w.now
	for i := range 400 {
		w.accept(at, i%2 == 0)
	}
	for len(w.open) > 0 {
		w.deliver(0)
	}
	w.pass(3*24*time.Hour + 12*time.Minute)
	for range 3 {
		w.do(spool.KindSweep, &pb.Sweep{Limit: 100, Ages: true})
		w.check(3*24*time.Hour, false)
		require.Equal(t, 1, countKeys(w.replica, 'W'))
	}
	w.fetch(0, 1)
	require.Equal(t, 1, countKeys(w.replica, 'e'), "a window that is being swept takes nothing")
	w.do(spool.KindSweep, &pb.Sweep{Limit: 100, Ages: true})
	w.do(spool.KindSweep, &pb.Sweep{Limit: 100, Ages: true})
	w.check(3*24*time.Hour, false)
	require.Zero(t, countKeys(w.replica, 'W'))
	require.Equal(t, 200, countKeys(w.replica, 'm'))
	require.EqualValues(t, 1, w.counter(spool.CountHistoryMessages))
}

// A window that was swept takes nothing more, also where the clock was set back since.
func TestAClosedWindowTakesNothing(t *testing.T) {
	w := newHistoryWorld(t)
	w.accept(w.now, false)
	w.accept(w.now, false)
	w.deliver(0)
	w.pass(40 * time.Minute)
	w.do(spool.KindPutSettings, &pb.PutSettings{Settings: &pb.Settings{HistoryBytes: 1}})
	w.sweep()
	require.Equal(t, 1, countKeys(w.replica, 'm'))
	from := w.clock()
	back := &pb.Clock{FromMs: from, ToMs: from - (38 * time.Minute).Milliseconds(), Admin: &pb.Admin{Who: "x", Why: "y"}}
	require.Equal(t, pb.Code_OK, w.do(spool.KindClock, back).Code)
	w.now = time.UnixMilli(w.clock())
	w.deliver(0)
	require.Equal(t, 1, countKeys(w.replica, 'e'))
	require.Zero(t, countKeys(w.replica, 'W'))
	invariants(t, w.store)
}

// The last message that is on time is kept as long as the first, and an id from the
// future is late.
func TestTheLastOnTimeIsKept(t *testing.T) {
	w := newHistoryWorld(t)
	id := w.accept(w.now, false)
	w.pass(9 * time.Minute)
	w.deliver(0)
	require.Equal(t, 1, countKeys(w.replica, 'W'))
	w.pass(3*24*time.Hour - 2*time.Minute)
	w.sweepAll()
	_, there, err := w.view().Message(id)
	require.NoError(t, err)
	require.True(t, there)
	w.pass(5 * time.Minute)
	w.sweepAll()
	require.Zero(t, countKeys(w.replica, 'm'))

	w.accept(w.now.Add(time.Hour), false)
	w.deliver(0)
	require.Equal(t, 1, countKeys(w.replica, 'e'))
	require.Zero(t, countKeys(w.replica, 'W'))
}

// The proposer of sweeps comes back at once while something is due, also where most of
// what a Sweep looked at stays, or where windows have few messages.
func TestASweepSaysThatMoreIsDue(t *testing.T) {
	w := newHistoryWorld(t)
	at := w.now
	for i := range 400 {
		w.accept(at, i > 0)
	}
	w.deliver(0)
	for range 40 {
		w.pass(time.Minute)
		w.accept(w.now, false)
		w.deliver(0)
	}
	w.pass(3*24*time.Hour + 12*time.Minute)
	const limit = 100
	for range 20 {
		if w.do(spool.KindSweep, &pb.Sweep{Limit: limit, Ages: true}).Count < limit {
			break
		}
	}
	invariants(t, w.store)
	require.Zero(t, countKeys(w.replica, 'W'))
	require.Zero(t, w.counter(spool.CountHistoryMessages))
	require.Zero(t, w.do(spool.KindSweep, &pb.Sweep{Limit: limit, Ages: true}).Count)
}

// The expiry index has what was finished before a Raise, without references. The state
// keeps it as long as what shares its minute and was finished after the Raise.
func TestHistoryAcrossARaise(t *testing.T) {
	const keep = 3 * 24 * time.Hour
	w := &historyWorld{replica: newReplica(t), finished: map[spool.ID]time.Time{}, lines: map[spool.ID]int{}}
	w.epoch = w.register("n1", "a")
	begin := w.now
	for _, ahead := range []time.Duration{0, 0, 5 * time.Minute, 5 * time.Minute, 5 * time.Minute} {
		w.accept(begin.Add(ahead), false)
	}
	w.deliver(0)
	w.deliver(1) // of 5 minutes ahead
	require.Equal(t, 2, countKeys(w.replica, 'e'))
	require.Zero(t, countKeys(w.replica, 'W'))
	w.raised(2)
	w.deliver(0) // of the minute of the Raise
	require.Equal(t, 3, countKeys(w.replica, 'e'))
	w.deliver(0)
	require.Equal(t, 1, countKeys(w.replica, 'W'))
	w.reload()
	w.check(keep, false)
	w.pass(keep + time.Minute)
	w.sweepAll()
	w.check(keep, false)
	require.Equal(t, 1, countKeys(w.replica, 'W'))
	require.EqualValues(t, 1, w.counter(spool.CountHistoryMessages))
	w.pass(20 * time.Minute)
	w.sweepAll()
	w.check(keep, false)
	require.Zero(t, w.counter(spool.CountHistoryMessages))
	require.Equal(t, 1, countKeys(w.replica, 'm'), "what is under way stays")
}
