package nodetest

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/smtp"
)

// TestHardBouncedAddressesAreSuppressed: where a domain wants that, the first no for good keeps further mail of its
// senders from an address, at each node, also when the one that heard it dies; the history and the report say why.
// Other senders' mail still goes, as does mail that was refused for another reason.
func TestHardBouncedAddressesAreSuppressed(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Tuning: Quick()})
	c.setLater(t, c.Nodes[0], admin.Settings{DefaultDomain: "example.test"})
	api, by := c.Nodes[0].Client(), admin.By{Who: "ann", Why: "a test"}
	require.NoError(t, api.SetDomain(within(t, time.Minute), by, "example.test",
		admin.DomainSet{Suppress: new(int64(3600))}))
	var asked atomic.Int64
	c.Sink.Answer(func(to string) error {
		if strings.HasSuffix(to, "@far.example") { // and no report to the other sender
			asked.Add(1)
		}
		if to == "spam@far.example" {
			return smtp.NewReply(554, "5.7.1", "message looks like spam")
		}
		return smtp.NewReply(550, "5.1.1", "no such user here")
	})
	last := func(m *Member, id, what string) (e admin.TraceEvent) {
		c.Eventually(time.Minute, "no end of "+id, func() bool {
			d, err := m.Client().Trace(within(t, 10*time.Second), id)
			if err != nil {
				return false
			}
			for _, e = range d.Events {
				if e.What == what {
					return true
				}
			}
			return false
		})
		return e
	}
	first := c.Nodes[1].MustSend("alice@example.test", "Gone@far.example", Letter("first"))
	require.NotEqual(t, "suppression list", last(c.Nodes[0], first, "bounced").Host)
	last(c.Nodes[0], c.Nodes[1].MustSend("alice@example.test", "spam@far.example", Letter("spam")), "bounced")
	list, err := api.Suppressed(within(t, time.Minute), admin.SuppressedQuery{})
	require.NoError(t, err)
	require.Len(t, list, 1, "a no to a message is none to an address")
	require.Equal(t, []string{"example.test", "gone@far.example", first},
		[]string{list[0].Domain, list[0].Address, list[0].ID})
	require.Contains(t, list[0].Reply, "no such user here")

	c.Nodes[1].Kill()
	n := asked.Load()
	second := last(c.Nodes[2], c.Nodes[2].MustSend("bob@example.test", "gone@far.example", Letter("second")), "bounced")
	require.Equal(t, "suppression list", second.Host)
	require.Contains(t, second.Reply, "5.1.1 not tried: on the suppression list of example.test from ")
	require.Contains(t, second.Reply, "no such user here")
	require.Equal(t, n, asked.Load(), "nothing was tried")
	last(c.Nodes[2], c.Nodes[2].MustSend("s@else.example", "gone@far.example", Letter("other")), "bounced")
	require.Equal(t, n+1, asked.Load(), "another sender's mail goes")

	require.NoError(t, api.Unsuppress(within(t, time.Minute), by, "example.test", "gone@far.example"))
	c.Sink.Answer(nil)
	c.Nodes[2].MustSend("bob@example.test", "gone@far.example", Letter("third"))
	require.NoError(t, c.Sink.Wait(within(t, time.Minute), 1))
	require.NoError(t, api.Suppress(within(t, time.Minute), by,
		admin.SuppressAdd{Domain: "example.test", Address: "gone@far.example", ExpiresSeconds: 3600}))
	last(c.Nodes[0], c.Nodes[0].MustSend("bob@example.test", "gone@far.example", Letter("fourth")), "bounced")
}
