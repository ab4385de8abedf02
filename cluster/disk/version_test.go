package disk

import (
	"bytes"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
)

// newer loads a machine as a build would that does not know the state's version.
func newer(spool.Reader) (Machine, error) { return nil, spool.ErrVersion }

func TestAStoreOfANewerVersionIsNotOpened(t *testing.T) {
	fs := vfs.NewMem()
	s := openStore(t, fs, "s")
	apply(t, s, "set a 1")
	require.NoError(t, s.Close())
	o := small(t, fs)
	o.Load = newer
	_, err := Open("s", o)
	require.ErrorIs(t, err, spool.ErrVersion)
}

// TestASnapshotOfANewerVersionIsFatal: as an error of the snapshot alone, the
// leader would send it for ever.
func TestASnapshotOfANewerVersionIsFatal(t *testing.T) {
	from, _ := source(t, 50)
	m, b := stream(t, from)
	first := true
	var fatal error
	s := openStore(t, vfs.NewMem(), "s", func(o *Options) {
		o.Fatal = func(err error) { fatal = err }
		o.Load = func(r spool.Reader) (Machine, error) {
			if first {
				first = false
				return loadToy(r)
			}
			return newer(r)
		}
	})
	require.ErrorIs(t, receive(s, m, bytes.NewReader(b)), spool.ErrVersion)
	require.ErrorIs(t, fatal, spool.ErrVersion)
}
