package session

import (
	"slices"
	"time"

	"relay/cluster/liveness"
	"relay/cluster/spool"
	"relay/cluster/tuning"
)

// leases decides for how long this node's renewals hold, and what an answer to
// one of them is worth. Its times are on the session's clock. It is not safe for
// concurrent use.
//
// Each renewal says its own lease, and several are under way at once. The leader
// counts from when it saw the newest one applied, with that one's lease. So:
//
//   - A renewal never holds for less than what was sent or believed before
//     (floor): the leader could count the shorter one while this node counts
//     the longer.
//   - An answer is believed no further than the newest renewal holds that was
//     sent by now: that one may be the one that the leader counts.
//
// The owner stops a margin before that, the leader acts a margin after it.
//
// From cluster version 2 on a renewal goes out each second, whatever is unanswered (up
// to eight), with a number and its own lease: 4 s + 10 times [cluster] latency, or four
// times the longest answer of the last minute + 2 s, up to 15 s. The margin is 1 s or
// an eighth of the lease. Links reorder, and an election has a renewal sent again. A
// renewal without an answer after a quarter of a second is sent on the leader's other
// link, too. A number that is not above the session's is DUPLICATE, changes nothing,
// and counts from when it was sent first.
//
// Rejected (2026-11-29): renewals outside the log, as a new leader would know nothing
// of them, and the commit proves the quorum; a longer lease for all, as a dead node's
// mail would wait longer on a LAN; both links at once for each renewal, two entries a
// second a node, on a LAN for nothing: the copy waits for 250 ms.
type leases struct {
	base   time.Duration // on a good day
	most   time.Duration // on a bad one
	spare  time.Duration // added to four times the longest answer
	margin time.Duration // the least

	last    uint64        // number of the last renewal
	under   []lease       // sent, and not older than the last one that was answered
	floor   time.Duration // no renewal may end before this
	answers tuning.Peak   // longest times that answers took
}

// lease is what one renewal says.
type lease struct {
	num  uint64        // 1 and up; never used again in this process
	sent time.Duration // at first, if it was sent several times
	hold time.Duration // from when it was sent
}

// answerMemory is how long a slow answer makes leases longer.
const answerMemory = time.Minute

func newLeases(t tuning.Tuning) leases {
	return leases{
		base:   bounded(t.Lease + 10*t.Latency),
		most:   bounded(max(t.Lease/4*15, t.Lease+10*t.Latency)),
		spare:  t.Lease / 2,
		margin: t.Margin, answers: tuning.NewPeak(answerMemory),
	}
}

// bounded keeps a lease within what Apply takes: the leader counts that.
func bounded(d time.Duration) time.Duration { return min(max(d, spool.MinLease), spool.MaxLease) }

// slow takes note of how long an answer took.
func (l *leases) slow(now, took time.Duration) { l.answers.Note(now, took) }

// want is the lease that fits the answers of the last minute, and one that has
// not come yet.
func (l *leases) want(now, waiting time.Duration) time.Duration {
	d := 4*max(l.answers.Top(now), waiting) + l.spare
	d = min(max(d, l.base), l.most)
	return d.Round(time.Millisecond)
}

// next makes the next renewal.
func (l *leases) next(now, waiting time.Duration) lease {
	return l.add(now, max(l.want(now, waiting), roundUp(l.floor-now)))
}

// fixed makes a renewal whose lease the leader takes from its own tuning.
func (l *leases) fixed(now, hold time.Duration) lease { return l.add(now, hold) }

func (l *leases) add(now, hold time.Duration) lease {
	l.last++
	one := lease{l.last, now, hold}
	l.under = append(l.under, one)
	l.floor = max(l.floor, now+hold)
	return one
}

// begin forgets the leases of a former session, and returns the end of the right
// to act of one that was registered at from for hold.
func (l *leases) begin(from, hold time.Duration) (end time.Duration) {
	l.under, l.floor = l.under[:0], from+hold
	return from + hold - liveness.Margin(hold, l.margin)
}

// answered returns until when this node may act after an answer to a renewal:
// from is when that began to hold at the earliest. It returns 0 where a newer
// renewal was answered before.
func (l *leases) answered(num uint64, from time.Duration) (end time.Duration) {
	i := slices.IndexFunc(l.under, func(one lease) bool { return one.num == num })
	if i < 0 {
		return 0
	}
	end, longest := max(from, l.under[i].sent)+l.under[i].hold, time.Duration(0)
	for _, one := range l.under[i:] {
		end, longest = min(end, max(from, one.sent)+one.hold), max(longest, one.hold)
	}
	l.under = slices.Delete(l.under, 0, i+1)
	l.floor = max(l.floor, end)
	return end - liveness.Margin(longest, l.margin)
}

// roundUp makes whole milliseconds, which is what a command carries.
func roundUp(d time.Duration) time.Duration {
	return (d + time.Millisecond - 1).Truncate(time.Millisecond)
}
