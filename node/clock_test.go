package node

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
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
	for name, c := range map[string]struct {
		jumped   uint64
		r        *pb.Recipient
		message  *pb.Message
		expected int64
	}{
		"no jump":                   {0, &pb.Recipient{NextMs: at + tenDays, Changed: 99, Attempts: 1}, nil, at + tenDays},
		"written after the jump":    {jumpAt, &pb.Recipient{NextMs: at + tenDays, Changed: 100, Attempts: 1}, nil, at + tenDays},
		"due before the jump":       {jumpAt, &pb.Recipient{NextMs: at - 5, Changed: 99, Attempts: 1}, nil, at - 5},
		"due sooner than its wait":  {jumpAt, &pb.Recipient{NextMs: at + 1000, Changed: 99, Attempts: 1}, nil, at + 1000},
		"after one attempt":         {jumpAt, &pb.Recipient{NextMs: at + tenDays, Changed: 99, Attempts: 1}, nil, at + 90_000},
		"after many attempts":       {jumpAt, &pb.Recipient{NextMs: at + tenDays, Changed: 99, Attempts: 50}, nil, at + 180_000},
		"never tried":               {jumpAt, &pb.Recipient{NextMs: at + tenDays, Changed: 99}, unheld, at},
		"never tried, told to wait": {jumpAt, &pb.Recipient{NextMs: at + tenDays + 3_600_000, Changed: 99}, held, at + 3_600_000},
		"a verdict that was on its way": {
			jumpAt, &pb.Recipient{NextMs: at + tenDays + 60_000, LastMs: at + tenDays, Changed: 101, Attempts: 1}, nil, at + 90_000,
		},
		"a verdict by a node that is ahead a little": {
			jumpAt, &pb.Recipient{NextMs: at + 7_200_000, LastMs: at + 9000, Changed: 101, Attempts: 1}, nil, at + 7_200_000,
		},
		"a date in the future without a jump": {
			0, &pb.Recipient{NextMs: at + tenDays + 60_000, LastMs: at + tenDays, Changed: 99, Attempts: 1}, nil, at + tenDays + 60_000,
		},
		"a verdict of the right time": {
			jumpAt, &pb.Recipient{NextMs: at + 7_200_000, LastMs: at + 2000, Changed: 101, Attempts: 1}, nil, at + 7_200_000,
		},
		"waits for less than an hour": {jumpAt, &pb.Recipient{NextMs: at + 1000, Changed: 99}, held, at + 1000},
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
// behind has the dates of the right time; what is not set stays so, and the
// record that was read is not changed.
func TestDatesOfAnEarlyClockAreMended(t *testing.T) {
	const by = int64(7_200_000)
	ts := &pb.TimeState{Jumps: []*pb.TimeState_Jump{{FromIndex: 10, ToIndex: 20, ByMs: by}}}
	read := &pb.Message{Index: 15, CreatedMs: 1, HoldUntilMs: 2, ExpiresMs: 3}
	before := proto.CloneOf(read)
	m := mended(read, ts)
	require.Equal(t, []int64{1 + by, 2 + by, 0, 3 + by}, []int64{m.CreatedMs, m.HoldUntilMs, m.DeliverByMs, m.ExpiresMs})
	require.True(t, proto.Equal(before, read))
	for _, index := range []uint64{9, 21} {
		other := &pb.Message{Index: index, CreatedMs: 1}
		require.Same(t, other, mended(other, ts), "%d is not of that time", index)
	}
	require.Same(t, read, mended(read, nil), "no jump yet")
}

// TestAVerdictOnItsWayDuringAJumpWaitsNoLonger: it is applied after the time has
// jumped back, but says when to try again by the time before.
func TestAVerdictOnItsWayDuringAJumpWaitsNoLonger(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	j := &jumped{now: now, policy: queue.RetryPolicy{First: time.Minute, Jitter: 0.5}}
	require.Equal(t, now.Add(90*time.Second), j.retry(now.Add(10*24*time.Hour), 1))
	require.Equal(t, now.Add(time.Second), j.retry(now.Add(time.Second), 1))
}
