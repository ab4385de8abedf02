package spool

import (
	"time"

	pb "relay/cluster/spool/spoolpb"
)

// historyBounds are how long the history of a finished message is kept, in
// milliseconds, and how many octets there may be of all.
func historyBounds(s *pb.Settings, version uint32) (keep, bound int64) {
	keep, bound = s.GetHistoryMs(), int64(s.GetHistoryBytes())
	if keep == 0 {
		keep = DefaultHistoryMs
	}
	if bound == 0 {
		bound = DefaultHistoryBytes
		if version < 2 {
			bound = historyBytesV1
		}
	}
	return max(keep, minHistoryMs), bound
}

// HistoryLength says how far back the history of finished messages goes.
type HistoryLength struct {
	Messages, Bytes uint64
	Bound           uint64        // of Bytes
	Keep            time.Duration // how long it should last
	Span            time.Duration // since the oldest message that it has was finished; 0: it has none
}

// HistoryLength reads counters, settings and the oldest finished message.
func (v View) HistoryLength() (h HistoryLength, err error) {
	c, _, err := v.Cluster()
	if err != nil {
		return h, err
	}
	s, err := v.Settings()
	if err != nil {
		return h, err
	}
	keep, bound := historyBounds(s, VersionOf(c))
	h.Keep, h.Bound = time.Duration(keep)*time.Millisecond, uint64(max(bound, 1))
	messages, err := v.Counter(CountHistoryMessages)
	if err != nil {
		return h, err
	}
	bytes, err := v.Counter(CountHistoryBytes)
	if err != nil {
		return h, err
	}
	h.Messages, h.Bytes = uint64(max(messages, 0)), uint64(max(bytes, 0))
	clock, err := v.Clock()
	if err != nil {
		return h, err
	}
	err = v.R.Scan([]byte{kExpiry}, []byte{kExpiry + 1}, func(k, _ []byte) bool {
		h.Span = max(time.Duration(clock-int64(numberOf(k)))*time.Millisecond, 0)
		return false
	})
	if err != nil {
		return h, err
	}
	err = v.R.Scan([]byte{kWindow}, []byte{kWindow + 1}, func(k, _ []byte) bool {
		h.Span = max(time.Duration(clock-int64(numberOf(k))*windowMs)*time.Millisecond, h.Span)
		return false
	})
	return h, err
}

// Lasts is how long the history of a message lasts, at the rate at which there came what
// is there now: Keep at most. It is not known where there is less than an hour of
// history that fills less than half of the bound.
func (h HistoryLength) Lasts() (lasts time.Duration, known bool) {
	if h.Bytes == 0 || h.Span == 0 || h.Span < time.Hour && h.Bytes < h.Bound/2 {
		return 0, false
	}
	return time.Duration(min(float64(h.Span)*float64(h.Bound)/float64(h.Bytes), float64(h.Keep))), true
}
