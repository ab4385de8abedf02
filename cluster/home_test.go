package cluster

import (
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/datadir"
)

func testPromise(t *testing.T) *datadir.Promise {
	p, err := datadir.OpenPromise(t.TempDir(), &datadir.Identity{Cluster: "c", Node: "n1", Log: "l"},
		datadir.Promised{Term: 3})
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// TestOnlyThisPlaceKnowsItsRegistrations: a copy of the directory, or one that lies on
// another machine now, knows nothing of who registered from it.
func TestOnlyThisPlaceKnowsItsRegistrations(t *testing.T) {
	if datadir.BootID() == "" {
		t.Skip("this system does not name its boots")
	}
	c := &Cluster{promise: testPromise(t), born: "born 1"}
	c.settleHome()
	require.Empty(t, c.here)
	require.NoError(t, c.promise.Write(func(p *datadir.Promised) { p.Here = append(p.Here, "a") }))
	c.settleHome()
	require.Equal(t, []string{"a"}, c.here)
	session := helloReply{Nonce: "a", Epoch: 7, Rival: &rival{Epoch: 8}}
	c.recogniseFormer(session)
	require.False(t, c.wasHere(8), "another session than that of the last registration")
	session.Rival.Epoch = 7
	c.recogniseFormer(session)
	require.True(t, c.wasHere(7))

	copied := &Cluster{promise: c.promise, born: "born 2"}
	copied.settleHome()
	require.Empty(t, copied.here)
	copied.recogniseFormer(session)
	require.False(t, copied.wasHere(7))
	c.settleHome()
	require.Empty(t, c.here, "it was somewhere else in between")
	(&Cluster{promise: c.promise}).settleHome()
	require.Empty(t, c.promise.Look().Home, "unknown is no place")
}
