package nodetest

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/node/config"
	"relay/smtp"
)

// counter reads a counter without labels.
func counter(t *testing.T, m *Member, name string) (n int) {
	_, rest, found := strings.Cut(metrics(t, m), "\n"+name+" ")
	require.True(t, found, name)
	_, err := fmt.Sscan(rest, &n)
	require.NoError(t, err)
	return n
}

// Ordinary mail costs one command for each message that is taken, and one for its
// result where it goes on; to know repeats by, or that a client has read its 250,
// costs none.
func TestOrdinaryMailCostsNoFurtherWrite(t *testing.T) {
	t.Parallel()
	tuning := Quick()
	tuning.Lease, tuning.Renew, tuning.Margin = time.Minute, 20*time.Second, 10*time.Second
	c := New(t, Options{Nodes: 1, Tuning: tuning})
	m, ctx := c.Nodes[0], within(t, 3*time.Minute)
	const name = "relay_store_commands_total"
	// A node that has just been started may write something of its own meanwhile, once or twice.
	cost := func(want int, five func(d *Sender, before int)) (least int) {
		for range 4 {
			d, err := m.Dial(ctx)
			require.NoError(t, err)
			before := counter(t, m, name)
			five(d, before)
			_, err = d.say(221, "QUIT")
			require.NoError(t, err)
			d.Close()
			if least = counter(t, m, name) - before; least == want {
				break
			}
		}
		return least
	}
	require.Equal(t, 5, cost(5, func(d *Sender, _ int) {
		for n := range 5 {
			_, err := d.Send("s@far.example", "alice@example.test", Letter(fmt.Sprint("home", n)))
			require.NoError(t, err)
		}
	}), "to a mailbox")
	gone := 0
	require.Equal(t, 10, cost(10, func(d *Sender, before int) {
		for n := range 5 {
			_, err := d.Send("alice@example.test", "x@far.example", Letter(fmt.Sprint("away", gone)))
			require.NoError(t, err)
			gone++
			require.NoError(t, c.Sink.Wait(ctx, gone))
			c.Eventually(time.Minute, "the result is not settled",
				func() bool { return counter(t, m, name)-before >= 2+2*n })
		}
	}), "onwards")
}

// The limit of mail hosts for one attempt is that of the configuration.
func TestHostsOfOneAttempt(t *testing.T) {
	t.Parallel()
	_, port, err := net.SplitHostPort(freeAddr(t))
	require.NoError(t, err)
	var asked atomic.Int64
	c := New(t, Options{Nodes: 1, Configure: func(_ int, conf *config.Config) {
		_, err := fmt.Sscan(port, &conf.Delivery.Port)
		require.NoError(t, err)
		conf.Delivery.MXSessionLimit = 3
	}})
	for n := range 5 {
		address := fmt.Sprintf("127.0.0.%d", 11+n)
		NewSink(t, net.JoinHostPort(address, port)).Answer(func(string) error {
			asked.Add(1)
			return smtp.NewReply(451, "4.7.1", "later")
		})
		c.DNS.Add(t, fmt.Sprintf("many.example. MX %d mx%d.many.example.", n, n),
			fmt.Sprintf("mx%d.many.example. A %s", n, address))
	}
	ctx, api, by := within(t, 3*time.Minute), c.Nodes[0].Client(), admin.By{Why: "test"}
	require.NoError(t, api.SetRoute(ctx, by, admin.Route{Domain: "many.example", Target: "mx"}))
	id := c.Nodes[0].MustSend("alice@example.test", "x@many.example", Letter("many"))
	c.Eventually(time.Minute, "no attempt", func() bool {
		return strings.Contains(c.timeline(t, id), "deferred")
	})
	require.EqualValues(t, 3, asked.Load())
}

// The audit log says of a join token how often and until when it is good, and
// nothing of the token itself.
func TestAuditOfAToken(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1})
	ctx, api := within(t, 3*time.Minute), c.Nodes[0].Client()
	token, err := api.Token(ctx, admin.By{Why: "test"}, admin.TokenRequest{Uses: 2, TTLSeconds: 600})
	require.NoError(t, err)
	lines, err := api.Audit(ctx, admin.AuditQuery{Limit: 10})
	require.NoError(t, err)
	at := slices.IndexFunc(lines, func(l admin.AuditEntry) bool { return l.Why == "test" }) // others are of the cluster
	require.Regexp(t, `^node token: 2 uses until 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$`, lines[at].What)
	require.NotContains(t, fmt.Sprint(lines), token.Token)
}
