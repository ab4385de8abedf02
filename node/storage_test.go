package node

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// TestStorageIsShortBeforeItIsFull: space is looked for before mail is refused,
// and until there is some to spare.
func TestStorageIsShortBeforeItIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var free atomic.Uint64
		s := &storage{
			minFree: 100, percent: 3, log: zap.NewNop(),
			measure: func(string) (uint64, uint64, error) { return free.Load(), 20_000, nil },
		}
		var short atomic.Bool
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		free.Store(2000)
		go func() { defer close(done); _ = s.watch(ctx, short.Store) }()
		for _, c := range []struct {
			free        uint64
			full, short bool
		}{ // the mark is at 600, 3 % of the disk
			{2000, false, false}, {750, false, false}, {749, false, true}, {600, false, true}, {599, true, true},
			{700, false, true}, {899, false, true}, {900, false, false}, {760, false, false}, {0, true, true},
		} {
			free.Store(c.free)
			time.Sleep(3 * time.Second) // of the bubble
			synctest.Wait()
			require.Equal(t, c.full, s.full.Load(), "%d free", c.free)
			require.Equal(t, c.short, short.Load(), "%d free", c.free)
		}
		stop()
		<-done
	})
}
