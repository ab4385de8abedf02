package tuning

import (
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"
)

// Tuning holds the numbers; zero means the default. All nodes of a cluster
// must agree on Lease before cluster version 2.
type Tuning struct {
	// Latency is how long a message between nodes takes at worst, one way, a sync
	// of the disk included where that is slow; 0: a local network. It makes the
	// times longer that would be too short: Heartbeat and Election by 8 times as
	// much, LeaderLease by 7, the lease that renewals say by 10, Deadline by 20.
	// Nodes may have different ones.
	Latency time.Duration

	Heartbeat     time.Duration // 1.2 s: silence after which a follower stands for election
	Election      time.Duration // 1.2 s
	LeaderLease   time.Duration // 1 s: silence of a majority after which a leader steps down
	CommitTimeout time.Duration // 10 ms: how late an idle follower learns what is committed
	Quiet         time.Duration // Heartbeat: longest that an idle follower gets no AppendEntries; negative: none is kept

	BatchDepth int           // 1: groups of entries in flight
	Linger     time.Duration // 1 ms: longest a group waits for those who were just answered; negative: not at all
	GroupBytes int           // 4 MiB: octets in a group
	BulkBytes  int           // 1 MiB: octets of bulk in a group that also has control
	Budget     int64         // 16 MiB: octets of proposals under way from this node, of control and of bulk each

	Lease    time.Duration // 4 s: how long a session outlives its last renewal, on good links
	Margin   time.Duration // 1 s: how much before (owner) and after (leader) the lease's end each side acts
	Renew    time.Duration // 1 s
	Deadline time.Duration // 10 s: longest a proposal is tried

	LogBytes   int64         // 256 MiB: size of the log that makes a snapshot due
	GrowTo     int64         // 128 MiB: disk that a new log gets at once; negative: none
	LogCache   int64         // 8 MiB: entries kept in memory
	StallAfter time.Duration // 10 s: a write to the log that takes longer ends the process
	MemTable   int64         // 16 MiB
	BlockCache int64         // 64 MiB
	Sweep      time.Duration // 10 s
	Reclaim    time.Duration // 10 s: how often a node whose disk is short looks for space, about
	CertLife   time.Duration // 90 days: how long a node's certificate lives; it is renewed at two thirds
	Orphans    time.Duration // 1 h: chunks without an Accept are deleted after this
	Tick       time.Duration // 250 ms: how often the leader looks at sessions
	Promote    time.Duration // 500 ms: how long a new node must be caught up before it votes
	// UpgradeAfter is 1 h: how long all must have been live before the leader raises the cluster version.
	UpgradeAfter time.Duration
	// A majority of the wall clocks must agree for so long before the state's time
	// jumps by more than a minute.
	ClockFirst  time.Duration // 2 s: forward, in the first term after a start
	ClockAhead  time.Duration // 10 s: forward
	ClockBehind time.Duration // 10 min: back
	Snapshots   uint64        // 8192: entries that make a snapshot due
	Trailing    uint64        // 4096: entries kept behind a snapshot
}

func or[T int | int64 | uint64 | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

// ShareMemory divides the memory that the store may have between its caches: two memory
// tables of a fifth each (4 to 32 MiB), an eighth for the log's newest entries (1 to
// 8 MiB), and blocks. With a MemTable that is set already, all of it is for blocks. It
// changes nothing that is set; 0 octets set nothing.
func (t *Tuning) ShareMemory(octets int64) {
	if octets <= 0 {
		return
	}
	if t.MemTable == 0 {
		t.MemTable = max(4<<20, min(octets/5, 32<<20))
		or(&t.LogCache, max(1<<20, min(octets/8, 8<<20)))
		octets -= 2*t.MemTable + t.LogCache
	}
	or(&t.BlockCache, max(octets, 1<<20))
}

// WithDefaults fills in what is zero.
func (t Tuning) WithDefaults() Tuning {
	or(&t.Heartbeat, 1200*time.Millisecond+8*t.Latency)
	or(&t.Election, t.Heartbeat)
	or(&t.LeaderLease, min(time.Second+7*t.Latency, t.Heartbeat))
	or(&t.CommitTimeout, 10*time.Millisecond)
	or(&t.Quiet, t.Heartbeat)
	or(&t.BatchDepth, 1)
	or(&t.Linger, time.Millisecond)
	or(&t.GroupBytes, 4<<20)
	or(&t.BulkBytes, 1<<20)
	or(&t.Budget, 16<<20)
	or(&t.Lease, 4*time.Second)
	or(&t.Margin, min(time.Second, t.Lease/4))
	or(&t.Renew, min(time.Second, t.Lease/4))
	or(&t.Deadline, 10*time.Second+20*t.Latency)
	or(&t.LogBytes, 256<<20)
	or(&t.GrowTo, 128<<20)
	or(&t.LogCache, 8<<20)
	or(&t.StallAfter, 10*time.Second)
	or(&t.MemTable, 16<<20)
	or(&t.BlockCache, 64<<20)
	or(&t.Sweep, 10*time.Second)
	or(&t.Reclaim, 10*time.Second)
	or(&t.CertLife, 90*24*time.Hour)
	or(&t.Orphans, time.Hour)
	or(&t.Tick, 250*time.Millisecond)
	or(&t.Promote, 500*time.Millisecond)
	or(&t.UpgradeAfter, time.Hour)
	or(&t.ClockFirst, 2*time.Second)
	or(&t.ClockAhead, 10*time.Second)
	or(&t.ClockBehind, 10*time.Minute)
	or(&t.Snapshots, 8192)
	or(&t.Trailing, 4096)
	return t
}

// Pulse is how often a leader gives its signs of life, and a follower looks for them: at
// the same moments everywhere (Beat), so that an idle node wakes once for all it does.
// Raft leaves a tenth to a fifth of a heartbeat between two signs; this is a little more,
// so that each sign that waits for the next beat gets it.
func (t Tuning) Pulse() time.Duration { return max(t.Heartbeat*5/24, 10*time.Millisecond) }

// MaxGroup is how many entries raft takes into one write and one message, and
// so the largest group that is of use.
const MaxGroup = 128

// RaftConfig is the one place where raft is configured. Its reasons:
//   - BatchApplyCh and MaxAppendEntries: group commit;
//   - CommitTimeout: followers learn commits only with the next AppendEntries (those that
//     tell nothing are kept back: quiescence);
//   - heartbeats share the main loop with disk writes (see transport), hence
//     seconds, not milliseconds;
//   - NoSnapshotRestoreOnStart: the store itself is the snapshot;
//   - ShutdownOnRemove: the process decides when it ends.
//
// Guards of raft, what they are against, and the tests that fail without them (those of
// the log: disk/log.Log):
//
//   - no heartbeat shortcut: raft#695, logs diverge.
//     TestHeartbeatsGoThroughTheMainLoop.
//   - one append in flight: raft#612, a follower is wedged for ever.
//     TestNoPipelining, TestPipelineWedgesAFollower (shows it with two).
//   - a failed call ends with the outage: raft waits up to 10 s before it tries a
//     node again that was off. TestReturnedNodeIsServedSoon.
//   - batches, timeouts: TestRaftConfigurationIsAsDesigned.
//   - one group in flight, control first, bulk not starved: latency.
//     TestGateMakesGroupsOfWhatArrives, TestGateTakesControlFirstAndBoundsBulk,
//     TestGateLetsBulkThroughBesideMuchControl.
//   - a stamped frame is copied: a changed entry in the log's cache.
//     TestGateStampsCopiesOfFramesSeenBefore.
//   - frames are bounded, unknown ones kept out of the log: bbolt's neighbours;
//     nodes that stop. TestGateRefuses, TestFramesAreBounded.
//   - octets under way are bounded, control and bulk apart: memory; a lock behind
//     a large message. TestBudgetsAreApart.
func (t Tuning) RaftConfig(node string, log *zap.Logger) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(node)
	c.ProtocolVersion = raft.ProtocolVersionMax
	c.BatchApplyCh = true
	c.MaxAppendEntries = MaxGroup
	c.CommitTimeout = t.CommitTimeout
	c.HeartbeatTimeout = t.Heartbeat
	c.ElectionTimeout = t.Election
	c.LeaderLeaseTimeout = t.LeaderLease
	c.NoSnapshotRestoreOnStart = true
	c.SnapshotInterval = 30 * time.Second
	c.SnapshotThreshold = t.Snapshots
	c.TrailingLogs = t.Trailing
	c.ShutdownOnRemove = false
	c.NoLegacyTelemetry = true
	c.Logger = NewRaftLog(log)
	return c
}
