package node

import (
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/queue"
)

// newID makes the id of a message. Its time is the cluster's: ids of all nodes
// sort by acceptance, and a queue tells a message's age by its id.
func newID(now time.Time) spool.ID {
	return ulid.MustNew(ulid.Timestamp(now), ulid.DefaultEntropy())
}

// mended is a message with the dates that it would have had by the right clock:
// it came while the cluster's time was behind, and that has jumped forward since.
func mended(m *pb.Message, ts *pb.TimeState) *pb.Message {
	by := spool.Excess(ts, m.GetIndex())
	if by == 0 {
		return m
	}
	m = proto.CloneOf(m)
	for _, ms := range []*int64{&m.CreatedMs, &m.HoldUntilMs, &m.DeliverByMs, &m.ExpiresMs} {
		if *ms != 0 {
			*ms += by
		}
	}
	return m
}

// jumped tells when entries are due after the cluster's time has jumped: what was
// put off by the time before a jump back would wait for as long as that was wrong.
type jumped struct {
	ts      *pb.TimeState
	policy  queue.RetryPolicy
	message func(id spool.ID) (*pb.Message, error)
}

// due is when an entry is due: as it says or, where it was written before the
// last jump, at the latest when its wait would end that begins with the jump.
func (j *jumped) due(id spool.ID, r *pb.Recipient) (time.Time, error) {
	next := time.UnixMilli(r.NextMs)
	if r.Changed >= j.ts.GetJumpedIndex() || r.NextMs <= j.ts.JumpedMs {
		return next, nil
	}
	wait := j.policy.Longest(int(r.Attempts))
	if r.Attempts == 0 { // it may wait for its time (RFC 4865)
		m, err := j.message(id)
		if err != nil {
			return next, err
		}
		wait = time.Duration(max(0, m.GetHoldUntilMs()-m.GetCreatedMs())) * time.Millisecond
	}
	latest := time.UnixMilli(j.ts.JumpedMs).Add(wait)
	if latest.Before(next) {
		return latest, nil
	}
	return next, nil
}
