package spool_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

func decodeRanges(t require.TestingT, b []byte) (got []uint64) {
	require.NoError(t, spool.Ranges(b, 1<<62, func(first, last uint64) {
		for uid := first; uid <= last; uid++ {
			got = append(got, uid)
		}
	}))
	return got
}

func TestRanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		uids := rapid.SliceOfDistinct(rapid.Uint64Range(1, 300), rapid.ID).Draw(t, "uids")
		slices.Sort(uids)
		require.Equal(t, append([]uint64(nil), uids...), decodeRanges(t, spool.AppendRanges(nil, uids)))
	})
	var sparse []uint64
	for uid := uint64(1); len(sparse) < 100_000; uid += 1 + uid%97 {
		sparse = append(sparse, uid)
	}
	require.Less(t, len(spool.AppendRanges(nil, sparse)), spool.MaxInline)
	require.Error(t, spool.Ranges(spool.AppendRanges(nil, []uint64{5}), 4, func(_, _ uint64) {}))
}

func FuzzRanges(f *testing.F) {
	f.Add(spool.AppendRanges(nil, []uint64{1, 2, 3, 7, 100}))
	f.Add([]byte{0})
	f.Add([]byte{3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		end := uint64(0)
		_ = spool.Ranges(b, 1000, func(first, last uint64) {
			require.Greater(t, first, end)
			require.GreaterOrEqual(t, last, first)
			require.LessOrEqual(t, last, uint64(1000))
			end = last
		})
	})
}

// boxes of mail for alice, who may be shared.
func mailbox(t *testing.T, shared bool, n int) (r *replica, one, two uint64) {
	r = newReplica(t)
	one, two = r.register("n1", "a"), r.register("n2", "a")
	r.user(alice)
	if shared {
		require.Equal(t, pb.Code_OK,
			r.do(spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: alice, Shared: true}}).Code)
	}
	for i := range n {
		r.do(spool.KindAccept, acceptOf(newID(byte(i)), one, nil, alice), []byte("body"))
	}
	return r, one, two
}

const alice = "alice@here.example"

func (r *replica) lock(node string, epoch uint64, session string) *pb.Result {
	return r.do(spool.KindLock, &pb.TakeLock{Mailbox: alice, Node: node, Epoch: epoch, Session: session})
}

func (r *replica) remove(epoch, token, seq uint64, unlock bool, uids ...uint64) *pb.Result {
	return r.do(spool.KindRemove, &pb.Remove{
		Mailbox: alice, Epoch: epoch, Token: token, Seq: seq, Unlock: unlock, Ranges: spool.AppendRanges(nil, uids),
	})
}

func TestRemoveByRanges(t *testing.T) {
	r, one, _ := mailbox(t, false, 5)
	token := r.lock("n1", one, "s").Token
	require.Equal(t, pb.Code_INVALID,
		r.do(spool.KindRemove, &pb.Remove{Mailbox: alice, Epoch: one, Token: token, Ranges: []byte{0}}).Code)
	res := r.remove(one, token, 1, false, 1, 2, 3, 5)
	require.Equal(t, pb.Code_OK, res.Code)
	require.EqualValues(t, 4, res.Count)
	res = r.remove(one, token, 1, false, 1, 2, 3, 5)
	require.Equal(t, pb.Code_DUPLICATE, res.Code)
	require.Empty(t, res.Missing, "answered as the first time")
	require.Equal(t, pb.Code_OK, r.remove(one, token, 2, true).Code)
	require.EqualValues(t, 1, r.counter(spool.CountMailboxMessages))
	require.Equal(t, pb.Code_DUPLICATE, r.remove(one, token, 2, true).Code)
}

func TestSharedLock(t *testing.T) {
	r, one, two := mailbox(t, true, 4)
	a, b, c := r.lock("n1", one, "a"), r.lock("n2", two, "b"), r.lock("n1", one, "c")
	for _, res := range []*pb.Result{a, b, c} {
		require.Equal(t, pb.Code_OK, res.Code)
	}
	require.Equal(t, pb.Code_DUPLICATE, r.lock("n2", two, "b").Code)
	require.EqualValues(t, 1, r.remove(one, a.Token, 1, false, 1).Count)
	res := r.remove(two, b.Token, 1, false, 1, 2)
	require.EqualValues(t, 1, res.Count)
	require.Equal(t, []uint64{1}, decodeRanges(t, res.Missing))
	require.Equal(t, res.Missing, r.remove(two, b.Token, 1, false, 1, 2).Missing, "the same answer again")

	// Two leave, and each may ask again whether it was done.
	require.Equal(t, pb.Code_OK, r.remove(one, a.Token, 2, true).Code)
	require.Equal(t, pb.Code_OK, r.remove(two, b.Token, 2, true, 3).Code)
	require.Equal(t, pb.Code_DUPLICATE, r.remove(one, a.Token, 2, true).Code)
	require.Equal(t, pb.Code_STALE, r.remove(one, a.Token, 3, false, 4).Code, "fenced by its own token")
	require.Equal(t, pb.Code_OK, r.remove(one, c.Token, 1, false, 4).Code)

	// Not shared any more: the sessions that are in stay, nobody else comes in.
	r.do(spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: alice}})
	require.Equal(t, pb.Code_BUSY, r.lock("n2", two, "d").Code)
	r.do(spool.KindUnlock, &pb.Unlock{Mailbox: alice, Epoch: one, Token: c.Token})
	d := r.lock("n2", two, "d")
	require.Equal(t, pb.Code_OK, d.Code)
	r.do(spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: alice, Shared: true}})
	require.Equal(t, pb.Code_BUSY, r.lock("n1", one, "e").Code, "an exclusive lock stays one")
}

func TestSharedLocksEndWithTheirSession(t *testing.T) {
	r, one, two := mailbox(t, true, 1)
	a, b := r.lock("n1", one, "a"), r.lock("n2", two, "b")
	r.m.Changes()
	r.register("n1", "again")
	require.Equal(t, []uint64{a.Token}, r.m.Changes().Voided)
	require.Equal(t, pb.Code_STALE, r.remove(one, a.Token, 1, true, 1).Code)
	require.Equal(t, pb.Code_OK, r.remove(two, b.Token, 1, false, 1).Code)
	r.do(spool.KindBreakLock, &pb.BreakLock{Mailbox: alice})
	require.Equal(t, []uint64{b.Token}, r.m.Changes().Broken)
	_, held, err := r.view().Lock(alice)
	require.NoError(t, err)
	require.False(t, held)
}

// An operator takes away the locks that they saw, and none that was taken after those.
func TestBreakLockTakesNoLaterOne(t *testing.T) {
	for _, shared := range []bool{false, true} {
		r, one, two := mailbox(t, shared, 1)
		seen := r.lock("n1", one, "a").Token
		breakLock := func(token uint64) *pb.Result {
			return r.do(spool.KindBreakLock, &pb.BreakLock{Mailbox: alice, Token: token})
		}
		res := breakLock(seen)
		require.Equal(t, pb.Code_OK, res.Code)
		require.Equal(t, seen, res.Lock.Token)
		require.Equal(t, pb.Code_MISSING, breakLock(seen).Code)
		later := r.lock("n2", two, "b").Token
		r.m.Changes()
		require.Equal(t, pb.Code_STALE, breakLock(seen).Code, "proposed again")
		require.Empty(t, r.m.Changes().Broken)
		require.Equal(t, pb.Code_OK, r.remove(two, later, 1, false, 1).Code)
		if shared {
			latest := r.lock("n1", one, "c").Token
			r.m.Changes()
			require.Equal(t, later, breakLock(later).Lock.Token)
			require.Equal(t, []uint64{later}, r.m.Changes().Broken)
			later = latest
		}
		held, ok, err := r.view().Lock(alice)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, later, held.Token)
		require.Empty(t, held.Others)
		require.Equal(t, shared, held.Shared)
		require.Equal(t, pb.Code_OK, breakLock(0).Code, "as in version 1")
		require.Equal(t, pb.Code_MISSING, breakLock(0).Code)
	}
}

func TestLoginDelay(t *testing.T) {
	r, one, two := mailbox(t, false, 0)
	r.do(spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: alice, LoginDelayMs: 60_000}})
	token := r.lock("n1", one, "a").Token
	require.Equal(t, pb.Code_OK, r.remove(one, token, 1, true).Code)
	res := r.lock("n2", two, "b")
	require.Equal(t, pb.Code_TOO_SOON, res.Code)
	require.NotZero(t, res.UntilMs)
	res = r.do(spool.KindLock, &pb.TakeLock{Mailbox: alice, Node: "n2", Epoch: two, Session: "w", Wake: true})
	require.Equal(t, pb.Code_OK, res.Code, "WAKE is no login")
	r.do(spool.KindUnlock, &pb.Unlock{Mailbox: alice, Epoch: two, Token: res.Token})
	r.now = r.now.Add(time.Minute)
	require.Equal(t, pb.Code_OK, r.lock("n2", two, "b").Code)
}

func TestTally(t *testing.T) {
	r := newReplica(t)
	tally := func(seq uint64, network string, count uint32, clear bool) pb.Code {
		return r.do(spool.KindTally, &pb.Tally{
			Node: "n1", Seq: seq, Tried: []*pb.Tried{{Network: network, Count: count, Clear: clear}},
		}).Code
	}
	count := func(network string) uint32 {
		f, _, err := r.view().Failures(network)
		require.NoError(t, err)
		return f.Count
	}
	tally(1, "192.0.2.1/32", 2, false)
	require.Equal(t, pb.Code_DUPLICATE, tally(1, "192.0.2.1/32", 2, false))
	tally(2, "192.0.2.1/32", 3, false)
	tally(3, "192.0.2.2/32", 1, false)
	tally(4, "\x00n1", 1, false)
	require.EqualValues(t, 5, count("192.0.2.1/32"))
	require.EqualValues(t, 2, r.counter("logins.networks"))
	tally(5, "192.0.2.1/32", 0, true)
	require.Zero(t, count("192.0.2.1/32"))
	require.EqualValues(t, 1, r.counter("logins.networks"))
	r.now = r.now.Add(11 * time.Minute)
	tally(6, "192.0.2.2/32", 1, false)
	require.EqualValues(t, 1, count("192.0.2.2/32"), "old failures do not count")
	r.now = r.now.Add(11 * time.Minute)
	r.do(spool.KindSweep, &pb.Sweep{Limit: 10})
	require.Zero(t, countKeys(r, 'y'))
	require.Zero(t, r.counter("logins.networks"))
}

func TestRetention(t *testing.T) {
	r, one, _ := mailbox(t, false, 3)
	keep := func(d time.Duration) {
		require.Equal(t, pb.Code_OK,
			r.do(spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: alice, RetentionMs: d.Milliseconds()}}).Code)
	}
	sweep := func() uint32 { return r.do(spool.KindSweep, &pb.Sweep{Limit: 2}).Count }
	r.now = r.now.Add(48 * time.Hour)
	r.do(spool.KindAccept, acceptOf(newID(9), one, nil, alice), []byte("new"))
	require.Zero(t, sweep())
	keep(24 * time.Hour)
	token := r.lock("n1", one, "s").Token
	require.Zero(t, sweep(), "a session finds what it listed")
	r.do(spool.KindUnlock, &pb.Unlock{Mailbox: alice, Epoch: one, Token: token})
	require.EqualValues(t, 2, sweep(), "in bounded steps")
	require.EqualValues(t, 1, sweep())
	require.Zero(t, sweep())
	require.EqualValues(t, 1, r.counter(spool.CountMailboxMessages))
	keep(0)
	require.Zero(t, countKeys(r, 'k'))
	keep(time.Hour)
	r.do(spool.KindDropAccount, &pb.DropAccount{Address: alice})
	require.Zero(t, countKeys(r, 'k'))
}

func TestRetentionGoesRound(t *testing.T) {
	r := newReplica(t)
	one := r.register("n1", "a")
	for i := range 450 {
		a := fmt.Sprintf("u%03d@here.example", i)
		r.user(a)
		r.do(spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: a, RetentionMs: 1000}})
	}
	r.do(spool.KindAccept,
		acceptOf(newID(1), one, nil, "u001@here.example", "u300@here.example", "u449@here.example"), []byte("old"))
	r.now = r.now.Add(time.Minute)
	for _, want := range []uint32{1, 1, 1, 0, 0} {
		require.Equal(t, want, r.do(spool.KindSweep, &pb.Sweep{Limit: 100}).Count)
	}
}

// TestDoneBefore: a session that asks again whether its Remove was done is told so,
// though others have come and gone meanwhile.
func TestDoneBefore(t *testing.T) {
	r, one, two := mailbox(t, false, 2)
	first := r.lock("n1", one, "a")
	require.Equal(t, pb.Code_OK, r.remove(one, first.Token, 1, true, 1).Code)
	for i := range 5 {
		next := r.lock("n2", two, fmt.Sprint(i))
		require.Equal(t, pb.Code_OK, r.remove(two, next.Token, 1, true).Code)
	}
	require.Equal(t, pb.Code_DUPLICATE, r.remove(one, first.Token, 1, true, 1).Code)
	require.EqualValues(t, 1, r.counter(spool.CountMailboxMessages))
	r.m.Changes()
	next := r.lock("n2", two, "last")
	require.Equal(t, []spool.Taken{{Mailbox: alice, Node: "n2", Epoch: two, Token: next.Token, Session: "last"}},
		r.m.Changes().Taken)
}

// TestLargeRemove: a set too large to be taken out at once is gone at once all the
// same, and Sweep lets go of the messages in steps.
func TestLargeRemove(t *testing.T) {
	const n = 1300
	r := newReplica(t)
	one := r.register("n1", "a")
	r.user(alice)
	for i := range n {
		id := spool.ID{9, byte(i >> 8), byte(i)}
		r.do(spool.KindAccept, acceptOf(id, one, nil, alice), []byte("body"))
	}
	token := r.lock("n1", one, "s").Token
	// Some are gone before, one of them at the end of a run.
	require.EqualValues(t, 3, r.remove(one, token, 1, false, 1, 700, 1200).Count)
	uids := make([]uint64, 0, n)
	for uid := uint64(1); uid <= 1200; uid++ {
		uids = append(uids, uid)
	}
	uids = append(uids, 1250)
	res := r.remove(one, token, 2, false, uids...)
	require.Equal(t, pb.Code_OK, res.Code)
	require.EqualValues(t, 1198, res.Count)
	require.Equal(t, []uint64{1, 700, 1200}, decodeRanges(t, res.Missing))
	require.Equal(t, res.Missing, r.remove(one, token, 2, false, uids...).Missing, "the same answer again")

	box, _, err := r.view().Mailbox(alice)
	require.NoError(t, err)
	require.EqualValues(t, n-1201, box.Messages)
	left := 0
	require.NoError(t, r.view().Entries(box.Box, 0, func(uid uint64, e *pb.Entry) bool {
		require.Greater(t, uid, uint64(1200))
		left++
		return true
	}))
	require.Equal(t, n-1201, left)
	require.EqualValues(t, n-3, r.counter(spool.CountMailboxMessages), "what is not swept yet takes its space")

	for r.do(spool.KindSweep, &pb.Sweep{Limit: 500}).Count > 0 {
	}
	require.EqualValues(t, n-1201, r.counter(spool.CountMailboxMessages))
	require.Equal(t, n-1201, countKeys(r, 'x'))
	require.Zero(t, countKeys(r, 'g'))
	id := spool.ID{9, 0, 4}
	_, ok, err := r.view().Refs(id)
	require.NoError(t, err)
	require.False(t, ok, "the body is let go")
	events, err := r.view().History(id)
	require.NoError(t, err)
	last := events[len(events)-1]
	require.Equal(t, "removed", last.What)
	require.Equal(t, "mailbox "+alice, last.Detail)
	require.Equal(t, pb.Code_OK, r.remove(one, token, 3, true).Code)
}

// scans counts the Scans of a batch.
type scans struct {
	spool.Batch
	n int
}

func (s *scans) Scan(lo, hi []byte, fn func(key, value []byte) bool) error {
	s.n++
	return s.Batch.Scan(lo, hi, fn)
}

// TestLargeRemoveOfAMailboxWithHoles: each Scan goes through what the batch has
// written, so a Remove of every other message must not need one for each.
func TestLargeRemoveOfAMailboxWithHoles(t *testing.T) {
	const n = 1300
	r := newReplica(t)
	one := r.register("n1", "a")
	r.user(alice)
	var uids []uint64
	for i := range n {
		r.do(spool.KindAccept, acceptOf(spool.ID{9, byte(i >> 8), byte(i)}, one, nil, alice), []byte("body"))
		if i%2 == 0 {
			uids = append(uids, uint64(i+1))
		}
	}
	token := r.lock("n1", one, "s").Token
	require.EqualValues(t, 1, r.remove(one, token, 1, false, 3).Count)
	f, err := spool.Encode(spool.KindRemove, &pb.Remove{
		Mailbox: alice, Epoch: one, Token: token, Seq: 2, Ranges: spool.AppendRanges(nil, uids),
	})
	require.NoError(t, err)
	f.Stamp(r.now)
	b := r.store.Batch()
	counted := &scans{Batch: b}
	r.index++
	res, err := r.m.Apply(counted, r.index, f)
	require.NoError(t, err)
	require.NoError(t, r.m.Flush(b))
	b.Commit()
	require.EqualValues(t, len(uids)-1, res.Count)
	require.Equal(t, []uint64{3}, decodeRanges(t, res.Missing))
	require.Less(t, counted.n, 10)
	box, _, err := r.view().Mailbox(alice)
	require.NoError(t, err)
	require.EqualValues(t, n-len(uids), box.Messages)
	require.NoError(t, r.view().Entries(box.Box, 0, func(uid uint64, _ *pb.Entry) bool {
		require.Zero(t, uid%2)
		return true
	}))
}

// TestManyGravesAreSweptAtOnce: one Sweep does not stop at the first box that is
// to be emptied, or what is deleted faster than it comes would fill the disk.
func TestManyGravesAreSweptAtOnce(t *testing.T) {
	r := newReplica(t)
	one := r.register("n1", "a")
	for i := range 5 {
		address := fmt.Sprintf("u%d@here.example", i)
		r.user(address)
		for k := range 10 {
			r.do(spool.KindAccept, acceptOf(spool.ID{9, byte(i), byte(k)}, one, nil, address), []byte("body"))
		}
		require.Equal(t, pb.Code_OK, r.do(spool.KindDropAccount, &pb.DropAccount{Address: address}).Code)
	}
	require.EqualValues(t, 25, r.do(spool.KindSweep, &pb.Sweep{Limit: 25}).Count, "bounded all the same")
	require.EqualValues(t, 25, r.counter(spool.CountMailboxMessages))
	require.EqualValues(t, 25, r.do(spool.KindSweep, &pb.Sweep{Limit: 26}).Count)
	require.Zero(t, r.counter(spool.CountMailboxMessages))
	require.Zero(t, countKeys(r, 'x')+countKeys(r, 'g'))
}

// blind is a Batch that does not know the locks.
type blind struct {
	spool.Batch
	t require.TestingT
}

func (b blind) Get(key []byte) ([]byte, error) {
	require.NotEqual(b.t, byte('l'), key[0], "read of %q", key)
	return b.Batch.Get(key)
}

func (b blind) Scan(lo, hi []byte, fn func(key, value []byte) bool) error {
	require.NotEqual(b.t, byte('l'), lo[0], "scan from %q", lo)
	return b.Batch.Scan(lo, hi, fn)
}

// TestLocksAreNotReadFromTheStore: a store keeps all traces of a lock that comes
// and goes until it is flushed, and a read of it in vain looks at each.
func TestLocksAreNotReadFromTheStore(t *testing.T) {
	r := newReplica(t)
	r.user(alice)
	epoch := r.register("n1", "a")
	do := func(kind spool.Kind, h proto.Message) *pb.Result {
		f, err := spool.Encode(kind, h)
		require.NoError(t, err)
		b := r.store.Batch()
		r.index++
		res, err := r.m.Apply(blind{b, t}, r.index, f)
		require.NoError(t, err)
		b.Commit()
		return res
	}
	take := &pb.TakeLock{Mailbox: alice, Node: "n1", Epoch: epoch, Session: "s"}
	token := do(spool.KindLock, take).Token
	require.NotZero(t, token)
	require.Equal(t, pb.Code_DUPLICATE, do(spool.KindLock, take).Code)
	require.Equal(t, pb.Code_OK,
		do(spool.KindRemove, &pb.Remove{Mailbox: alice, Epoch: epoch, Token: token, Unlock: true}).Code)
	token = do(spool.KindLock, take).Token
	require.Equal(t, pb.Code_OK, do(spool.KindUnlock, &pb.Unlock{Mailbox: alice, Epoch: epoch, Token: token}).Code)
	require.Equal(t, pb.Code_MISSING, do(spool.KindBreakLock, &pb.BreakLock{Mailbox: alice}).Code)
	require.NotZero(t, do(spool.KindLock, take).Token)
	require.Equal(t, pb.Code_OK,
		do(spool.KindRegister, &pb.Register{Nonce: "b", Member: &pb.Member{Id: "n1", MaxCommand: spool.MaxVersion}}).Code,
		"its locks are void")
	require.Zero(t, countKeys(r, 'l'))
}

// TestSameContents: what TakeLock tells of a mailbox is the same at two times
// exactly where the mailbox held the same messages.
func TestSameContents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newReplica(t)
		r.user(alice)
		epoch := r.register("n1", "a")
		lists := map[string]string{} // by what TakeLock tells
		look := func() {
			held := r.lock("n1", epoch, "s")
			require.Equal(t, pb.Code_OK, held.Code)
			require.True(t, proto.Equal(held.Mailbox, r.lock("n1", epoch, "s").Mailbox), "asked again")
			box, ok, err := r.view().Mailbox(alice)
			require.NoError(t, err)
			require.True(t, ok && spool.SameContents(held.Mailbox, box))
			list := fmt.Sprint(box.Box)
			require.NoError(t,
				r.view().Entries(box.Box, 0, func(uid uint64, _ *pb.Entry) bool { list += fmt.Sprint(" ", uid); return true }))
			was, ok := lists[held.Mailbox.String()]
			require.True(t, !ok || was == list, "%s was %s and is %s", held.Mailbox, was, list)
			lists[held.Mailbox.String()] = list
			r.do(spool.KindUnlock, &pb.Unlock{Mailbox: alice, Epoch: epoch, Token: held.Token})
		}
		for n := range rapid.IntRange(1, 30).Draw(t, "commands") {
			switch rapid.IntRange(0, 5).Draw(t, "kind") {
			case 0, 1:
				r.do(spool.KindAccept, acceptOf(newID(byte(n)), epoch, nil, alice, alice), []byte("body"))
			case 2:
				uids := rapid.SliceOfDistinct(rapid.Uint64Range(1, 20), rapid.ID).Draw(t, "uids")
				slices.Sort(uids)
				uids = slices.DeleteFunc(uids, func(uid uint64) bool {
					box, _, _ := r.view().Mailbox(alice)
					return uid >= box.NextUid
				})
				token := r.lock("n1", epoch, "r").Token
				require.Equal(t, pb.Code_OK, r.remove(epoch, token, 0, true, uids...).Code)
			case 3: // so many at once that they get a tombstone
				for i := range 260 {
					id := newID(byte(n))
					id[3], id[4] = byte(i), 1
					r.do(spool.KindAccept, acceptOf(id, epoch, nil, alice, alice), []byte("body"))
				}
				box, _, err := r.view().Mailbox(alice)
				require.NoError(t, err)
				var all []uint64
				for uid := uint64(1); uid < box.NextUid; uid++ {
					all = append(all, uid)
				}
				token := r.lock("n1", epoch, "r").Token
				require.Equal(t, pb.Code_OK, r.remove(epoch, token, 0, true, all...).Code)
			case 4:
				r.do(spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: alice, RetentionMs: 5}})
				r.do(spool.KindSweep, &pb.Sweep{Limit: 3})
			case 5:
				r.do(spool.KindDropAccount, &pb.DropAccount{Address: alice})
				r.user(alice)
			}
			look()
		}
	})
	require.False(t, spool.SameContents(nil, nil), "an older leader tells nothing")
}
