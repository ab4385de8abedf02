package nodetest

import (
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestPOP3GreetsWhenALoginCanBeJudged: a client that comes while a node has no session
// since its start is greeted when it has one, and logs in at the first try.
func TestPOP3GreetsWhenALoginCanBeJudged(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Tuning: Quick()})
	for _, m := range c.Nodes {
		m.Kill()
	}
	m := c.Nodes[0]
	m.Start()
	came, come := make(chan error, 1), regexp.MustCompile(`relay_pop3_connections_total\{.*\} [1-9]`)
	go func() {
		p, err := m.Login(within(t, 3*time.Minute), "alice")
		if err == nil {
			err = p.Quit(t.Context())
		}
		came <- err
	}()
	c.Eventually(time.Minute, "the client has come", func() bool {
		return len(came) > 0 || come.MatchString(metrics(t, m))
	})
	require.Empty(t, came, "without a session")
	c.Nodes[1].Start()
	require.NoError(t, <-came)
}
