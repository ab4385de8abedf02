package members

import (
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// TestAdmissionGoesByTheNewestConfiguration: that of the own log, or a newer one
// that a member named. Tombs outlive a start, and who joined anew is not denied
// for the certificate of the node before.
func TestAdmissionGoesByTheNewestConfiguration(t *testing.T) {
	dir := t.TempDir()
	open := func() *admission {
		a, err := OpenAdmission(dir, "n1", map[string]string{"n2": "x"})
		require.NoError(t, err)
		return a
	}
	a := open()
	require.True(t, a.Member("n2"), "who was a member when this node joined")
	require.False(t, a.Member("n3"))
	a.Latest = func() ([]raft.Server, uint64) { return []raft.Server{{ID: "n1"}, {ID: "n2"}}, 10 }
	require.False(t, a.Vouch(Configured{Index: 9, Servers: []string{"n1", "n3"}}), "older than our own")
	require.False(t, a.Vouch(Configured{Index: 12, Servers: []string{"n2", "n3"}}), "without this node")
	require.True(t, a.Vouch(Configured{Index: 12, Servers: []string{"n1", "n3"}}))
	require.True(t, a.Member("n3"))
	require.True(t, a.Member("n2"), "nobody said that it was removed")
	a.Remember([]Tomb{{Node: "n2", Serials: [][]byte{{1}}, Keys: [][]byte{{2}}, Index: 11}}, zap.NewNop())
	require.False(t, a.Member("n2"))
	a.Remember([]Tomb{{Node: "n3", Index: 12}}, zap.NewNop())
	require.True(t, a.Member("n3"), "it came back since")
	a.Remember([]Tomb{{Node: "n3", Index: 13}}, zap.NewNop())
	require.False(t, a.Member("n3"), "removed behind the configuration that vouches for it")

	again := open()
	require.True(t, again.Denied("n2", []byte{1}, nil))
	require.True(t, again.Denied("n2", nil, []byte{2}))
	require.False(t, again.Denied("n2", []byte{3}, []byte{4}), "it joined anew")
	require.False(t, again.Denied("n3", []byte{1}, nil))
}

// TestYoungLogDoesNotShutTheLeaderOut: the log of a node that joined begins with
// the configurations of long ago. The members of when it joined may send it the
// rest, unless it was removed since.
func TestYoungLogDoesNotShutTheLeaderOut(t *testing.T) {
	a, err := OpenAdmission(t.TempDir(), "n4", map[string]string{"n2": "x", "n3": "x", "n4": "x"})
	require.NoError(t, err)
	a.Joined = 100
	index := uint64(1)
	a.Latest = func() ([]raft.Server, uint64) { return []raft.Server{{ID: "n1"}}, index }
	require.True(t, a.Member("n2"))
	require.False(t, a.Member("n5"))
	require.Equal(t, Configured{Index: 1, Servers: []string{"n2", "n3", "n4"}}, a.Known(), "whom a start in between asks")
	a.addTombs([]Tomb{{Node: "n2", Index: 50}, {Node: "n3", Index: 101}})
	require.True(t, a.Member("n2"), "it came back before this node joined")
	require.False(t, a.Member("n3"))
	index = 100
	require.False(t, a.Member("n2"), "the own log is there")
}
