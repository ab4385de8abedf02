package clustertest_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster"
	"relay/cluster/clustertest"
)

// TestSecretsAreSealedForMembers: what one member seals each other reads, one that was off meanwhile, one that joined
// later, and one whose identity file has lost the keys; no other word, and no other use, opens it.
func TestSecretsAreSealedForMembers(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{Nodes: 3})
	ctx := t.Context()
	off := g.Followers()[0]
	off.Stop()
	by := g.Followers()[0]
	if by == off {
		by = g.Followers()[1]
	}
	sealed, err := by.C().Seal(ctx, []byte("secret"), "a route")
	require.NoError(t, err)
	require.NotContains(t, string(sealed), "secret")
	again, err := g.Leader().C().Seal(ctx, []byte("secret"), "a route")
	require.NoError(t, err)
	require.NotEqual(t, sealed, again)
	require.Equal(t, sealed[:9], again[:9], "one key for all")

	opens := func(n *clustertest.Node, sealed []byte) {
		t.Helper()
		b, err := n.C().Unseal(ctx, sealed, "a route")
		require.NoError(t, err)
		require.Equal(t, "secret", string(b))
	}
	off.Start()
	g.WaitReady(off)
	opens(off, sealed)
	for _, n := range g.Nodes() {
		require.NotEmpty(t, sealKeysOf(t, n), "%s has written the key down", n.ID)
	}
	late := g.Add(g.Leader())
	require.NotEmpty(t, sealKeysOf(t, late), "handed over at join")
	opens(late, sealed)

	off.Stop()
	forgetSealKeys(t, off)
	off.Start()
	g.WaitReady(off)
	opens(off, sealed)

	require.NoError(t, by.C().NewSealKey(ctx))
	renewed, err := g.Leader().C().Seal(ctx, []byte("secret"), "a route")
	require.NoError(t, err)
	require.NotEqual(t, sealed[:9], renewed[:9], "a new key")
	opens(by, renewed)
	opens(off, sealed)

	_, err = by.C().Unseal(ctx, sealed, "another route")
	require.Error(t, err)
	foreign := bytes.Clone(sealed)
	foreign[1] ^= 1
	_, err = by.C().Unseal(ctx, foreign, "a route")
	require.ErrorIs(t, err, cluster.ErrSealed)
	_, err = by.C().Unseal(ctx, []byte("\x02short"), "a route")
	require.ErrorContains(t, err, "does not know")
}

// TestNothingIsSealedWithoutAMajority: a key that a minority has could be lost with it.
func TestNothingIsSealedWithoutAMajority(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{Nodes: 3})
	left := g.Node(0)
	g.Node(1).Stop()
	g.Node(2).Stop()
	_, err := left.C().Seal(t.Context(), []byte("secret"), "a route")
	require.ErrorIs(t, err, cluster.ErrUnavailable)
}

func identityFile(n *clustertest.Node) string { return filepath.Join(n.Dir, "identity.json") }

func sealKeysOf(t *testing.T, n *clustertest.Node) []any {
	t.Helper()
	b, err := os.ReadFile(identityFile(n))
	require.NoError(t, err)
	var id struct{ Seal []any }
	require.NoError(t, json.Unmarshal(b, &id))
	return id.Seal
}

func forgetSealKeys(t *testing.T, n *clustertest.Node) {
	t.Helper()
	b, err := os.ReadFile(identityFile(n))
	require.NoError(t, err)
	all := map[string]any{}
	require.NoError(t, json.Unmarshal(b, &all))
	delete(all, "seal")
	b, err = json.Marshal(all)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(identityFile(n), b, 0o600))
}
