package cluster_test

import (
	"bytes"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"relay/cluster"
	"relay/cluster/clustertest"
	pb "relay/cluster/spool/spoolpb"
)

var operator = &pb.Admin{Who: "test", Why: "because"}

// calls are the five calls of raft, each made in the name of a node, for a term,
// and such that raft itself would believe it.
func calls(as string, term, last, lastTerm uint64) map[string]func(*raft.NetworkTransport, raft.ServerID) error {
	head := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(as), Addr: []byte(as + "@127.0.0.1:1")}
	return map[string]func(*raft.NetworkTransport, raft.ServerID) error{
		"AppendEntries": func(n *raft.NetworkTransport, to raft.ServerID) error {
			return n.AppendEntries(to, "", &raft.AppendEntriesRequest{
				RPCHeader: head, Term: term, PrevLogEntry: last, PrevLogTerm: lastTerm,
				Entries: []*raft.Log{{Index: last + 1, Term: term, Type: raft.LogNoop}},
			}, new(raft.AppendEntriesResponse))
		},
		"RequestVote": func(n *raft.NetworkTransport, to raft.ServerID) error {
			return n.RequestVote(to, "", &raft.RequestVoteRequest{
				RPCHeader: head, Term: term, LastLogIndex: last + 9, LastLogTerm: term, LeadershipTransfer: true,
			}, new(raft.RequestVoteResponse))
		},
		"RequestPreVote": func(n *raft.NetworkTransport, to raft.ServerID) error {
			return n.RequestPreVote(to, "", &raft.RequestPreVoteRequest{
				RPCHeader: head, Term: term, LastLogIndex: last + 9, LastLogTerm: term,
			}, new(raft.RequestPreVoteResponse))
		},
		"InstallSnapshot": func(n *raft.NetworkTransport, to raft.ServerID) error {
			data := bytes.Repeat([]byte("x"), 1<<20)
			return n.InstallSnapshot(to, "", &raft.InstallSnapshotRequest{
				RPCHeader: head, SnapshotVersion: 1, Term: term, LastLogIndex: last + 9, LastLogTerm: term, Size: int64(len(data)),
				Configuration: raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "x", Address: "x"}}}),
			}, new(raft.InstallSnapshotResponse), bytes.NewReader(data))
		},
		"TimeoutNow": func(n *raft.NetworkTransport, to raft.ServerID) error {
			return n.TimeoutNow(to, "", &raft.TimeoutNowRequest{RPCHeader: head}, new(raft.TimeoutNowResponse))
		},
	}
}

// undisturbed makes each of the five calls to a node with the certificate of a
// directory, and checks that none of them did anything. An election on a busy machine
// raises the term now and then, but not each time.
func undisturbed(t *testing.T, to *clustertest.Node, dir, as string) {
	const strange = 1000 // no election raises a term by as much
	var term, now uint64
	for range 10 {
		var lastTerm, last uint64
		term, lastTerm, last = to.C().Place()
		leader := to.C().Leader()
		for name, call := range calls(as, term+strange, last, lastTerm) {
			n, err := cluster.Impostor(dir, to.ID, to.Addr)
			require.NoError(t, err)
			require.Error(t, call(n, raft.ServerID(to.ID)), name)
			_ = n.Close()
		}
		var end uint64
		now, _, end = to.C().Place()
		require.Less(t, now, term+strange, "a stranger changed its term")
		require.NoError(t, to.Fatal())
		if now == term {
			if leader == "" {
				require.Equal(t, last, end, "something was put into its log")
			}
			return
		}
	}
	require.Equal(t, term, now, "its term was changed")
}

// TestAnotherNodesHeaderIsRefused: a call's word on its sender counts only where that
// is the peer that TLS has proved.
func TestAnotherNodesHeaderIsRefused(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	leader, other := g.Leader(), g.Followers()
	undisturbed(t, other[0], other[1].Dir, leader.ID)
	undisturbed(t, leader, other[1].Dir, other[0].ID)
	// In its own name, but it does not lead.
	n, err := cluster.Impostor(other[1].Dir, other[0].ID, other[0].Addr)
	require.NoError(t, err)
	defer n.Close()
	term, lastTerm, last := other[0].C().Place()
	require.ErrorContains(t,
		calls(other[1].ID, term, last, lastTerm)["TimeoutNow"](n, raft.ServerID(other[0].ID)), "does not lead")
}

// TestRemovedNodeIsWorthNothing: with a leader and, above all, without one.
func TestRemovedNodeIsWorthNothing(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	leader, gone, left := g.Leader(), g.Followers()[0], g.Followers()[1]
	gone.Kill()
	g.Eventually("the dead node may not be removed yet", func() bool {
		return leader.C().Remove(t.Context(), gone.ID, true, operator) == nil
	})
	g.WaitVoters(2)
	g.Eventually("the other does not know of the removal", func() bool {
		s, err := left.C().Status(t.Context())
		return err == nil && len(s.Members) == 2
	})
	undisturbed(t, left, gone.Dir, gone.ID)
	leader.Kill()
	g.Eventually("a leader is still known", func() bool { return left.C().Leader() == "" })
	undisturbed(t, left, gone.Dir, gone.ID)
	undisturbed(t, left, gone.Dir, leader.ID)
	leader.Start()
	g.WaitReady(leader, left)
}

// TestCommittedEntryDoesNotChange: a call that replaces what is committed ends
// the node before raft acts on it.
func TestCommittedEntryDoesNotChange(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{Tuning: steadyLeader()})
	l := g.NewLedger()
	for range 5 {
		l.MustSend(g.Node(0), 1000)
	}
	g.WaitEqual()
	leader, victim := g.Leader(), g.Followers()[0]
	committed := victim.C().Applied()
	term, lastTerm, last := victim.C().Place()
	n, err := cluster.Impostor(leader.Dir, victim.ID, victim.Addr)
	require.NoError(t, err)
	defer n.Close()
	head := raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(leader.ID), Addr: []byte(leader.ID + "@" + leader.Addr),
	}
	err = n.AppendEntries(raft.ServerID(victim.ID), "", &raft.AppendEntriesRequest{
		RPCHeader: head, Term: term - 1, PrevLogEntry: last - 2, PrevLogTerm: lastTerm + 7,
	}, new(raft.AppendEntriesResponse))
	require.NoError(t, err, "a deposed leader is raft's to refuse")
	require.False(t, victim.C().Broken())
	err = n.AppendEntries(raft.ServerID(victim.ID), "", &raft.AppendEntriesRequest{
		RPCHeader: head, Term: term + 3, PrevLogEntry: committed - 1, PrevLogTerm: lastTerm,
		Entries: []*raft.Log{{Index: committed, Term: term + 3, Type: raft.LogNoop}}, LeaderCommitIndex: last + 100,
	}, new(raft.AppendEntriesResponse))
	require.Error(t, err)
	require.ErrorIs(t, victim.Fatal(), cluster.ErrContradiction)
	require.ErrorContains(t, victim.Fatal(), "lost acknowledged mail")
	now, newest, _ := victim.C().Place()
	require.Equal(t, []uint64{term, lastTerm}, []uint64{now, newest}, "raft acted on it")
	victim.Kill()
	victim.Start()
	g.WaitReady(victim)
	g.WaitEqual()
}
