package rounds

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestAResultIsNewerThanItsCall: all who come during a run share the next one, and it does not end with one of them.
func TestAResultIsNewerThanItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		begun, end := make(chan int), make(chan error)
		n := 0
		k := New(ctx, &wg, time.Second, func(ctx context.Context) (int, error) {
			n++
			begun <- n
			return n, <-end
		})
		results := make(chan int, 10)
		ask := func(ctx context.Context) {
			go func() {
				if got, err := k.Do(ctx); err == nil {
					results <- got
				}
			}()
		}
		first, hangUp := context.WithCancel(t.Context())
		ask(first)
		require.Equal(t, 1, <-begun)
		hangUp()
		ask(t.Context())
		ask(t.Context())
		synctest.Wait()
		began := time.Now()
		end <- nil
		require.Equal(t, 2, <-begun)
		require.Equal(t, time.Second, time.Since(began), "apart")
		require.Empty(t, results, "a run that was older serves nobody")
		end <- nil
		require.Equal(t, []int{2, 2}, []int{<-results, <-results})
		wg.Wait()

		bad := errors.New("no leader")
		go func() { <-begun; end <- bad }()
		_, err := k.Do(t.Context())
		require.ErrorIs(t, err, bad)
		stop()
		k.Drain()
		wg.Wait()
		_, err = k.Do(t.Context())
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, 3, n, "no run begins after the end")
	})
}
