package tuning

import (
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fakeReloads is a raft whose configuration can be reloaded.
type fakeReloads struct {
	mu      sync.Mutex
	c       raft.ReloadableConfig
	reloads int
}

func (f *fakeReloads) ReloadableConfig() raft.ReloadableConfig {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.c
}

func (f *fakeReloads) ReloadConfig(c raft.ReloadableConfig) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.c, f.reloads = c, f.reloads+1
	return nil
}

// TestReloadsKeepEachOther changes the two subjects at once, again and again: in
// the end both must stand.
func TestReloadsKeepEachOther(t *testing.T) {
	f := &fakeReloads{c: raft.ReloadableConfig{SnapshotThreshold: 7}}
	r := &Reloader{raft: f}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() { assert.NoError(t, r.Trailing(uint64(i))) })
		wg.Go(func() { assert.NoError(t, r.Silence(time.Duration(i))) })
	}
	wg.Wait()
	require.NoError(t, r.Trailing(99))
	require.NoError(t, r.Silence(time.Second))
	before := f.reloads
	require.NoError(t, r.Silence(time.Second))
	require.Equal(t, before, f.reloads, "nothing changes, so raft is left alone")
	require.Equal(t, raft.ReloadableConfig{
		TrailingLogs: 99, SnapshotThreshold: 7, HeartbeatTimeout: time.Second, ElectionTimeout: time.Second,
	}, f.c)
}
