package plan

import (
	"time"

	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// defaultExpire is how long the queue tries (RFC 5321 §4.5.4.1: 4-5 days).
const defaultExpire = 5 * 24 * time.Hour

// Expiry is when the queue gives a message up: after its time in the queue,
// which begins when it is released, or when its sender said. own is this
// node's life time of messages, or 0.
func Expiry(m *pb.Message, s *pb.Settings, own time.Duration) time.Time {
	if m.ExpiresMs > 0 {
		return time.UnixMilli(m.ExpiresMs)
	}
	life := defaultExpire
	if s.ExpireMs > 0 {
		life = time.Duration(s.ExpireMs) * time.Millisecond
	}
	if own > 0 {
		life = own
	}
	end := max(m.CreatedMs, m.HoldUntilMs) + life.Milliseconds()
	if m.DeliverByReturn && m.DeliverByMs > 0 {
		end = min(end, m.DeliverByMs)
	}
	return time.UnixMilli(end)
}

// Mended is a message with the dates that it would have had by the right clock:
// it came while the cluster's time was behind, and that has jumped forward since.
func Mended(m *pb.Message, ts *pb.TimeState) *pb.Message {
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
