package cluster

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster/datadir"
	"relay/cluster/fault"
	"relay/cluster/pki"
)

// toMake are the options of a new cluster's first node.
func toMake(dir string) datadir.InitOptions {
	return datadir.InitOptions{ID: "n1", Name: "test", Dir: dir, Advertise: "127.0.0.1:7170", Log: zap.NewNop()}
}

func TestInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	require.False(t, datadir.Initialised(dir))
	require.NoError(t, datadir.Init(t.Context(), toMake(dir)))
	require.True(t, datadir.Initialised(dir))
	info, err := os.Stat(filepath.Join(dir, "identity.json"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "it holds a key")

	err = datadir.Init(t.Context(), toMake(dir))
	require.ErrorIs(t, err, fault.ErrInUse)
	require.ErrorContains(t, err, "relayd run")
	require.ErrorIs(t, Join(t.Context(), JoinOptions{
		ID: "n2", Dir: dir, Advertise: "127.0.0.1:7171", Token: pki.Token{}.String(), Addr: "127.0.0.1:1", Log: zap.NewNop(),
	}), fault.ErrInUse)
}

func TestOpenWithoutIdentity(t *testing.T) {
	_, err := Open(Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: zap.NewNop()})
	require.ErrorIs(t, err, fault.ErrNoNode)
}
