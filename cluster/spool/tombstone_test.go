package spool_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// TestTombstonesAgainstAModel: large and small Removes, mail that comes, and Sweeps
// in between leave what a set of uids would, for all who look.
func TestTombstonesAgainstAModel(t *testing.T) {
	const n = 800
	base := newReplica(t)
	one := base.register("n1", "a")
	base.user(alice)
	deliver := func(r *replica, uid uint64) {
		res := r.do(spool.KindAccept, acceptOf(spool.ID{9, byte(uid >> 8), byte(uid)}, one, nil, alice), []byte("body"))
		require.Equal(r.t, pb.Code_OK, res.Code)
	}
	for uid := range uint64(n) {
		deliver(base, uid+1)
	}
	token := base.lock("n1", one, "s").Token
	rapid.Check(t, func(t *rapid.T) {
		store := base.store.Clone()
		m, err := spool.Load(store)
		require.NoError(t, err)
		r := &replica{t: t, store: store, m: m, index: base.index, now: base.now}
		there, last := map[uint64]bool{}, uint64(n)
		for uid := range uint64(n) {
			there[uid+1] = true
		}
		seq := uint64(0)
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				last++
				deliver(r, last)
				there[last] = true
			case 1:
				r.do(spool.KindSweep, &pb.Sweep{Limit: rapid.SampledFrom([]uint32{1, 100, 700, 5000}).Draw(t, "limit")})
			default:
				seq++
				uids, gone := someUIDs(t, last), []uint64(nil)
				left := maps.Clone(there)
				for _, uid := range uids {
					if !there[uid] {
						gone = append(gone, uid)
					}
					delete(left, uid)
				}
				res := r.remove(one, token, seq, false, uids...)
				require.Equal(t, pb.Code_OK, res.Code)
				require.EqualValues(t, len(there)-len(left), res.Count)
				require.Equal(t, gone, decodeRanges(t, res.Missing))
				there = left
			}
			sameMailbox(t, r, there, last)
		}
		invariants(t, store)
		for r.do(spool.KindSweep, &pb.Sweep{Limit: 400}).Count > 0 {
		}
		sameMailbox(t, r, there, last)
		invariants(t, store)
		require.Equal(t, len(there), countKeys(r, 'x'))
		require.Equal(t, len(there), countKeys(r, 'b'), "the bodies of the others are let go")
		require.Zero(t, countKeys(r, 'B'))
	})
}

// someUIDs are runs, far or near, long or short.
func someUIDs(t *rapid.T, last uint64) (uids []uint64) {
	from := rapid.Uint64Range(1, last).Draw(t, "from")
	to := rapid.Uint64Range(from, last).Draw(t, "to")
	if rapid.Bool().Draw(t, "all") {
		from, to = 1, last
	}
	run := rapid.SampledFrom([]uint64{1, 1, 2, 50, 300, 1000}).Draw(t, "run")
	gap := rapid.SampledFrom([]uint64{0, 1, 7, 8, 9, 40, 300}).Draw(t, "gap")
	for uid := from; uid <= to; uid++ {
		if (uid-from)%(run+gap) < run {
			uids = append(uids, uid)
		}
	}
	return uids
}

// sameMailbox compares what is seen of alice's mailbox with what is there.
func sameMailbox(t *rapid.T, r *replica, there map[uint64]bool, last uint64) {
	v := r.view()
	box, _, err := v.Mailbox(alice)
	require.NoError(t, err)
	require.EqualValues(t, len(there), box.Messages)
	want := slices.Sorted(maps.Keys(there))
	var seen []uint64
	var size uint64
	require.NoError(t, v.Entries(box.Box, 0, func(uid uint64, e *pb.Entry) bool {
		seen = append(seen, uid)
		size += e.Size
		return true
	}))
	require.Equal(t, want, seen)
	require.Equal(t, box.Bytes, size)
	from := rapid.Uint64Range(1, last).Draw(t, "look from")
	first := uint64(0)
	require.NoError(t, v.Entries(box.Box, from, func(uid uint64, _ *pb.Entry) bool { first = uid; return false }))
	at, _ := slices.BinarySearch(want, from)
	if at < len(want) {
		require.Equal(t, want[at], first)
	} else {
		require.Zero(t, first)
	}
	_, ok, err := v.Entry(box.Box, from)
	require.NoError(t, err)
	require.Equal(t, there[from], ok)
	counted := 0
	require.NoError(t, v.AllEntries(func(b, uid uint64, gone bool, _ *pb.Entry) bool {
		require.Equal(t, box.Box, b)
		require.Equal(t, !there[uid], gone)
		if !gone {
			counted++
		}
		return true
	}))
	require.Equal(t, len(there), counted)
}

// TestLargeRemoveReadsOnce: a Remove of a hundred thousand messages costs all others
// one look at each, and one record.
func TestLargeRemoveReadsOnce(t *testing.T) {
	const n = 1300
	r := newReplica(t)
	one := r.register("n1", "a")
	r.user(alice)
	uids := make([]uint64, 0, n)
	for i := range n {
		r.do(spool.KindAccept, acceptOf(spool.ID{9, byte(i >> 8), byte(i)}, one, nil, alice), []byte("body"))
		uids = append(uids, uint64(i+1))
	}
	token := r.lock("n1", one, "s").Token
	f, err := spool.Encode(spool.KindRemove, &pb.Remove{
		Mailbox: alice, Epoch: one, Token: token, Unlock: true, Ranges: spool.AppendRanges(nil, uids),
	})
	require.NoError(t, err)
	f.Stamp(r.now)
	b := r.store.Batch()
	counted := &work{Batch: b}
	r.index++
	res, err := r.m.Apply(counted, r.index, f)
	require.NoError(t, err)
	require.EqualValues(t, n, res.Count)
	require.LessOrEqual(t, counted.writes, 3, "the burial, the mailbox, the lock")
	require.LessOrEqual(t, counted.reads, 10)
}

// work counts what is asked of a batch.
type work struct {
	spool.Batch
	reads, writes int
}

func (w *work) Get(k []byte) ([]byte, error) {
	w.reads++
	return w.Batch.Get(k)
}

func (w *work) Scan(lo, hi []byte, fn func(key, value []byte) bool) error {
	w.reads++
	return w.Batch.Scan(lo, hi, fn)
}

func (w *work) Set(k, v []byte) error {
	w.writes++
	return w.Batch.Set(k, v)
}

func (w *work) Delete(k []byte) error {
	w.writes++
	return w.Batch.Delete(k)
}

// TestTombstoneOfADroppedAccount: both ways to empty a box end, whichever is first.
// fill delivers n messages to alice, and returns their uids.
func (r *replica) fill(epoch uint64, n int) (uids []uint64) {
	for i := range n {
		r.do(spool.KindAccept, acceptOf(spool.ID{9, byte(i >> 8), byte(i)}, epoch, nil, alice), []byte("body"))
		uids = append(uids, uint64(i+1))
	}
	return uids
}

func TestTombstoneOfADroppedAccount(t *testing.T) {
	r := newReplica(t)
	one := r.register("n1", "a")
	r.user(alice)
	uids := r.fill(one, 700)
	token := r.lock("n1", one, "s").Token
	require.EqualValues(t, 600, r.remove(one, token, 1, true, uids[:600]...).Count)
	require.Equal(t, pb.Code_OK, r.do(spool.KindDropAccount, &pb.DropAccount{Address: alice}).Code)
	for r.do(spool.KindSweep, &pb.Sweep{Limit: 150}).Count > 0 {
	}
	require.Zero(t, countKeys(r, 'x')+countKeys(r, 'b')+countKeys(r, 'g')+countKeys(r, 'B'))
	invariants(t, r.store)
}

// between is a Reader of a store that changes after the first Get.
type between struct {
	spool.Reader
	change func()
}

func (b *between) Get(key []byte) ([]byte, error) {
	v, err := b.Reader.Get(key)
	v = slices.Clone(v)
	if b.change != nil {
		b.change()
		b.change = nil
	}
	return v, err
}

// TestDeletedEntryStaysDeleted: reads outside a snapshot may have a Sweep between
// them.
func TestDeletedEntryStaysDeleted(t *testing.T) {
	r := newReplica(t)
	one := r.register("n1", "a")
	r.user(alice)
	uids := r.fill(one, 600)
	token := r.lock("n1", one, "s").Token
	require.EqualValues(t, 600, r.remove(one, token, 1, true, uids...).Count)
	box, _, err := r.view().Mailbox(alice)
	require.NoError(t, err)
	_, ok, err := spool.View{R: &between{r.store, func() {
		require.EqualValues(t, 600, r.do(spool.KindSweep, &pb.Sweep{Limit: 1000}).Count)
	}}}.Entry(box.Box, 7)
	require.NoError(t, err)
	require.False(t, ok)
}

// TestSweepNamesWhatItRemoves: the answer of a Sweep has every message that left a
// mailbox by it, by age, with its account, or as one of very many, once.
func TestSweepNamesWhatItRemoves(t *testing.T) {
	const n = spool.MaxTakeOut + 1
	r := newSecond(t)
	one := r.register("n1", "a")
	found := map[spool.ID]*pb.Removed{}
	sweep := func(limit uint32) {
		for more := true; more; {
			res := r.do(spool.KindSweep, &pb.Sweep{Limit: limit, Ages: true})
			named := 0
			for _, gone := range res.Removed {
				for ids := gone.Ids; len(ids) > 0; ids = ids[16:] {
					id, _ := toID(ids)
					require.NotContains(t, found, id)
					found[id] = gone
					named++
				}
			}
			require.LessOrEqual(t, named, 3*int(limit))
			more = res.Count > 0
		}
	}
	ids := func(first byte, count int) (all []spool.ID) {
		for i := range count {
			all = append(all, spool.ID{first, byte(i >> 8), byte(i)})
			r.do(spool.KindAccept, acceptOf(all[i], one, nil, alice), []byte("body"))
		}
		return all
	}
	check := func(all []spool.ID, who, why string) {
		t.Helper()
		require.Len(t, found, len(all))
		for _, id := range all {
			require.Contains(t, found, id)
			require.Equal(t, []string{alice, who, why}, []string{found[id].Mailbox, found[id].Who, found[id].Why})
		}
		clear(found)
	}
	r.user(alice)
	large := ids(1, n)
	uids := make([]uint64, n)
	for i := range uids {
		uids[i] = uint64(i + 1)
	}
	require.EqualValues(t, n, r.remove(one, r.lock("n1", one, "s").Token, 1, true, uids...).Count)
	sweep(200)
	check(large, alice, "deleted by POP3")

	old := ids(2, 5)
	r.pass(2 * time.Hour)
	r.do(spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: alice, RetentionMs: 3600_000}})
	sweep(2)
	check(old, "", "past its retention")

	last := ids(3, 5)
	r.do(spool.KindDropAccount, &pb.DropAccount{Address: alice, Admin: &pb.Admin{Who: "olga", Why: "she left"}})
	sweep(2)
	check(last, "olga", "account dropped: she left")
	events, err := r.view().History(last[0])
	require.NoError(t, err)
	require.Equal(t, "olga", events[len(events)-1].Who)
}
