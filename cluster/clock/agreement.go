package clock

import (
	"slices"
	"time"

	pb "relay/cluster/spool/spoolpb"
)

// The members' wall clocks vote on the state's time. Each renewal carries its
// sender's wall clock, and Apply notes the state's time beside it, so that every
// node knows every living node's offset without a further message.
const (
	Near     = 5 * time.Second // clocks that differ by no more agree; a node further away is named
	TooFar   = time.Minute     // from here on the state's time is not slewed, but jumps
	quietFor = time.Hour       // how often a node repeats in its log that its clock is wrong
)

// Offsets are the differences of the voters' wall clocks to the state's time, as
// of renewals after an index, in ascending order.
func Offsets(sessions []*pb.Session, voters []string, after uint64) (offs []time.Duration) {
	for _, s := range sessions {
		if off, known := OffsetOf(s); known && s.Renewed > after && slices.Contains(voters, s.Node) {
			offs = append(offs, off)
		}
	}
	slices.Sort(offs)
	return offs
}

// OffsetOf is the difference of a node's wall clock to the state's time; false
// where it has not said.
func OffsetOf(s *pb.Session) (time.Duration, bool) {
	return time.Duration(s.GetWallMs()-s.GetRenewedMs()) * time.Millisecond, s.GetWallMs() != 0
}

// Agreed is the median of sorted offsets, the lower one of two, and whether a
// majority of so many voters is near it. It is a pure function, so that all nodes
// answer it alike.
func Agreed(offs []time.Duration, voters int) (median time.Duration, ok bool) {
	quorum := voters/2 + 1
	if len(offs) < quorum {
		return 0, false
	}
	median = offs[(len(offs)-1)/2]
	with := 0
	for _, o := range offs {
		if (o - median).Abs() <= Near {
			with++
		}
	}
	return median, with >= quorum
}
