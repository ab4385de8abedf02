package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster/spool"
	"relay/node/replica/replicatest"
)

type noUser struct{}

func (noUser) Error() string   { return "no such user" }
func (noUser) Permanent() bool { return true }

var errNoUser = noUser{}

// TestPermanentIsSaidByTheError: the outermost error that knows it decides.
func TestPermanentIsSaidByTheError(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("the disk"), false},
		{errNoUser, true},
		{fmt.Errorf("bob: %w", errNoUser), true},
		{ErrUnsure, false},
		{fmt.Errorf("%w: %w", ErrUnsure, errNoUser), false},
		{ErrOutdated, false},
	} {
		require.Equal(t, c.want, Permanent(c.err), "%v", c.err)
	}
}

// slow is a replica that takes its time, and says so.
type slow struct {
	*replicatest.Fake
	reads atomic.Int64
	begun chan struct{}
	end   chan error
}

func (s *slow) Consistent(ctx context.Context) error {
	s.reads.Add(1)
	s.begun <- struct{}{}
	select {
	case err := <-s.end:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestReadsAreShared: a thousand refusals at once need two reads, the one that was
// under way and one for all others; none is served by a read that began before it
// was found.
func TestReadsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &slow{replicatest.New(t), atomic.Int64{}, make(chan struct{}, 10), make(chan error)}
		f := NewConfirmer(r, zap.NewNop())
		var wg sync.WaitGroup
		var done atomic.Int64
		refuse := func(ctx context.Context) {
			wg.Go(func() {
				err := f.Confirm(ctx, func(spool.View) error { return errNoUser })
				if err == errNoUser {
					done.Add(1)
				}
			})
		}
		ctx, hangUp := context.WithCancel(t.Context())
		refuse(ctx)
		<-r.begun
		for range 999 {
			refuse(t.Context())
		}
		synctest.Wait()
		require.EqualValues(t, 1, r.reads.Load(), "one under way")
		hangUp() // the read goes on for the others
		r.end <- nil
		<-r.begun
		synctest.Wait()
		require.Zero(t, done.Load(), "nobody is served by a read that was older")
		r.end <- nil
		wg.Wait()
		require.EqualValues(t, 2, r.reads.Load())
		require.EqualValues(t, 999, done.Load())

		// One after the other: not more often than they may.
		began := time.Now()
		for range 101 {
			refuse(t.Context())
			<-r.begun
			r.end <- nil
			wg.Wait()
		}
		require.GreaterOrEqual(t, time.Since(began), 100*ReadInterval)
	})
}

// TestNoReadInTime: nobody waits for long, and nobody is refused for good.
func TestNoReadInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &slow{replicatest.New(t), atomic.Int64{}, make(chan struct{}, 10), make(chan error)}
		f := NewConfirmer(r, zap.NewNop())
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				began := time.Now()
				err := f.Confirm(t.Context(), func(spool.View) error { return errNoUser })
				assert.ErrorIs(t, err, ErrUnsure)
				assert.LessOrEqual(t, time.Since(began), 2*ReadTimeout+ReadInterval)
			})
		}
		wg.Wait()
		f.wg.Wait()
		require.LessOrEqual(t, r.reads.Load(), int64(3))
		require.EqualValues(t, 20, f.Stats.Unsure.Load())
	})
}
