package spool

import (
	"time"

	"google.golang.org/protobuf/proto"

	pb "relay/cluster/spool/spoolpb"
)

// The numbers of the state's clock, in milliseconds. They are a format.
const (
	maxTick    = 60_000 // a stamp that is further ahead moves nothing
	clockSlack = 5_000  // how far the clock may have run since a jump was judged
	longJump   = 60_000 // from here on a jump forward holds what goes by age
	minHold    = 10 * 60_000
	maxHold    = 24 * 3600_000
	maxBack    = 30 * dayMs
	maxJumps   = 8
	// dawn is when the clock of the state came to be: no cluster is set back to
	// before it, as machines whose clock has lost its battery would like.
	dawn = 1_793_491_200_000 // 2026-11-01
)

// tick moves the state's time by a leader's stamp; it never runs backwards. From
// version 2 on a stamp that is far ahead moves nothing: only a Clock command
// makes the time jump, which all see.
func (s *state) tick(at int64) {
	ahead := at - s.clock
	if ahead <= 0 || ahead > maxTick && s.clock != 0 && s.at(2) {
		return
	}
	s.clock, s.ticked = at, true
}

// jump sets the state's time. It is a compare-and-swap on the clock that its
// proposer has judged. A jump holds all that goes by age for a while: it may be
// as wrong as the time before it.
func (t *tx) jump(h *pb.Clock) *pb.Result {
	by := h.ToMs - t.clock
	ordered := h.Admin != nil
	switch {
	case !t.at(2):
		return t.refuse(pb.Code_STALE, "the cluster version is %d", t.cluster.GetVersion())
	case h.ToMs <= 0:
		return t.refuse(pb.Code_INVALID, "a Clock needs a time")
	case max(t.clock-h.FromMs, h.FromMs-t.clock) > clockSlack:
		return t.refuse(pb.Code_STALE, "the clock is not any more where it was when this was judged")
	case !ordered && by < 0 && (by < -maxBack || h.ToMs < dawn):
		return t.refuse(pb.Code_STALE, "the clock is not set back so far without an operator's word")
	}
	hold := int64(minHold)
	if by > longJump {
		hold = min(max(by/10, minHold), maxHold)
	}
	next := proto.CloneOf(t.timing)
	t.clock, t.ticked = h.ToMs, true
	next.JumpedMs, next.JumpedIndex = t.clock, t.index
	switch {
	case by < 0:
		next.HoldUntilMs = t.clock + hold // the one that may be under way was of the time that was wrong
	case by > longJump:
		next.HoldUntilMs = max(next.HoldUntilMs, t.clock+hold)
	}
	if by > longJump && h.FromIndex != 0 {
		next.Jumps = append(next.Jumps, &pb.TimeState_Jump{FromIndex: h.FromIndex, ToIndex: t.index, ByMs: by})
		next.Jumps = next.Jumps[max(0, len(next.Jumps)-maxJumps):]
	}
	t.timing = next
	t.write(key(kMeta, "time"), next)
	t.fail(t.dedup.load(t.b, t.clock/DedupMs))
	t.changes.Clock = true
	adm := h.Admin
	if !ordered {
		adm = &pb.Admin{Who: "cluster", Why: "the members' clocks agree on it"}
	}
	t.audit(adm, "clock set by "+(time.Duration(by)*time.Millisecond).String())
	return t.ok()
}

// since is for how long something that the state has dated has been.
func (s *state) since(ms int64) int64 { return Since(s.clock, s.timing, ms) }

// age is since without the jumps forward that were no time for what was written
// at an index: its date was made by the clock that was wrong.
func (s *state) age(ms int64, index uint64) int64 {
	return max(0, s.since(ms)-Excess(s.timing, index))
}

// ages reports whether a Sweep may delete by age.
func (t *tx) ages(h *pb.Sweep) bool {
	return !t.at(2) || h.Ages && t.clock >= t.timing.HoldUntilMs
}

// Since is for how long something dated ms has been at a time of the state. A record
// dated in the future was written before the clock was set back, at the latest then.
func Since(now int64, ts *pb.TimeState, ms int64) int64 {
	if ms > now {
		if ms = ts.GetJumpedMs(); ms == 0 {
			return 0
		}
	}
	return max(0, now-ms)
}

// Excess is by how much the date of what was written at an index is too early:
// the jump forward that mended the clock it was dated by.
func Excess(ts *pb.TimeState, index uint64) int64 {
	for _, j := range ts.GetJumps() {
		if j.FromIndex <= index && index <= j.ToIndex {
			return j.ByMs
		}
	}
	return 0
}
