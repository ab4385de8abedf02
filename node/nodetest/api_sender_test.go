package nodetest

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

// TestABareSenderOfTheAPIIsCompleted, as over SMTP; without a default domain it is
// refused.
func TestABareSenderOfTheAPIIsCompleted(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1})
	ctx, api, by := within(t, 3*time.Minute), c.Nodes[0].Client(), admin.By{Why: "test"}
	send := func() (*admin.Receipt, error) {
		return api.Send(ctx, by, admin.Envelope{Sender: "alice", Recipients: []string{"bob@example.test"}},
			strings.NewReader("Subject: x\r\n\r\nbody\r\n"))
	}
	s, err := api.Settings(ctx)
	require.NoError(t, err)
	s.Changed = nil // two changes of what is read once
	for _, domain := range []string{"", "example.test"} {
		s.DefaultDomain = domain
		require.NoError(t, api.SetSettings(ctx, by, *s))
		r, err := send()
		if domain == "" {
			require.ErrorIs(t, err, admin.ErrInvalid)
			require.ErrorContains(t, err, "the whole address")
			continue
		}
		require.NoError(t, err)
		trace, err := api.Trace(ctx, r.ID)
		require.NoError(t, err)
		require.Equal(t, "alice@example.test", trace.Sender)
	}
}
