package datadir

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster/fault"
)

func initOptions(dir string) InitOptions {
	return InitOptions{ID: "n1", Name: "test", Dir: dir, Advertise: "127.0.0.1:7170", Log: zap.NewNop()}
}

func TestInitRefusesForgottenData(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, LogDir), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, LogDir, "raft.db"), []byte("x"), 0o600))
	require.ErrorIs(t, Init(t.Context(), initOptions(dir)), fault.ErrInUse)
}

func TestInitRefusesBadNames(t *testing.T) {
	for _, id := range []string{"", "a b", "../x", "-n", "n/1"} {
		o := initOptions(t.TempDir())
		o.ID = id
		require.Error(t, Init(t.Context(), o), "%q", id)
	}
	for _, addr := range []string{"", "host", "host:", "host:0"} {
		o := initOptions(t.TempDir())
		o.Advertise = addr
		require.Error(t, Init(t.Context(), o), "%q", addr)
	}
}

// A crash at any step of the first start leaves something that the next start
// completes, and a log is never begun twice.
func TestLogBelongsToIdentity(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, Init(t.Context(), initOptions(dir)))
	stable := raft.NewInmemStore()
	began := 0
	settle := func() error {
		id, err := Load(dir)
		require.NoError(t, err)
		return id.Settle(dir, stable, func() error { began++; return nil })
	}
	fresh, err := Load(dir)
	require.NoError(t, err)
	require.True(t, fresh.Fresh)
	require.NoError(t, settle())
	require.NoError(t, fresh.Save(dir)) // as if it had crashed before the identity was rewritten
	require.NoError(t, settle())
	require.NoError(t, settle())
	require.Equal(t, 2, began, "the bootstrap itself checks for existing state")

	stable = raft.NewInmemStore()
	require.ErrorIs(t, settle(), fault.ErrLogLost)
	require.NoError(t, stable.Set(logName, []byte("another")))
	require.ErrorIs(t, settle(), fault.ErrLogLost)
}
