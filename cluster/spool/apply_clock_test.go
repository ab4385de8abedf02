package spool_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

const day = 24 * time.Hour

// newSecond is a replica of a cluster of version 2.
func newSecond(t require.TestingT) *replica {
	r := newReplica(t)
	r.now = time.UnixMilli(1_900_000_000_000)
	r.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	require.Equal(t, pb.Code_OK, r.do(spool.KindRaise, &pb.Raise{From: 1, To: 2}).Code)
	return r
}

func (r *replica) clock() int64 {
	ms, err := r.view().Clock()
	require.NoError(r.t, err)
	return ms
}

// jump sets the clock by a difference; the stamps follow.
func (r *replica) jump(by time.Duration, fromIndex uint64) {
	from := r.clock()
	res := r.do(spool.KindClock, &pb.Clock{FromMs: from, ToMs: from + by.Milliseconds(), FromIndex: fromIndex})
	require.Equal(r.t, pb.Code_OK, res.Code, res.Text)
	r.now = time.UnixMilli(r.clock())
}

// pass lets time pass, in steps that move the clock.
func (r *replica) pass(d time.Duration) {
	for ; d > 0; d -= time.Minute {
		r.now = r.now.Add(min(d, time.Minute) - time.Millisecond)
		r.do(spool.KindMark, &pb.Mark{Id: "x"})
	}
}

func (r *replica) sweep() uint32 {
	return r.do(spool.KindSweep, &pb.Sweep{Limit: 100, Ages: true, OrphansAgeMs: 1}).Count
}

// TestNoStampMovesTheClockFar: from version 2 on one entry with a wrong time does
// nothing, and the time of what follows is right.
func TestNoStampMovesTheClockFar(t *testing.T) {
	for version, want := range map[int]time.Duration{1: 10 * day, 2: 0} {
		r := newSecond(t)
		if version == 1 {
			r = newReplica(t)
			r.do(spool.KindMark, &pb.Mark{Id: "x"})
		}
		before := r.clock()
		right := r.now
		r.now = r.now.Add(10 * day)
		r.do(spool.KindMark, &pb.Mark{Id: "x"})
		r.now = right
		r.do(spool.KindMark, &pb.Mark{Id: "x"})
		require.InDelta(t, before+want.Milliseconds(), r.clock(), 10, "version %d", version)
	}
	r := newSecond(t)
	before := r.clock()
	r.now = r.now.Add(59 * time.Second)
	r.do(spool.KindMark, &pb.Mark{Id: "x"})
	require.Equal(t, before+59_001, r.clock(), "the clock runs on with the stamps")
}

func TestAClockIsACompareAndSwap(t *testing.T) {
	r := newSecond(t)
	now := r.clock()
	try := func(h *pb.Clock) pb.Code { return r.do(spool.KindClock, h).Code }
	require.Equal(t, pb.Code_STALE, try(&pb.Clock{FromMs: now - 5100, ToMs: now + 7_200_000}))
	require.Equal(t, pb.Code_STALE, try(&pb.Clock{FromMs: now + 5100, ToMs: now + 7_200_000}))
	require.Equal(t, pb.Code_INVALID, try(&pb.Clock{FromMs: now}))
	require.Equal(t, pb.Code_STALE, try(&pb.Clock{FromMs: now, ToMs: now - (31 * day).Milliseconds()}),
		"no majority is believed that far")
	require.Equal(t, now, r.clock())
	require.Equal(t, pb.Code_OK, try(&pb.Clock{FromMs: now - 4000, ToMs: now + 7_200_000}))
	require.Equal(t, now+7_200_000, r.clock())
	require.Equal(t, pb.Code_STALE, try(&pb.Clock{FromMs: now, ToMs: now + 7_200_000}), "the same once more")
	far := &pb.Clock{FromMs: r.clock(), ToMs: now - (400 * day).Milliseconds(), Admin: &pb.Admin{Who: "operator"}}
	require.Equal(t, pb.Code_OK, try(far), "an operator may")
	changes := r.m.Changes()
	require.True(t, changes.Clock)
	require.Equal(t, r.clock(), changes.ClockMs)
	require.False(t, r.m.Changes().Clock)

	old := newReplica(t)
	old.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	require.Equal(t, pb.Code_STALE, old.do(spool.KindClock, &pb.Clock{FromMs: old.clock(), ToMs: old.clock() + 1}).Code,
		"not before version 2")
}

// TestAJumpHoldsWhatGoesByAge: a tenth of the jump, ten minutes at least, a day at
// most; a jump back ends it ten minutes later.
func TestAJumpHoldsWhatGoesByAge(t *testing.T) {
	held := func(r *replica) time.Duration {
		ts, err := r.view().TimeState()
		require.NoError(t, err)
		return time.Duration(ts.HoldUntilMs-r.clock()) * time.Millisecond
	}
	for by, want := range map[time.Duration]time.Duration{
		time.Minute + time.Second: 10 * time.Minute, 3 * day: 3 * day / 10, 100 * day: day, -2 * time.Hour: 10 * time.Minute,
	} {
		r := newSecond(t)
		r.jump(by, 0)
		require.Equal(t, want, held(r), "%s", by)
	}
	r := newSecond(t)
	r.jump(20*day, 0)
	r.jump(-20*day, 0)
	require.Equal(t, 10*time.Minute, held(r), "the hold of the wrong time is over")
}

// TestNothingIsDeletedByAgeAfterAJump: mail with a retention, histories, audit
// lines, orphans, requests, tokens and the rest stay while the hold lasts, and
// where the leader does not say that the clocks agree.
func TestNothingIsDeletedByAgeAfterAJump(t *testing.T) {
	r := newSecond(t)
	r.user(alice)
	epoch := r.register("n1", "a")
	r.do(spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: alice, RetentionMs: (5 * day).Milliseconds()}})
	r.do(spool.KindAccept, acceptOf(newID(1), epoch, nil, alice), []byte("kept"))
	r.do(spool.KindAccept, acceptOf(newID(2), epoch, []string{"a@far.example"}), []byte("gone soon"))
	require.Equal(t, pb.Code_OK, r.settle(epoch, newID(2), 0, 1, pb.State_DELIVERED))
	r.do(spool.KindChunk, &pb.Chunk{Id: []byte("0123456789abcdef")}, []byte("orphan"))
	r.do(spool.KindPutToken, &pb.PutToken{
		Admin: &pb.Admin{Request: []byte("r")}, Token: &pb.JoinToken{Hash: []byte("h"), Uses: 1, ExpiresMs: r.clock() + 1000},
	})
	r.do(spool.KindTally, &pb.Tally{Node: "n1", Seq: 1, Tried: []*pb.Tried{{Network: "192.0.2.1/32", Count: 1}}})
	r.do(spool.KindGreet, &pb.Greet{
		Attempts: []*pb.Attempt{{Triplet: spool.Triplet("a", "b", "c"), Network: "192.0.2.0/24", DelayMs: 1}},
	})
	r.do(spool.KindPutCert, &pb.PutCert{Name: "x+token", Data: []byte("x"), Token: true})
	twin := acceptOf(newID(3), epoch, nil, alice)
	twin.Twin = []byte("once")
	r.do(spool.KindAccept, twin, []byte("once"))

	r.jump(10*day, 0)
	require.Zero(t, r.sweep(), "while the hold lasts")
	r.pass(day + time.Minute)
	require.Zero(t, r.do(spool.KindSweep, &pb.Sweep{Limit: 100, OrphansAgeMs: 1}).Count, "where the clocks do not agree")
	require.EqualValues(t, 11, r.sweep(), "two messages, a history, an orphan, a request, a failure and its mark, ...")
}

func TestDatesOfTheFuture(t *testing.T) {
	const ahead = 10 * day
	t.Run("login delay", func(t *testing.T) {
		r := newSecond(t)
		r.user(alice)
		r.do(spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: alice, LoginDelayMs: 60_000}})
		epoch := r.register("n1", "a")
		r.jump(ahead, 0)
		lock := func(session string) *pb.Result {
			return r.do(spool.KindLock, &pb.TakeLock{Mailbox: alice, Node: "n1", Epoch: epoch, Session: session})
		}
		first := lock("a")
		require.Equal(t, pb.Code_OK, first.Code)
		r.do(spool.KindUnlock, &pb.Unlock{Mailbox: alice, Epoch: epoch, Token: first.Token})
		r.jump(-ahead, 0)
		soon := lock("b")
		require.Equal(t, pb.Code_TOO_SOON, soon.Code)
		require.InDelta(t, r.clock()+60_000, soon.UntilMs, 100)
		r.pass(time.Minute)
		require.Equal(t, pb.Code_OK, lock("c").Code, "a minute, not ten days")
	})
	t.Run("greylist", func(t *testing.T) {
		r := newSecond(t)
		greet := func() *pb.Result {
			return r.do(spool.KindGreet, &pb.Greet{
				Attempts: []*pb.Attempt{{Triplet: spool.Triplet("a", "b", "c"), Network: "192.0.2.0/24", DelayMs: 60_000}},
			})
		}
		r.jump(ahead, 0)
		require.Equal(t, pb.Code_TOO_SOON, greet().Codes[0])
		r.jump(-ahead, 0)
		require.Equal(t, pb.Code_TOO_SOON, greet().Codes[0])
		require.Equal(t, int64(60_000), greet().WaitsMs[0]+1, "as at a first attempt")
		r.pass(2 * time.Minute)
		require.Equal(t, pb.Code_OK, greet().Codes[0])
	})
	t.Run("failed logins", func(t *testing.T) {
		r := newSecond(t)
		tally := func(seq uint64) {
			r.do(spool.KindTally, &pb.Tally{Node: "n1", Seq: seq, Tried: []*pb.Tried{{Network: "192.0.2.1/32", Count: 5}}})
		}
		r.jump(ahead, 0)
		tally(1)
		r.jump(-ahead, 0)
		r.pass(11 * time.Minute)
		f, _, err := r.view().Failures("192.0.2.1/32")
		require.NoError(t, err)
		ts, err := r.view().TimeState()
		require.NoError(t, err)
		require.Greater(t, spool.Since(r.clock(), ts, f.LastMs), int64(spool.FailureMs))
		tally(2)
		f, _, err = r.view().Failures("192.0.2.1/32")
		require.NoError(t, err)
		require.EqualValues(t, 5, f.Count, "what was before does not count any more")
	})
	t.Run("twins", func(t *testing.T) {
		r := newSecond(t)
		r.user(alice)
		send := func(n byte) pb.Code {
			h := acceptOf(newID(n), 0, nil, alice)
			h.Twin = []byte("the same")
			return r.do(spool.KindAccept, h, []byte("x")).Code
		}
		require.Equal(t, pb.Code_OK, send(1))
		other := acceptOf(newID(9), 0, nil, alice)
		r.jump(ahead, 0)
		other.Twin = []byte("another")
		r.do(spool.KindAccept, other, []byte("x"))
		r.jump(-ahead, 0)
		require.Equal(t, pb.Code_DUPLICATE, send(2), "the filter knows the generation it is in again")
		m, err := spool.Load(r.store)
		require.NoError(t, err)
		r.m = m
		require.Equal(t, pb.Code_DUPLICATE, send(3), "after a restart, too")
		require.Equal(t, 2, countKeys(r, 'T'))
		r.pass(11 * time.Minute)
		r.sweep()
		require.Equal(t, 1, countKeys(r, 'T'), "those of the future are swept")
	})
	t.Run("join token", func(t *testing.T) {
		r := newSecond(t)
		r.jump(ahead, 0)
		r.do(spool.KindPutToken, &pb.PutToken{
			Token: &pb.JoinToken{Hash: []byte("h"), Uses: 1, MadeMs: r.clock(), ExpiresMs: r.clock() + 3600_000},
		})
		r.jump(-ahead, 0)
		require.Equal(t, pb.Code_STALE, r.do(spool.KindUseToken, &pb.UseToken{Hash: []byte("h"), Node: "n2"}).Code)
	})
}

// TestADuplicateIsMarkedByIndex: clocks of owners and of the state have no say in
// whether an entry was due when its owner died.
func TestADuplicateIsMarkedByIndex(t *testing.T) {
	for name, at := range map[string]time.Duration{
		"an owner behind": -2 * time.Hour, "an owner ahead": 2 * time.Hour, "right": 0,
	} {
		r := newSecond(t)
		one, two := r.register("n1", "a"), r.register("n2", "b")
		r.do(spool.KindAccept, acceptOf(newID(1), one, []string{"a@far.example"}), []byte("x"))
		r.do(spool.KindExpire, &pb.Expire{Node: "n1", Epoch: one, Renewed: one})
		settle := func(attempt uint32) bool {
			id := newID(1)
			r.do(spool.KindSettle, &pb.Settle{Epoch: two, Node: "n2", Verdicts: []*pb.Verdict{{
				Id: id[:], Attempt: attempt, State: pb.State_DEFERRED, AtMs: r.now.Add(at).UnixMilli(), NextMs: r.now.UnixMilli(),
			}}})
			events, err := r.view().History(id)
			require.NoError(t, err)
			return events[len(events)-1].MaybeDuplicate
		}
		require.True(t, settle(1), name)
		require.False(t, settle(2), "%s: once", name)
	}
}

// TestWhatTheWrongClockDatedIsNotOld: a jump forward mends the clock, and what was
// written by the one before it is no older than it is.
func TestWhatTheWrongClockDatedIsNotOld(t *testing.T) {
	r := newSecond(t)
	r.user(alice)
	r.do(spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: alice, RetentionMs: (5 * day).Milliseconds()}})
	r.do(spool.KindAccept, acceptOf(newID(1), 0, nil, alice), []byte("from before"))
	reign := r.index + 1
	r.do(spool.KindAccept, acceptOf(newID(2), 0, nil, alice), []byte("of the reign that was three days behind"))
	r.jump(3*day, reign)
	r.pass(2*day + time.Hour)
	before := r.counter(spool.CountMailboxMessages)
	r.sweep()
	require.Equal(t, before-1, r.counter(spool.CountMailboxMessages), "five days old, and two")
	ts, err := r.view().TimeState()
	require.NoError(t, err)
	m, _, err := r.view().Message(newID(2))
	require.NoError(t, err)
	require.Equal(t, (3 * day).Milliseconds(), spool.Excess(ts, m.Index))
	for range 10 {
		r.jump(2*time.Minute, r.index+1)
	}
	ts, err = r.view().TimeState()
	require.NoError(t, err)
	require.Len(t, ts.Jumps, 8)
}
