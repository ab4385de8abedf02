package spool_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"relay/cluster/spool"
	"relay/cluster/spool/memory"
	pb "relay/cluster/spool/spoolpb"
)

// replica is a machine on a map, and the log that made it.
type replica struct {
	t     require.TestingT
	store *memory.Store
	m     *spool.Machine
	index uint64
	now   time.Time
}

func newReplica(t require.TestingT) *replica {
	s := memory.New()
	m, err := spool.Load(s)
	require.NoError(t, err)
	return &replica{t: t, store: s, m: m, now: time.UnixMilli(1_700_000_000_000)}
}

// do applies one command in a batch of its own.
func (r *replica) do(kind spool.Kind, h proto.Message, body ...[]byte) *pb.Result {
	f, err := spool.Encode(kind, h, body...)
	require.NoError(r.t, err)
	r.now = r.now.Add(time.Millisecond)
	f.Stamp(r.now)
	b := r.store.Batch()
	r.index++
	res, err := r.m.Apply(b, r.index, f)
	require.NoError(r.t, err)
	require.NoError(r.t, r.m.Flush(b))
	b.Commit()
	return res
}

func (r *replica) view() spool.View { return spool.View{R: r.store} }

func (r *replica) counter(name string) int64 {
	n, err := r.view().Counter(name)
	require.NoError(r.t, err)
	return n
}

// settle sends one verdict.
func (r *replica) settle(epoch uint64, id spool.ID, n, attempt uint32, st pb.State, notices ...*pb.Notice) pb.Code {
	res := r.do(spool.KindSettle, &pb.Settle{Epoch: epoch, Node: "n", Verdicts: []*pb.Verdict{{
		Id: id[:], Recipient: n, Attempt: attempt, State: st, AtMs: r.now.UnixMilli(), NextMs: r.now.UnixMilli() + 1000,
	}}, Notices: notices})
	return res.Codes[0]
}

func (r *replica) register(node, nonce string) uint64 {
	res := r.do(spool.KindRegister, &pb.Register{Nonce: nonce, Member: &pb.Member{Id: node, MaxCommand: spool.MaxVersion}})
	require.NotZero(r.t, res.Epoch)
	return res.Epoch
}

func (r *replica) user(address string) {
	r.do(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: spool.DomainOf(address)}})
	res := r.do(spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: address}, Create: true})
	require.Equal(r.t, pb.Code_OK, res.Code, res.Text)
}

func newID(n byte) (id spool.ID) {
	id[0], id[15] = 1, n
	return id
}

func acceptOf(id spool.ID, epoch uint64, rcpts []string, drops ...string) *pb.Accept {
	h := &pb.Accept{Message: &pb.Message{Id: id[:], CreatedMs: 1, Sender: "s@a.example"}, Epoch: epoch, Inline: true}
	for _, a := range rcpts {
		h.Recipients = append(h.Recipients, &pb.Recipient{Address: a})
	}
	for _, m := range drops {
		h.Drops = append(h.Drops, &pb.Drop{Mailbox: m, Recipient: m, Header: []byte("Delivered-To: " + m + "\r\n")})
	}
	return h
}

func TestAcceptIsIdempotentAndAllOrNothing(t *testing.T) {
	r := newReplica(t)
	epoch := r.register("n1", "a")
	r.user("alice@here.example")
	id := newID(3)
	h := acceptOf(id, epoch, []string{"x@far.example", "y@far.example"}, "alice@here.example", "nobody@here.example")
	require.Equal(t, pb.Code_MISSING, r.do(spool.KindAccept, h, []byte("body")).Code)
	require.Zero(t, r.counter(spool.CountSpoolMessages), "a refused message must leave nothing")

	h = acceptOf(id, epoch, []string{"x@far.example", "y@far.example"}, "alice@here.example")
	require.Equal(t, pb.Code_OK, r.do(spool.KindAccept, h, []byte("body")).Code)
	sum := r.store.Sum()
	require.Equal(t, pb.Code_DUPLICATE, r.do(spool.KindAccept, h, []byte("body")).Code)
	require.EqualValues(t, 1, r.counter(spool.CountSpoolMessages))
	require.EqualValues(t, 2, r.counter(spool.CountQueueRecipients))
	require.EqualValues(t, 1, r.counter(spool.CountMailboxMessages))
	require.NotNil(t, sum)
}

func TestChunksThenAccept(t *testing.T) {
	r := newReplica(t)
	epoch := r.register("n1", "a")
	id := newID(4)
	chunk := func(seq uint32) pb.Code {
		return r.do(spool.KindChunk, &pb.Chunk{Id: id[:], Seq: seq}, []byte("part")).Code
	}
	h := acceptOf(id, epoch, []string{"x@far.example"})
	h.Inline, h.Message.Chunks, h.Message.Size = false, 3, 12
	require.Equal(t, pb.Code_OK, chunk(2))
	require.Equal(t, pb.Code_OK, chunk(0))
	require.Equal(t, pb.Code_DUPLICATE, chunk(0))
	require.Equal(t, pb.Code_INVALID, r.do(spool.KindAccept, h).Code, "a chunk is missing")
	require.Equal(t, pb.Code_OK, chunk(1))
	require.Equal(t, pb.Code_OK, r.do(spool.KindAccept, h).Code)
	require.Equal(t, pb.Code_DUPLICATE, chunk(1), "late chunks of an accepted message change nothing")
	require.Equal(t, pb.Code_OK, r.settle(epoch, id, 0, 1, pb.State_DELIVERED))
	require.Zero(t, countKeys(r, 'b'), "bodies go with the last reference")
}

func TestAbortAndSweepRemoveOrphans(t *testing.T) {
	r := newReplica(t)
	a, b := newID(1), newID(2)
	for _, id := range []spool.ID{a, b} {
		r.do(spool.KindChunk, &pb.Chunk{Id: id[:], Seq: 0}, []byte("part"))
	}
	r.do(spool.KindAbort, &pb.Abort{Id: a[:]})
	require.Equal(t, 1, countKeys(r, 'b'))
	r.do(spool.KindSweep, &pb.Sweep{Limit: 10, OrphansBeforeMs: r.now.UnixMilli() - 1000})
	require.Equal(t, 1, countKeys(r, 'b'), "young orphans stay")
	r.do(spool.KindSweep, &pb.Sweep{Limit: 10, OrphansBeforeMs: r.now.UnixMilli() + 1000})
	require.Zero(t, countKeys(r, 'b')+countKeys(r, 'o'))
}

func TestSettleIsFenced(t *testing.T) {
	r := newReplica(t)
	one := r.register("n1", "a")
	two := r.register("n2", "a")
	id := newID(5)
	r.do(spool.KindAccept, acceptOf(id, one, []string{"x@far.example", "y@far.example"}), []byte("body"))
	require.Equal(t, pb.Code_STALE, r.settle(two, id, 0, 1, pb.State_DELIVERED))
	require.Equal(t, pb.Code_OK, r.settle(one, id, 0, 1, pb.State_DEFERRED))
	require.Equal(t, pb.Code_DUPLICATE, r.settle(one, id, 0, 1, pb.State_DEFERRED), "the same verdict again")

	s, _, err := r.view().Session("n1")
	require.NoError(t, err)
	require.Equal(t, pb.Code_STALE,
		r.do(spool.KindExpire, &pb.Expire{Node: "n1", Epoch: one, Renewed: s.Renewed + 1}).Code)
	require.Equal(t, pb.Code_OK, r.do(spool.KindExpire, &pb.Expire{Node: "n1", Epoch: one, Renewed: s.Renewed}).Code)
	require.Equal(t, pb.Code_STALE, r.settle(one, id, 1, 1, pb.State_DELIVERED), "the dead node's result comes too late")
	rec, ok, err := r.view().Recipient(id, 0)
	require.NoError(t, err)
	require.True(t, ok)
	require.EqualValues(t, 1, rec.Attempts, "attempts are kept in a takeover")
	require.Equal(t, pb.Code_OK, r.settle(two, id, 1, 1, pb.State_DELIVERED))

	events, err := r.view().History(id)
	require.NoError(t, err)
	last := events[len(events)-1]
	require.True(t, last.MaybeDuplicate, "it was due when its owner died")
	require.Equal(t, "y@far.example", last.Recipient)
}

func TestTakeoverOfAWholeQueue(t *testing.T) {
	r := newReplica(t)
	one, two, three := r.register("n1", "a"), r.register("n2", "a"), r.register("n3", "a")
	for n := range byte(64) {
		r.do(spool.KindAccept, acceptOf(newID(n), one, []string{"x@far.example"}), []byte("b"))
	}
	owned := func() map[uint64]int64 {
		m, err := r.view().OwnedCounts()
		require.NoError(t, err)
		return m
	}
	require.Equal(t, map[uint64]int64{one: 64}, owned())
	r.do(spool.KindExpire, &pb.Expire{Node: "n1", Epoch: one, Renewed: one})
	require.Equal(t, map[uint64]int64{two: 32, three: 32}, owned())
	r.do(spool.KindExpire, &pb.Expire{Node: "n2", Epoch: two, Renewed: two})
	r.do(spool.KindExpire, &pb.Expire{Node: "n3", Epoch: three, Renewed: three})
	require.Equal(t, map[uint64]int64{0: 64}, owned(), "nobody lives: the queue waits")
	again := r.register("n2", "b")
	require.Equal(t, map[uint64]int64{again: 64}, owned(), "the first to come takes the orphans")
	third := r.register("n2", "c")
	require.Equal(t, map[uint64]int64{third: 64}, owned(), "a restarted node takes its own over")
}

func TestLockIsExclusiveAndRemoveIsFenced(t *testing.T) {
	r := newReplica(t)
	one, two := r.register("n1", "a"), r.register("n2", "a")
	r.user("alice@here.example")
	r.do(spool.KindAccept, acceptOf(newID(1), one, nil, "alice@here.example"), []byte("one"))
	r.do(spool.KindAccept, acceptOf(newID(2), one, nil, "alice@here.example"), []byte("two"))
	take := func(node string, epoch uint64, session string) *pb.Result {
		return r.do(spool.KindLock, &pb.TakeLock{Mailbox: "alice@here.example", Node: node, Epoch: epoch, Session: session})
	}
	first := take("n1", one, "s1")
	require.Equal(t, pb.Code_OK, first.Code)
	require.Equal(t, first.Token, take("n1", one, "s1").Token, "the same session asks again")
	busy := take("n2", two, "s2")
	require.Equal(t, pb.Code_BUSY, busy.Code)
	require.Equal(t, "n1", busy.Lock.Node)

	r.do(spool.KindExpire, &pb.Expire{Node: "n1", Epoch: one, Renewed: one})
	remove := &pb.Remove{Mailbox: "alice@here.example", Epoch: one, Token: first.Token, Uids: []uint64{1, 2}, Unlock: true}
	require.Equal(t, pb.Code_STALE, r.do(spool.KindRemove, remove).Code)
	require.Equal(t, 2, countKeys(r, 'x'), "a dead session deletes nothing")

	second := take("n2", two, "s2")
	require.Equal(t, pb.Code_OK, second.Code)
	require.Greater(t, second.Token, first.Token)
	remove = &pb.Remove{Mailbox: "alice@here.example", Epoch: two, Token: second.Token, Uids: []uint64{1}, Unlock: true}
	require.Equal(t, pb.Code_OK, r.do(spool.KindRemove, remove).Code)
	require.Equal(t, pb.Code_DUPLICATE, r.do(spool.KindRemove, remove).Code, "a retried QUIT gets its answer")
	require.Equal(t, 1, countKeys(r, 'x'))
	require.Equal(t, 1, countKeys(r, 'b'))
}

func TestUIDsAreNeverReused(t *testing.T) {
	r := newReplica(t)
	one := r.register("n1", "a")
	r.user("alice@here.example")
	seen := map[string]bool{}
	uids := func() {
		box, _, err := r.view().Mailbox("alice@here.example")
		require.NoError(t, err)
		require.NoError(t, r.view().Entries(box.Box, 0, func(uid uint64, _ *pb.Entry) bool {
			name := fmt.Sprint(box.Box, ".", uid)
			require.False(t, seen[name], name)
			seen[name] = true
			return true
		}))
	}
	for n := range byte(3) {
		r.do(spool.KindAccept, acceptOf(newID(n), one, nil, "alice@here.example"), []byte("same"))
		uids()
		r.do(spool.KindDropAccount, &pb.DropAccount{Address: "alice@here.example"})
		r.user("alice@here.example")
	}
	r.do(spool.KindSweep, &pb.Sweep{Limit: 10})
	r.do(spool.KindSweep, &pb.Sweep{Limit: 10})
	r.do(spool.KindSweep, &pb.Sweep{Limit: 10})
	require.Zero(t, countKeys(r, 'x')+countKeys(r, 'b')+countKeys(r, 'g'))
}

func TestBounceExistsExactlyWithItsFailure(t *testing.T) {
	r := newReplica(t)
	one, two := r.register("n1", "a"), r.register("n2", "a")
	r.user("s@a.example")
	id, notice := newID(1), newID(9)
	r.do(spool.KindAccept, acceptOf(id, one, []string{"x@far.example"}), []byte("body"))
	n := func() *pb.Notice {
		return &pb.Notice{About: id[:], Accept: acceptOf(notice, 0, nil, "s@a.example"), Body: []byte("report")}
	}
	require.Equal(t, pb.Code_STALE, r.settle(two, id, 0, 1, pb.State_BOUNCED, n()))
	require.Zero(t, r.counter(spool.CountMailboxMessages))
	require.Equal(t, pb.Code_OK, r.settle(one, id, 0, 1, pb.State_BOUNCED, n()))
	require.EqualValues(t, 1, r.counter(spool.CountMailboxMessages))
	require.Equal(t, pb.Code_MISSING, r.settle(one, id, 0, 1, pb.State_BOUNCED, n()), "retried")
	require.EqualValues(t, 1, r.counter(spool.CountMailboxMessages))
	m, ok, err := r.view().Message(notice)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, id[:], m.BounceOf)
}

func TestAdminRequestIsAppliedOnce(t *testing.T) {
	r := newReplica(t)
	adm := &pb.Admin{Request: []byte("0123456789abcdef"), Who: "me", Why: "test"}
	put := &pb.PutDomain{Admin: adm, Domain: &pb.Domain{Name: "a.example"}, Create: true}
	require.Equal(t, pb.Code_OK, r.do(spool.KindPutDomain, put).Code)
	require.Equal(t, pb.Code_OK, r.do(spool.KindPutDomain, put).Code, "the same request")
	put.Admin = &pb.Admin{Request: []byte("another request!")}
	require.Equal(t, pb.Code_EXISTS, r.do(spool.KindPutDomain, put).Code)
	lines := 0
	require.NoError(t, r.view().Audits(0, func(a *pb.Audit) bool { lines++; return true }))
	require.Equal(t, 1, lines)
}

func TestHistoryOutlivesTheMessageAndIsSwept(t *testing.T) {
	r := newReplica(t)
	one := r.register("n1", "a")
	id := newID(1)
	r.do(spool.KindAccept, acceptOf(id, one, []string{"x@far.example"}), []byte("body"))
	r.settle(one, id, 0, 1, pb.State_DELIVERED)
	r.do(spool.KindSweep, &pb.Sweep{Limit: 10})
	events, err := r.view().History(id)
	require.NoError(t, err)
	require.Len(t, events, 2)
	r.now = r.now.Add(4 * 24 * time.Hour)
	r.do(spool.KindSweep, &pb.Sweep{Limit: 10})
	require.Zero(t, countKeys(r, 'h')+countKeys(r, 'm')+countKeys(r, 'e'))
	require.Zero(t, r.counter(spool.CountHistoryBytes))
}

func TestTimeNeverRunsBackwards(t *testing.T) {
	r := newReplica(t)
	r.user("alice@here.example")
	a, _, _ := r.view().Account("alice@here.example")
	r.now = r.now.Add(-time.Hour)
	r.user("bob@here.example")
	b, _, _ := r.view().Account("bob@here.example")
	require.GreaterOrEqual(t, b.CreatedMs, a.CreatedMs)
}

func countKeys(r *replica, prefix byte) int {
	n := 0
	_ = r.store.Scan([]byte{prefix}, []byte{prefix + 1}, func(_, _ []byte) bool { n++; return true })
	return n
}

// entry is one log entry of the property test.
type entry struct {
	index uint64
	frame spool.Frame
}

// randomLog draws commands of all kinds about few names, so that they meet.
func randomLog(t *rapid.T) []entry {
	users := []string{"alice@here.example", "bob@here.example"}
	nodes := []string{"n1", "n2", "n3"}
	var log []entry
	now := time.UnixMilli(1_900_000_000_000)
	add := func(kind spool.Kind, h proto.Message, body ...[]byte) {
		f, err := spool.Encode(kind, h, body...)
		require.NoError(t, err)
		now = now.Add(time.Duration(rapid.IntRange(-5, 2000).Draw(t, "ms")) * time.Millisecond)
		f.Stamp(now)
		log = append(log, entry{uint64(len(log) + 1), f})
	}
	add(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "here.example"}})
	for _, u := range users {
		add(spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: u}})
	}
	epoch := func() uint64 { return uint64(rapid.IntRange(0, len(log)).Draw(t, "epoch")) }
	begin, step := now, time.Duration(rapid.SampledFrom([]int{0, 1000, 15_000}).Draw(t, "step"))*time.Millisecond
	id := func() []byte {
		n := rapid.IntRange(0, 7).Draw(t, "id")
		x := newID(byte(n))
		if step > 0 { // of several windows of history, some before the raise
			x = idAt(begin.Add(time.Duration(n)*step), n)
		}
		return x[:]
	}
	user := func() string { return rapid.SampledFrom(users).Draw(t, "user") }
	node := func() string { return rapid.SampledFrom(nodes).Draw(t, "node") }
	add(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	two := rapid.Bool().Draw(t, "version 2")
	if two {
		add(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	}
	for range rapid.IntRange(1, 60).Draw(t, "commands") {
		switch rapid.IntRange(0, 22).Draw(t, "kind") {
		case 0, 1, 2:
			x, _ := toID(id())
			h := acceptOf(x, epoch(), nil)
			h.Message.Unended = two && rapid.Bool().Draw(t, "unended")
			for n := range rapid.IntRange(0, 3).Draw(t, "rcpts") {
				h.Recipients = append(h.Recipients, &pb.Recipient{Address: fmt.Sprintf("r%d@far%d.example", n, n%2)})
				if rapid.IntRange(0, 2).Draw(t, "later") == 0 {
					h.Recipients[n].Route, h.Recipients[n].Drop = spool.MailboxRoute, &pb.Drop{Mailbox: user(), Recipient: "y"}
				}
			}
			if len(h.Recipients) == 0 || rapid.Bool().Draw(t, "local") {
				h.Drops = append(h.Drops, &pb.Drop{Mailbox: user(), Recipient: "x", Header: []byte("H: 1\r\n")})
			}
			h.Twin = []byte(rapid.SampledFrom([]string{"", "", "one", "other"}).Draw(t, "twin"))
			if rapid.Bool().Draw(t, "copied") {
				one, _ := toID(id())
				h.Copies = []*pb.Accept{acceptOf(one, 0, []string{"m@list.example"})}
			}
			if rapid.Bool().Draw(t, "limited") {
				h.Spender, h.Spends, h.SpendLimit = user(), 1, 2
			}
			for _, d := range h.Drops {
				d.QuotaMessages = uint64(rapid.IntRange(0, 2).Draw(t, "quota"))
			}
			if rapid.Bool().Draw(t, "chunked") {
				h.Inline, h.Message.Chunks, h.Message.Size = false, 2, 8
				add(spool.KindAccept, h)
			} else {
				add(spool.KindAccept, h, []byte("body of it"))
			}
		case 3:
			add(spool.KindChunk, &pb.Chunk{Id: id(), Seq: uint32(rapid.IntRange(0, 2).Draw(t, "seq"))}, []byte("part"))
		case 4:
			add(spool.KindAbort, &pb.Abort{Id: id()})
		case 5, 6:
			add(spool.KindRegister, &pb.Register{
				Nonce: rapid.StringN(1, 2, 2).Draw(t, "nonce"), Member: &pb.Member{Id: node(), MaxCommand: spool.MaxVersion},
			})
		case 7:
			e := epoch()
			add(spool.KindExpire, &pb.Expire{Node: node(), Epoch: e, Renewed: e})
		case 8, 9, 10:
			h := &pb.Settle{Epoch: epoch(), Node: node()}
			for range rapid.IntRange(1, 4).Draw(t, "verdicts") {
				h.Verdicts = append(h.Verdicts, &pb.Verdict{
					Id: id(), Recipient: uint32(rapid.IntRange(0, 2).Draw(t, "n")),
					Attempt: uint32(rapid.IntRange(1, 3).Draw(t, "attempt")),
					State:   rapid.SampledFrom([]pb.State{pb.State_DELIVERED, pb.State_DEFERRED, pb.State_BOUNCED}).Draw(t, "state"),
					NextMs:  now.UnixMilli(),
				})
			}
			if rapid.Bool().Draw(t, "notice") {
				x, _ := toID(id())
				h.Notices = append(h.Notices, &pb.Notice{
					About: h.Verdicts[0].Id, Accept: acceptOf(x, 0, nil, user()), Body: []byte("report"),
				})
			}
			add(spool.KindSettle, h)
		case 11:
			add(spool.KindLock, &pb.TakeLock{
				Mailbox: user(), Node: node(), Epoch: epoch(), Session: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "session"),
			})
		case 12:
			h := &pb.Remove{
				Mailbox: user(), Epoch: epoch(), Token: epoch(), Uids: []uint64{1, 2}, Unlock: rapid.Bool().Draw(t, "unlock"),
			}
			if rapid.Bool().Draw(t, "ranges") {
				h.Uids, h.Ranges, h.Seq = nil, spool.AppendRanges(nil, []uint64{1, 2, 4}),
					uint64(rapid.IntRange(0, 2).Draw(t, "number"))
			}
			add(spool.KindRemove, h)
		case 13:
			add(spool.KindManage, &pb.Manage{
				Action: pb.Action(rapid.IntRange(0, 4).Draw(t, "action")), Ids: [][]byte{id(), id()}, Admin: &pb.Admin{Who: "x"},
			})
		case 14:
			add(spool.KindSweep, &pb.Sweep{Limit: 3, OrphansBeforeMs: now.UnixMilli()})
			add(spool.KindTally, &pb.Tally{Node: node(), Seq: epoch(), Tried: []*pb.Tried{
				{Network: node(), Count: uint32(epoch()), Clear: rapid.Bool().Draw(t, "clear")},
			}})
			add(spool.KindGreet, &pb.Greet{Attempts: []*pb.Attempt{
				{Triplet: spool.Triplet(node(), user(), ""), Network: node(),
					DelayMs: int64(rapid.IntRange(0, 3000).Draw(t, "delay"))},
				{Triplet: spool.Triplet(node(), user(), ""), Network: node()},
			}})
		case 15:
			add(spool.KindDropAccount, &pb.DropAccount{Address: user()})
			add(spool.KindPutAccount, &pb.PutAccount{
				Account: &pb.Account{
					Address: user(), Shared: rapid.Bool().Draw(t, "shared"),
					RetentionMs: int64(rapid.IntRange(0, 2000).Draw(t, "retention")),
				},
			})
		case 17: // the clock jumps, most often
			to := now.Add(time.Duration(rapid.SampledFrom([]int64{-86_400_000, -30_000, 50_000, 7_200_000, 864_000_000}).Draw(t,
				"jump")) * time.Millisecond)
			if two {
				add(spool.KindClock, &pb.Clock{FromMs: now.UnixMilli(), ToMs: to.UnixMilli(), FromIndex: epoch()})
				now = to
			}
		case 18:
			h := &pb.Sweep{Limit: uint32(rapid.IntRange(1, 3).Draw(t, "limit"))}
			if two {
				h.Ages, h.OrphansAgeMs = rapid.Bool().Draw(t, "ages"), 1000
				if rapid.Bool().Draw(t, "bounded") {
					add(spool.KindPutSettings, &pb.PutSettings{Settings: &pb.Settings{HistoryBytes: 1}})
				}
			}
			add(spool.KindSweep, h)
		case 19:
			h := &pb.Import{Admin: &pb.Admin{Who: "x"}, Line: epoch(), Mailbox: users[0]}
			for range rapid.IntRange(0, 3).Draw(t, "old") {
				x, _ := toID(id())
				one := acceptOf(x, epoch(), nil, user())
				one.Message.Size, one.Drops[0].QuotaMessages = 2, 3
				one.Drops[0].Uidl = rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "uidl")
				h.Messages = append(h.Messages, &pb.Old{Key: id(), Accept: one})
			}
			if two {
				add(spool.KindImport, h, []byte("abcdef"))
			}
		case 20:
			if two {
				add(spool.KindPutRule, &pb.PutRule{Admin: &pb.Admin{Who: "x"}, Rule: &pb.Rule{
					Action: pb.RuleAction(rapid.IntRange(0, 6).Draw(t, "rule")), Domain: node(),
					ExpiresMs: rapid.SampledFrom([]int64{0, now.UnixMilli() + 1000}).Draw(t, "end"),
				}})
				add(spool.KindDropRule, &pb.DropRule{Id: epoch()})
				add(spool.KindManage, &pb.Manage{Action: pb.Action_RELEASE, Pass: true, Ids: [][]byte{id()}})
			}
		case 21:
			if two {
				one, from := node(), rapid.SampledFrom([]string{"", "@a.example"}).Draw(t, "from")
				add(spool.KindPutRoute, &pb.PutRoute{Route: &pb.Route{Domain: one, Target: "mx", From: from}})
				add(spool.KindDropRoute, &pb.DropRoute{Domain: one, From: from})
				add(spool.KindPutRecipients, &pb.PutRecipients{
					Domain: one, Add: []string{"a@" + one, "b@" + one}, Remove: []string{user(), "b@" + one},
				})
			}
		case 22:
			if two {
				day, at := uint32(now.Unix()/86400), node()
				add(spool.KindPutTls, &pb.PutTls{Counts: []*pb.Tls{{Day: day, Domain: at, Source: user(), Counts: []byte("x")}}})
				add(spool.KindDropTls, &pb.DropTls{Day: day, Domain: node()})
				add(spool.KindPutPolicy, &pb.PutPolicy{Policy: &pb.Policy{Domain: node(), Id: "1", Text: node(),
					ExpiresMs: now.UnixMilli() + 1000}})
			}
		case 16:
			add(spool.KindDrain, &pb.Drain{Node: node(), Off: rapid.Bool().Draw(t, "off")})
		}
	}
	return log
}

func toID(b []byte) (id spool.ID, ok bool) { return id, copy(id[:], b) == 16 }

// play applies a log with batches that end after each of the given entries,
// loading the machine anew after every batch where restart is set.
func play(t require.TestingT, log []entry, ends func(i int) bool, restart bool) (*memory.Store, []*pb.Result) {
	store := memory.New()
	m, err := spool.Load(store)
	require.NoError(t, err)
	var results []*pb.Result
	b := store.Batch()
	for i, e := range log {
		res, err := m.Apply(b, e.index, append(spool.Frame(nil), e.frame...))
		require.NoError(t, err)
		results = append(results, res)
		if ends(i) || i == len(log)-1 {
			require.NoError(t, m.Flush(b))
			b.Commit()
			b = store.Batch()
			if restart {
				m, err = spool.Load(store)
				require.NoError(t, err)
			}
		}
	}
	return store, results
}

// TestSameLogSameState is the promise all replicas rest on: state and answers
// depend on the commands alone, not on batches, restarts or snapshots.
func TestSameLogSameState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := randomLog(t)
		single, want := play(t, log, func(int) bool { return true }, false)
		cuts := rapid.SliceOfN(rapid.Bool(), len(log), len(log)).Draw(t, "cuts")
		batched, got := play(t, log, func(i int) bool { return cuts[i] }, false)
		require.Equal(t, single.Sum(), batched.Sum(), "other batches")
		compare(t, want, got)
		restarted, got := play(t, log, func(int) bool { return true }, true)
		require.Equal(t, single.Sum(), restarted.Sum(), "restart at every index")
		compare(t, want, got)

		// A snapshot in the middle: a copy of the store goes on elsewhere.
		at := rapid.IntRange(0, len(log)-1).Draw(t, "snapshot")
		half, _ := play(t, log[:at+1], func(int) bool { return true }, false)
		other := half.Clone()
		m, err := spool.Load(other)
		require.NoError(t, err)
		for _, e := range log[at+1:] {
			b := other.Batch()
			_, err := m.Apply(b, e.index, append(spool.Frame(nil), e.frame...))
			require.NoError(t, err)
			require.NoError(t, m.Flush(b))
			b.Commit()
		}
		require.Equal(t, single.Sum(), other.Sum(), "snapshot in the middle")
		invariants(t, single)
	})
}

func compare(t require.TestingT, want, got []*pb.Result) {
	for i := range want {
		if !proto.Equal(want[i], got[i]) {
			require.Empty(t, cmp.Diff(want[i].String(), got[i].String()), "result of entry %d", i+1)
		}
	}
}

// invariants recounts what Apply counted and follows every reference.
func invariants(t require.TestingT, s *memory.Store) {
	v := spool.View{R: s}
	open, drops := map[spool.ID]uint32{}, map[spool.ID]uint32{}
	dest := map[string]int64{}
	var recipients int64
	require.NoError(t, v.Queue(spool.ID{}, func(id spool.ID, n uint32, r *pb.Recipient) bool {
		open[id]++
		recipients++
		dest[spool.DomainOf(r.Address)+r.State.String()]++
		return true
	}))
	entries, named := map[uint64]int64{}, 0
	_ = s.Scan([]byte{'x'}, []byte{'y'}, func(k, val []byte) bool {
		var e pb.Entry
		require.NoError(t, proto.Unmarshal(val, &e))
		id, _ := toID(e.Id)
		drops[id]++
		entries[uint64(k[8])|uint64(k[7])<<8]++
		if e.Uidl != "" {
			uid, ok, err := v.Uidl(binary.BigEndian.Uint64(k[1:]), e.Uidl)
			require.True(t, err == nil && ok && uid == binary.BigEndian.Uint64(k[9:]),
				"the unique id %s leads elsewhere", e.Uidl)
			named++
		}
		return true
	})
	require.Equal(t, named, countOf(s, 'U'), "unique ids are forgotten with their entries")
	var bodies, messages int64
	late := map[spool.ID]bool{}
	_ = s.Scan([]byte{'f'}, []byte{'g'}, func(k, val []byte) bool {
		var f pb.Refs
		require.NoError(t, proto.Unmarshal(val, &f))
		id, _ := toID(k[1:])
		if late[id] = f.Late; f.Late {
			return true
		}
		require.Equal(t, open[id], f.Open, "open recipients of %s", id)
		require.Equal(t, drops[id], f.Drops, "mailbox entries of %s", id)
		delete(open, id)
		delete(drops, id)
		for seq := range f.Chunks {
			body := append(append([]byte{'b'}, id[:]...), 0, 0, 0, byte(seq))
			val, _ := s.Get(body)
			require.NotNil(t, val, "chunk %d of %s", seq, id)
			bodies++
		}
		messages++
		return true
	})
	require.Empty(t, open)
	require.Empty(t, drops)
	counter := func(name string) int64 {
		n, err := v.Counter(name)
		require.NoError(t, err)
		return n
	}
	var audited int64
	require.NoError(t, s.Scan([]byte{'t'}, []byte{'u'}, func(_, val []byte) bool {
		audited += int64(len(val))
		return true
	}))
	require.Equal(t, audited, counter(spool.CountAuditBytes))
	historyInvariants(t, s, late)
	require.Equal(t, messages, counter(spool.CountSpoolMessages))
	require.Equal(t, recipients, counter(spool.CountQueueRecipients))
	list, err := v.Destinations()
	require.NoError(t, err)
	var sum int64
	for _, d := range list {
		require.Equal(t, dest[d.Domain+d.State.String()], d.Count, d.Domain)
		sum += d.Count
	}
	require.Equal(t, recipients, sum)
	owned, err := v.OwnedCounts()
	require.NoError(t, err)
	sum = 0
	for _, n := range owned {
		require.Positive(t, n)
		sum += n
	}
	require.Equal(t, recipients, sum)
	var grey int64
	_ = s.Scan([]byte("Gn"), []byte("H"), func(k, val []byte) bool {
		var one pb.Grey
		require.NoError(t, proto.Unmarshal(val, &one))
		at, _ := s.Get(append(binary.BigEndian.AppendUint64([]byte("Ge"), uint64(one.ExpiresMs)), k[1:]...))
		require.NotNil(t, at, "the index entry of %q", k)
		grey++
		return true
	})
	require.Equal(t, grey, counter(spool.CountGrey))
	_ = s.Scan([]byte("Ge"), []byte("Gf"), func(_, _ []byte) bool { grey--; return true })
	require.Zero(t, grey, "as many index entries as records")
	for name, n := range must(v.Counters("")) {
		require.Positive(t, n, name)
	}
	if sessions, _ := v.Sessions(); len(sessions) > 0 {
		require.Zero(t, owned[0], "nobody's queue while somebody lives")
	}
}

func countOf(s *memory.Store, prefix byte) (n int) {
	_ = s.Scan([]byte{prefix}, []byte{prefix + 1}, func(_, _ []byte) bool { n++; return true })
	return n
}

func must(m map[string]int64, _ error) map[string]int64 { return m }

func FuzzDecode(f *testing.F) {
	h := acceptOf(newID(1), 1, []string{"a@b"})
	frame, _ := spool.Encode(spool.KindAccept, h, []byte("body"))
	f.Add([]byte(frame))
	f.Add([]byte{})
	f.Add([]byte{1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := spool.Decode(b)
		if err != nil {
			return
		}
		again, err := spool.Encode(c.Kind, c.Header, c.Body)
		if err != nil {
			return
		}
		d, err := spool.Decode(again)
		require.NoError(t, err)
		require.True(t, bytes.Equal(c.Body, d.Body))
		r := newReplica(t)
		_, err = r.m.Apply(r.store.Batch(), 1, b)
		require.NoError(t, err, "Apply is total")
	})
}

// A mailbox whose mail has to wait is in the queue until its time has come, and
// has the message by the command that settles it.
func TestMailboxInTheQueue(t *testing.T) {
	r := newReplica(t)
	epoch := r.register("n1", "a")
	r.user("alice@here.example")
	r.user("bob@here.example")
	id := newID(9)
	h := acceptOf(id, epoch, []string{"alice@here.example", "bob@here.example", "x@far.example"})
	for i, box := range []string{"alice@here.example", "bob@here.example"} {
		h.Recipients[i].NextMs, h.Recipients[i].Route = r.now.UnixMilli()+60_000, spool.MailboxRoute
		h.Recipients[i].Drop = &pb.Drop{Mailbox: box, Recipient: box, Header: []byte("Delivered-To: " + box + "\r\n")}
	}
	require.Equal(t, pb.Code_OK, r.do(spool.KindAccept, h, []byte("body")).Code)
	require.Zero(t, r.counter(spool.CountMailboxMessages))
	require.EqualValues(t, 3, r.counter(spool.CountQueueRecipients))

	require.Equal(t, pb.Code_STALE, r.settle(epoch+1, id, 0, 1, pb.State_DELIVERED))
	require.Zero(t, r.counter(spool.CountMailboxMessages))
	require.Equal(t, pb.Code_OK, r.settle(epoch, id, 0, 1, pb.State_DELIVERED))
	require.Equal(t, pb.Code_MISSING, r.settle(epoch, id, 0, 1, pb.State_DELIVERED), "sent twice")
	require.EqualValues(t, 1, r.counter(spool.CountMailboxMessages))
	require.EqualValues(t, 1, r.counter(spool.CountDelivered))
	box, _, err := r.view().Mailbox("alice@here.example")
	require.NoError(t, err)
	require.EqualValues(t, 1, box.Messages)
	require.EqualValues(t, len("Delivered-To: alice@here.example\r\nbody"), box.Bytes)

	// The mailbox goes while the verdict is on its way: nothing is said to have
	// been delivered, and it is tried again.
	require.Equal(t, pb.Code_OK, r.do(spool.KindDropAccount, &pb.DropAccount{Address: "bob@here.example"}).Code)
	notice := &pb.Notice{About: id[:], Accept: acceptOf(newID(10), 0, []string{"s@a.example"}), Body: []byte("delivered")}
	require.Equal(t, pb.Code_STALE, r.settle(epoch, id, 1, 1, pb.State_DELIVERED, notice))
	require.EqualValues(t, 2, r.counter(spool.CountQueueRecipients))
	require.EqualValues(t, 1, r.counter(spool.CountSpoolMessages))
	one, ok, err := r.view().Recipient(id, 1)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, pb.State_DEFERRED, one.State)
	require.Contains(t, one.LastReply, "4.2.1")
	require.Equal(t, pb.Code_OK, r.settle(epoch, id, 1, 2, pb.State_BOUNCED))
	require.Equal(t, pb.Code_OK, r.settle(epoch, id, 2, 1, pb.State_DELIVERED))
	require.Zero(t, r.counter(spool.CountQueueMessages))
	refs, ok, err := r.view().Refs(id)
	require.NoError(t, err)
	require.True(t, ok, "alice has it")
	require.EqualValues(t, 1, refs.Drops)
}

// An operator who sends such a message elsewhere by hand has it sent there.
func TestMailboxInTheQueueIsRerouted(t *testing.T) {
	r := newReplica(t)
	epoch := r.register("n1", "a")
	r.user("alice@here.example")
	id := newID(11)
	h := acceptOf(id, epoch, []string{"alice@here.example"})
	h.Recipients[0].Route, h.Recipients[0].Drop = spool.MailboxRoute, &pb.Drop{Mailbox: "alice@here.example"}
	require.Equal(t, pb.Code_OK, r.do(spool.KindAccept, h, []byte("body")).Code)
	require.Equal(t, pb.Code_OK,
		r.do(spool.KindManage, &pb.Manage{Action: pb.Action_REROUTE, Ids: [][]byte{id[:]}, Route: "smtp:other.example"}).Code)
	require.Equal(t, pb.Code_OK, r.settle(epoch, id, 0, 1, pb.State_DELIVERED))
	require.Zero(t, r.counter(spool.CountMailboxMessages))
}
