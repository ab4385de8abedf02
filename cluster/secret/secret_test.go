package secret

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster/datadir"
)

// TestTidy: a former key stays while something is sealed with it, and for an hour.
func TestTidy(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	var sealed [][]byte
	dir := t.TempDir()
	id := &datadir.Identity{Node: "n1"}
	k := &Keeper{Ports: Ports{Identity: id, Dir: dir, Log: zap.NewNop(), Now: func() time.Time { return now },
		Servers: func() []raft.Server { return []raft.Server{{ID: "n1", Suffrage: raft.Voter}} },
		Sealed:  func() ([][]byte, error) { return sealed, nil }}}
	seal := func() []byte {
		one, err := k.Seal(t.Context(), []byte("secret"), "about")
		require.NoError(t, err)
		return one
	}
	first := seal()
	require.NoError(t, k.NewKey(t.Context()))
	require.NoError(t, k.NewKey(t.Context()))
	third := seal()
	sealed = [][]byte{first}
	k.Tidy()
	require.Len(t, id.SealKeys(), 3, "what is sealed with them may be on its way")
	now = now.Add(oldKeep + time.Second)
	k.Tidy()
	require.Len(t, id.SealKeys(), 2, "the second one was not used")
	for _, one := range [][]byte{first, third} {
		_, err := k.Unseal(t.Context(), one, "about")
		require.NoError(t, err)
	}
	sealed = [][]byte{third, []byte("of a later version")}
	k.Tidy()
	require.Len(t, id.SealKeys(), 2, "nobody knows what that is sealed with")
	sealed = [][]byte{third}
	k.Tidy()
	require.Len(t, id.SealKeys(), 1)
	kept, err := datadir.Load(dir)
	require.NoError(t, err)
	require.Equal(t, id.SealKeys(), kept.SealKeys())
}
