package pop3

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTheGreetingWaitsForTheServer: a client of a server that is not ready yet hears
// nothing before it is, or, after ten seconds, -ERR [SYS/TEMP] and the end of the
// connection; it is never asked for a password that can not be judged.
func TestTheGreetingWaitsForTheServer(t *testing.T) {
	serving := func(after time.Duration, why chan<- string) *Server {
		began := time.Now()
		return crowded(t, ServerConfig{
			Refused: func(f *Refusal) { why <- f.Stage + " " + f.Reason + " " + f.Cause.Error() },
			Ready: func(ctx context.Context) error {
				select {
				case <-time.After(after - time.Since(began)):
					return nil
				case <-ctx.Done():
					return errors.New("no session")
				}
			},
		})
	}
	synctest.Test(t, func(t *testing.T) {
		why, began := make(chan string, 1), time.Now()
		_, _, line := visit(t, serving(3*time.Second, why), "192.0.2.1")
		require.Regexp(t, `^\+OK .* ready`, line)
		require.Equal(t, 3*time.Second, time.Since(began))
		require.Empty(t, why)
	})
	synctest.Test(t, func(t *testing.T) {
		why, began := make(chan string, 1), time.Now()
		_, in, line := visit(t, serving(time.Hour, why), "192.0.2.1")
		require.Equal(t, "-ERR [SYS/TEMP] server is not ready yet, try again later\r\n", line)
		require.Equal(t, readyTime, time.Since(began))
		rest, err := io.ReadAll(in)
		require.NoError(t, err)
		require.Empty(t, rest)
		require.Equal(t, "connect not_ready no session", <-why)
	})
}
