package datadir

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/fault"
)

func promiseIn(t *testing.T, dir string) *Promise {
	p, err := OpenPromise(dir, &Identity{Cluster: "c", Node: "n1", Log: "l"}, Promised{Term: 3})
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// TestPromiseOutlivesACutWrite: whatever becomes of the slot that is being
// written, the one before is there.
func TestPromiseOutlivesACutWrite(t *testing.T) {
	dir := t.TempDir()
	p := promiseIn(t, dir)
	require.Equal(t, uint64(3), p.Look().Term, "made from what the log knows")
	for term := uint64(4); term < 9; term++ {
		require.NoError(t, p.Write(func(v *Promised) { v.Term = term }))
		path := filepath.Join(dir, promiseFile)
		whole, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Len(t, whole, 2*slotSize)
		require.Equal(t, term, promiseIn(t, dir).Look().Term)

		torn := append([]byte(nil), whole...)
		torn[int(p.seq%2)*slotSize+slotHead+3] ^= 0x20
		require.NoError(t, os.WriteFile(path, torn, 0o600))
		require.Equal(t, term-1, promiseIn(t, dir).Look().Term, "the slot before")
		require.NoError(t, os.WriteFile(path, whole, 0o600))
	}
}

func TestDamagedPromiseIsRefused(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, promiseIn(t, dir).Write(func(*Promised) {}))
	require.NoError(t, os.WriteFile(filepath.Join(dir, promiseFile), make([]byte, 100), 0o600))
	_, err := OpenPromise(dir, &Identity{Cluster: "c", Node: "n1", Log: "l"}, Promised{})
	require.ErrorIs(t, err, fault.ErrLogLost)
	_, err = OpenPromise(dir, &Identity{Cluster: "c", Node: "n1", Log: "l", Fresh: true}, Promised{})
	require.NoError(t, err, "a node that never ran has promised nothing")
	_, err = OpenPromise(dir, &Identity{Cluster: "c", Node: "n1", Log: "m"}, Promised{})
	require.ErrorIs(t, err, fault.ErrLogLost, "another log")
	fresh, err := OpenPromise(dir, &Identity{Cluster: "d", Node: "n2", Log: "m", Fresh: true}, Promised{})
	require.NoError(t, err, "left behind by a node that was here before")
	require.Equal(t, "n2", fresh.Look().Node)
	require.NoError(t, fresh.Close())
}

// TestPromiseIsBounded: a probe never fails because there is too much to say.
func TestPromiseIsBounded(t *testing.T) {
	p := promiseIn(t, t.TempDir())
	require.NoError(t, p.Write(func(v *Promised) {
		v.Peers = map[string]Mark{}
		for i := range 99 {
			name := fmt.Sprintf("%s%d", strings.Repeat("n", 60), i)
			v.Peers[name] = Mark{Term: 1 << 60, Index: 1 << 60, Log: NewLogName()}
			v.Pending, v.Here = append(v.Pending, NewLogName()), append(v.Here, NewLogName())
		}
		v.Diverged = strings.Repeat("\x01", 9999)
		v.Cluster, v.Node = strings.Repeat("c", 63), strings.Repeat("n", 63)
	}))
	require.Len(t, p.Look().Pending, MaxPending)
}
