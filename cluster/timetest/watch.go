package timetest

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Machine watches how long the machine keeps a process waiting, for tests that time what
// they see: a bound holds for the time that the machine did not take away.
type Machine struct{ lost atomic.Int64 }

// A look takes a timer, a processor and a sync of the disk.
const (
	lookEvery = 25 * time.Millisecond
	lookTakes = 15 * time.Millisecond // on a machine with nothing else to do, at most
)

// Watch watches until the test ends.
func Watch(t testing.TB) *Machine {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "look"))
	require.NoError(t, err)
	m, over, ended := &Machine{}, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for last := time.Now(); ; {
			select {
			case <-over:
				return
			case <-tick.C:
			}
			_, _ = f.WriteAt([]byte("x"), 0)
			_ = f.Sync()
			now := time.Now()
			m.lost.Add(int64(max(0, now.Sub(last)-lookEvery-lookTakes)))
			last = now
		}
	}()
	t.Cleanup(func() { close(over); <-ended; _ = f.Close() })
	return m
}

// Lost is how much time the machine has taken away since it is watched.
func (m *Machine) Lost() time.Duration { return time.Duration(m.lost.Load()) }
