package outbound

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/plan"
	"relay/queue"
)

// TestWhatWasPutOffByAWrongClockIsDueSooner: an entry that was written before the
// time jumped back waits for no longer than its wait was, counted from the jump.
func TestWhatWasPutOffByAWrongClockIsDueSooner(t *testing.T) {
	const jumpAt, at = uint64(100), int64(1_800_000_000_000)
	tenDays := (10 * 24 * time.Hour).Milliseconds()
	held := &pb.Message{CreatedMs: at + tenDays, HoldUntilMs: at + tenDays + 3_600_000}
	unheld := &pb.Message{CreatedMs: at + tenDays}
	policy := queue.RetryPolicy{First: time.Minute, Max: 2 * time.Minute, Factor: 2, Jitter: 0.5}
	recipient := func(next, last int64, changed uint64, attempts uint32) *pb.Recipient {
		return &pb.Recipient{NextMs: next, LastMs: last, Changed: changed, Attempts: attempts}
	}
	const hour, next = int64(3_600_000), at + 10*24*3_600_000
	for name, c := range map[string]struct {
		jumped   uint64
		r        *pb.Recipient
		message  *pb.Message
		expected int64
	}{
		"no jump":                     {0, recipient(next, 0, 99, 1), nil, next},
		"written after the jump":      {jumpAt, recipient(next, 0, 100, 1), nil, next},
		"due before the jump":         {jumpAt, recipient(at-5, 0, 99, 1), nil, at - 5},
		"due sooner than its wait":    {jumpAt, recipient(at+1000, 0, 99, 1), nil, at + 1000},
		"after one attempt":           {jumpAt, recipient(next, 0, 99, 1), nil, at + 90_000},
		"after many attempts":         {jumpAt, recipient(next, 0, 99, 50), nil, at + 180_000},
		"never tried":                 {jumpAt, recipient(next, 0, 99, 0), unheld, at},
		"never tried, told to wait":   {jumpAt, recipient(next+hour, 0, 99, 0), held, at + hour},
		"waits for less than an hour": {jumpAt, recipient(at+1000, 0, 99, 0), held, at + 1000},
		"a verdict on its way":        {jumpAt, recipient(next+60_000, next, 101, 1), nil, at + 90_000},
		"by a node a little ahead":    {jumpAt, recipient(at+2*hour, at+9000, 101, 1), nil, at + 2*hour},
		"of the future, but no jump":  {0, recipient(next+60_000, next, 99, 1), nil, next + 60_000},
		"a verdict of the right time": {jumpAt, recipient(at+2*hour, at+2000, 101, 1), nil, at + 2*hour},
	} {
		j := &jumped{
			ts: &pb.TimeState{JumpedIndex: c.jumped, JumpedMs: at}, policy: policy, now: time.UnixMilli(at + 3000),
			message: func(spool.ID) (*pb.Message, error) { return c.message, nil },
		}
		due, err := j.due(spool.ID{}, c.r)
		require.NoError(t, err, name)
		require.Equal(t, c.expected, due.UnixMilli(), name)
	}
}

// TestDueTellsOfAMessageThatCanNotBeRead.
func TestDueTellsOfAMessageThatCanNotBeRead(t *testing.T) {
	broken := errors.New("a damaged block")
	j := &jumped{
		ts:      &pb.TimeState{JumpedIndex: 5, JumpedMs: 10},
		message: func(spool.ID) (*pb.Message, error) { return nil, broken },
	}
	_, err := j.due(spool.ID{}, &pb.Recipient{NextMs: 11, Changed: 4})
	require.ErrorIs(t, err, broken)
}

// TestDatesOfAnEarlyClockAreMended: a message that came while the time was
// behind has the dates of the right time; a date that is not set stays so, and the
// record that was read is not changed.
func TestDatesOfAnEarlyClockAreMended(t *testing.T) {
	const by = int64(7_200_000)
	ts := &pb.TimeState{Jumps: []*pb.TimeState_Jump{{FromIndex: 10, ToIndex: 20, ByMs: by}}}
	read := &pb.Message{Index: 15, CreatedMs: 1, HoldUntilMs: 2, ExpiresMs: 3}
	before := proto.CloneOf(read)
	m := plan.Mended(read, ts)
	require.Equal(t, []int64{1 + by, 2 + by, 0, 3 + by}, []int64{m.CreatedMs, m.HoldUntilMs, m.DeliverByMs, m.ExpiresMs})
	require.True(t, proto.Equal(before, read))
	for _, index := range []uint64{9, 21} {
		other := &pb.Message{Index: index, CreatedMs: 1}
		require.Same(t, other, plan.Mended(other, ts), "%d is not of that time", index)
	}
	require.Same(t, read, plan.Mended(read, nil), "no jump yet")
}

// TestAVerdictOnItsWayDuringAJumpWaitsNoLonger: it is applied after the time has
// jumped back, but says when to try again by the time before.
func TestAVerdictOnItsWayDuringAJumpWaitsNoLonger(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	j := &jumped{now: now, policy: queue.RetryPolicy{First: time.Minute, Jitter: 0.5}}
	require.Equal(t, now.Add(90*time.Second), j.retry(now.Add(10*24*time.Hour), 1))
	require.Equal(t, now.Add(time.Second), j.retry(now.Add(time.Second), 1))
}

// TestVerdictsAreClampedForAMinuteAfterAJump, and cost nothing at other times.
func TestVerdictsAreClampedForAMinuteAfterAJump(t *testing.T) {
	w := newOutboundWorld(t)
	require.Nil(t, w.justJumped(), "no jump")
	now := w.replica.Now()
	w.timing.Store(&pb.TimeState{JumpedIndex: 5, JumpedMs: now.Add(-2 * onTheWay).UnixMilli()})
	require.Nil(t, w.justJumped(), "long ago")
	w.timing.Store(&pb.TimeState{JumpedIndex: 5, JumpedMs: now.UnixMilli()})
	after := w.justJumped()
	require.NotNil(t, after)
	require.True(t, after.retry(now.Add(10*24*time.Hour), 1).Before(now.Add(10*time.Minute)))
}
