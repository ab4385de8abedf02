package cluster

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func testPromise(t *testing.T) *promise {
	p, err := openPromise(t.TempDir(), &identity{Cluster: "c", Node: "n1", Log: "l"}, promised{Term: 3})
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.close() })
	return p
}

// TestOnlyThisPlaceKnowsItsRegistrations: a copy of the directory, or one that lies on
// another machine now, knows nothing of who registered from it.
func TestOnlyThisPlaceKnowsItsRegistrations(t *testing.T) {
	if bootID() == "" {
		t.Skip("this system does not name its boots")
	}
	c := &Cluster{promise: testPromise(t), born: "born 1"}
	c.settleHome()
	require.Empty(t, c.here)
	require.NoError(t, c.promise.write(func(p *promised) { p.Here = append(p.Here, "a") }))
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
	require.Empty(t, c.promise.look().Home, "unknown is no place")
}
