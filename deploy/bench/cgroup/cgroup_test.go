package cgroup

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A group is written as each version of the control groups wants it. The directory stands
// in for the kernel's.
func TestLimitsAreWritten(t *testing.T) {
	for version, want := range map[string]map[string]string{
		"1": {"cpu/g/cpu.cfs_period_us": "10000", "cpu/g/cpu.cfs_quota_us": "2500", "cpu/g/cgroup.procs": "42"},
		"2": {"g/cpu.max": "2500 10000", "cgroup.subtree_control": "+cpu", "g/cgroup.procs": "42"},
	} {
		t.Run(version, func(t *testing.T) {
			root := t.TempDir()
			require.NoError(t, os.Mkdir(filepath.Join(root, "cpu"), 0o755))
			if version == "2" {
				require.NoError(t, os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte("cpu"), 0o644))
			}
			g, err := New(root, "g", 0.25)
			require.NoError(t, err)
			require.NoError(t, g.Add(42))
			for name, text := range want {
				got, err := os.ReadFile(filepath.Join(root, name))
				require.NoError(t, err)
				require.Equal(t, text, string(got), name)
			}
			_, err = New(root, "g", 0.25)
			require.ErrorIs(t, err, os.ErrExist)
		})
	}
}

func TestWithoutALimit(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(root, "cpu"), 0o755))
	g, err := New(root, "g", 0)
	require.NoError(t, err)
	files, err := os.ReadDir(filepath.Join(root, "cpu/g"))
	require.NoError(t, err)
	require.Len(t, files, 1, "the weight")
	require.NoError(t, g.Remove(42))
	got, err := os.ReadFile(filepath.Join(root, "cpu/cgroup.procs"))
	require.NoError(t, err)
	require.Equal(t, "42", string(got))
}

func TestTooLittleIsRefused(t *testing.T) {
	root := t.TempDir()
	_, err := New(root, "g", 0.05)
	require.ErrorContains(t, err, "less than the 0.1")
	left, err := os.ReadDir(root)
	require.NoError(t, err)
	require.Empty(t, left)
}
