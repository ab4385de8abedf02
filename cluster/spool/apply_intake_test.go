package spool_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

func TestTheSameMessageAgainIsTheFirst(t *testing.T) {
	r := newReplica(t)
	epoch := r.register("n1", "a")
	send := func(n byte, twin string) *pb.Result {
		h := acceptOf(newID(n), epoch, []string{"x@far.example"})
		h.Twin = []byte(twin)
		return r.do(spool.KindAccept, h, []byte("body"))
	}
	require.Equal(t, pb.Code_OK, send(1, "one").Code)
	again := send(2, "one")
	require.Equal(t, pb.Code_DUPLICATE, again.Code)
	first := newID(1)
	require.Equal(t, first[:], again.Id)
	require.Equal(t, pb.Code_OK, send(3, "other").Code)
	require.Equal(t, pb.Code_OK, send(4, "").Code)
	require.Equal(t, pb.Code_OK, send(5, "").Code, "off without a key")
	require.EqualValues(t, 4, r.counter(spool.CountQueueMessages))

	r.now = r.now.Add(9 * time.Minute)
	require.Equal(t, pb.Code_DUPLICATE, send(6, "one").Code)
	r.now = r.now.Add(time.Minute)
	require.Equal(t, pb.Code_OK, send(7, "one").Code, "after ten minutes it is another message")
	r.now = r.now.Add(time.Hour)
	r.do(spool.KindSweep, &pb.Sweep{Limit: 100})
	n := 0
	require.NoError(t, r.store.Scan([]byte{'T'}, []byte{'U'}, func(_, _ []byte) bool { n++; return true }))
	require.Zero(t, n, "old keys are swept")
}

// The memory that a replica keeps of duplicates changes no answer.
func TestARepeatIsKnownAfterARestart(t *testing.T) {
	r := newReplica(t)
	epoch := r.register("n1", "a")
	send := func(n byte, twin string) pb.Code {
		h := acceptOf(newID(n), epoch, []string{"x@far.example"})
		h.Twin = []byte(twin)
		return r.do(spool.KindAccept, h, []byte("body")).Code
	}
	for round := range byte(5) { // generations pass
		require.Equal(t, pb.Code_OK, send(10*round, "one"))
		m, err := spool.Load(r.store)
		require.NoError(t, err)
		r.m = m
		require.Equal(t, pb.Code_DUPLICATE, send(10*round+1, "one"))
		require.Equal(t, pb.Code_OK, send(10*round+2, fmt.Sprint(round)))
		r.now = r.now.Add(6 * time.Minute)
		require.Equal(t, pb.Code_DUPLICATE, send(10*round+3, "one"), "in the next generation too")
		r.now = r.now.Add(6 * time.Minute)
	}
}

func TestChunksOfARepeatAreDropped(t *testing.T) {
	r := newReplica(t)
	epoch := r.register("n1", "a")
	send := func(n byte) *pb.Result {
		id := newID(n)
		r.do(spool.KindChunk, &pb.Chunk{Id: id[:]}, []byte("body"))
		h := acceptOf(id, epoch, []string{"x@far.example"})
		h.Inline, h.Message.Chunks, h.Message.Size, h.Twin = false, 1, 4, []byte("k")
		return r.do(spool.KindAccept, h)
	}
	require.Equal(t, pb.Code_OK, send(1).Code)
	require.Equal(t, pb.Code_DUPLICATE, send(2).Code)
	for _, prefix := range []byte{'b', 'o'} {
		id := newID(2)
		require.NoError(t, r.store.Scan(append([]byte{prefix}, id[:]...), append([]byte{prefix}, append(id[:15:15], 3)...),
			func(k, _ []byte) bool {
				require.Fail(t, "left behind", "%q", k)
				return true
			}))
	}
	invariants(t, r.store)
}

func TestCopiesAndReportsExistWithTheMessage(t *testing.T) {
	r := newReplica(t)
	epoch := r.register("n1", "a")
	r.user("alice@here.example")
	list := acceptOf(newID(2), 0, []string{"m@far.example"})
	list.Message.Sender = "owner@here.example"
	report := acceptOf(newID(3), 0, nil, "alice@here.example")
	id := newID(1)
	h := acceptOf(id, epoch, []string{"x@far.example"})
	h.Copies = []*pb.Accept{list}
	h.Notices = []*pb.Notice{{About: id[:], Accept: report, Body: []byte("report")}}
	require.Equal(t, pb.Code_OK, r.do(spool.KindAccept, h, []byte("body")).Code)
	m, ok, err := r.view().Message(newID(2))
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "owner@here.example", m.Sender)
	require.EqualValues(t, 4, m.Size)
	require.EqualValues(t, 2, r.counter(spool.CountQueueMessages))
	require.EqualValues(t, 1, r.counter(spool.CountMailboxMessages))
	invariants(t, r.store)

	require.Equal(t, pb.Code_DUPLICATE, r.do(spool.KindAccept, h, []byte("body")).Code)
	require.EqualValues(t, 2, r.counter(spool.CountQueueMessages))

	// A copy that can not be made is found before anything is written.
	bad := acceptOf(newID(4), epoch, []string{"x@far.example"})
	bad.Copies = []*pb.Accept{acceptOf(newID(2), 0, []string{"m@far.example"})}
	require.Equal(t, pb.Code_INVALID, r.do(spool.KindAccept, bad, []byte("body")).Code)
	require.EqualValues(t, 2, r.counter(spool.CountQueueMessages))
}

func TestQuotaIsHeldWhereMailboxesAreFilled(t *testing.T) {
	r := newReplica(t)
	epoch := r.register("n1", "a")
	r.user("alice@here.example")
	r.user("bob@here.example")
	send := func(n byte, quota, messages uint64) *pb.Result {
		h := acceptOf(newID(n), epoch, nil, "bob@here.example", "alice@here.example")
		h.Drops[1].QuotaBytes, h.Drops[1].QuotaMessages = quota, messages
		return r.do(spool.KindAccept, h, []byte("body"))
	}
	require.Equal(t, pb.Code_OK, send(1, 100, 0).Code)
	full := send(2, 70, 0)
	require.Equal(t, pb.Code_OVER_QUOTA, full.Code)
	require.Equal(t, []uint32{1}, full.Drops)
	require.Equal(t, pb.Code_OVER_QUOTA, send(3, 0, 1).Code)
	require.Equal(t, pb.Code_OK, send(4, 0, 2).Code)
	require.EqualValues(t, 4, r.counter(spool.CountMailboxMessages))
}

func TestSendLimitCountsByDay(t *testing.T) {
	r := newReplica(t)
	epoch := r.register("n1", "a")
	send := func(n byte, spends uint32) pb.Code {
		h := acceptOf(newID(n), epoch, []string{"x@far.example"})
		h.Spender, h.Spends, h.SpendLimit = "alice@here.example", spends, 5
		return r.do(spool.KindAccept, h, []byte("body")).Code
	}
	require.Equal(t, pb.Code_OK, send(1, 3))
	require.Equal(t, pb.Code_OVER_LIMIT, send(2, 3))
	require.Equal(t, pb.Code_OK, send(3, 2))
	spent, err := r.view().Spent("alice@here.example", r.now.UnixMilli())
	require.NoError(t, err)
	require.EqualValues(t, 5, spent)
	r.now = r.now.Add(24 * time.Hour)
	require.Equal(t, pb.Code_OK, send(4, 5))
}

func TestRetryOfADomainTakesWhatWasDeferred(t *testing.T) {
	r := newReplica(t)
	epoch := r.register("n1", "a")
	id := newID(1)
	h := acceptOf(id, epoch, []string{"x@far.example", "y@near.example", "z@far.example"})
	h.Recipients[2].NextMs = r.now.UnixMilli() + 3_600_000 // held by FUTURERELEASE
	r.do(spool.KindAccept, h, []byte("body"))
	for n := range uint32(2) {
		require.Equal(t, pb.Code_OK, r.settle(epoch, id, n, 1, pb.State_DEFERRED))
	}
	r.now = r.now.Add(time.Millisecond)
	res := r.do(spool.KindManage, &pb.Manage{Action: pb.Action_RETRY, Ids: [][]byte{id[:]}, Domain: "far.example"})
	require.EqualValues(t, 1, res.Count)
	one, _, _ := r.view().Recipient(id, 0)
	require.Equal(t, r.now.UnixMilli(), one.NextMs)
	other, _, _ := r.view().Recipient(id, 1)
	require.Greater(t, other.NextMs, r.now.UnixMilli())
}

func TestDkimKeysRotateInOneStep(t *testing.T) {
	r := newReplica(t)
	r.user("alice@here.example")
	put := func(selector string, retire bool) pb.Code {
		return r.do(spool.KindPutDkim, &pb.PutDkim{RetireOthers: retire, Key: &pb.DkimKey{
			Domain: "here.example", Selector: selector, Algorithm: "rsa", Private: []byte("x"),
		}}).Code
	}
	require.Equal(t, pb.Code_OK, put("a", false))
	require.Equal(t, pb.Code_EXISTS, put("a", false))
	require.Equal(t, pb.Code_OK, put("b", true))
	keys, err := r.view().DkimKeys("here.example")
	require.NoError(t, err)
	require.Len(t, keys, 2)
	require.True(t, keys[0].Retired)
	require.False(t, keys[1].Retired)
	require.Equal(t, pb.Code_OK, r.do(spool.KindDropDkim, &pb.DropDkim{Domain: "here.example", Selector: "a"}).Code)
	require.Equal(t, pb.Code_MISSING, r.do(spool.KindDropDkim, &pb.DropDkim{Domain: "here.example", Selector: "a"}).Code)
}

// A message that was thrown away is finished at once: a history that is kept as
// long as others, and nothing else.
func TestDiscardLeavesAHistory(t *testing.T) {
	r := newReplica(t)
	r.register("n1", "a")
	id, copied := newID(1), newID(2)
	for _, one := range []spool.ID{id, copied} {
		r.do(spool.KindChunk, &pb.Chunk{Id: one[:], Seq: 1}, []byte("body"))
	}
	discard := func(id spool.ID) *pb.Result {
		return r.do(spool.KindDiscard, &pb.Discard{
			Message: &pb.Message{
				Id: id[:], CreatedMs: r.now.UnixMilli(), Sender: "s@far.example", Size: 4, Client: &pb.Client{Node: "n1"},
			},
			Recipients: []string{"alice@here.example", "x@far.example"}, By: "the content filter f", Detail: "detail",
			Bodies: [][]byte{id[:], copied[:]}, Twin: []byte("twin"),
		})
	}
	res := discard(id)
	require.Equal(t, pb.Code_OK, res.Code)
	require.Equal(t, id[:], res.Id)
	require.Equal(t, pb.Code_DUPLICATE, discard(id).Code, "applied twice")
	again := discard(newID(3))
	require.Equal(t, pb.Code_DUPLICATE, again.Code, "sent again")
	require.Equal(t, id[:], again.Id)
	require.Equal(t, pb.Code_INVALID, r.do(spool.KindDiscard, &pb.Discard{Message: &pb.Message{Id: id[:]}}).Code)

	m, ok, err := r.view().Message(id)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "s@far.example", m.Sender)
	events, err := r.view().History(id)
	require.NoError(t, err)
	var told []string
	for _, e := range events {
		told = append(told, e.What+" "+e.Recipient+" "+e.Detail)
	}
	require.Equal(t, []string{
		"accepted  detail", "discarded alice@here.example by the content filter f",
		"discarded x@far.example by the content filter f",
	}, told)
	for _, prefix := range []byte{'b', 'o', 'f', 'r'} {
		require.NoError(t, r.store.Scan([]byte{prefix}, []byte{prefix + 1}, func(k, _ []byte) bool {
			require.Fail(t, "left behind", "%q", k)
			return true
		}))
	}
	require.EqualValues(t, 1, r.counter(spool.CountHistoryMessages))
	invariants(t, r.store)
	r.now = r.now.Add(4 * 24 * time.Hour)
	r.do(spool.KindSweep, &pb.Sweep{Limit: 100})
	_, ok, err = r.view().Message(id)
	require.NoError(t, err)
	require.False(t, ok, "kept as long as others")
	require.Zero(t, r.counter(spool.CountHistoryBytes))
	invariants(t, r.store)
}
