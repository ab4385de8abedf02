package nodetest

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/node/config"
	"relay/smtp/hoptest"
)

// limited makes a cluster whose mail for *.big.example goes to a hop that counts, the site big with a limit.
func limited(t *testing.T, work time.Duration, limit string) (*Cluster, *hoptest.Hop) {
	t.Helper()
	addr := freeAddr(t)
	_, text, _ := net.SplitHostPort(addr)
	port, err := strconv.Atoi(text)
	require.NoError(t, err)
	s := hoptest.New(t, addr, work)
	c := New(t, Options{Configure: func(_ int, conf *config.Config) { conf.Delivery.Port = port }})
	for i := range domains {
		d := fmt.Sprintf("d%d.big.example", i)
		c.DNS.Add(t, fmt.Sprintf("%s. 60 MX 10 %d.mx.big.example.", d, i),
			fmt.Sprintf("%d.mx.big.example. 60 A 127.0.0.1", i))
	}
	api := c.Nodes[0].Client()
	own := admin.Route{Domain: "big.example", Target: "mx"}
	require.NoError(t, api.SetRoute(within(t, 20*time.Second), admin.By{}, own))
	c.Eventually(20*time.Second, "no cluster version 2", func() bool {
		s, err := api.Status(within(t, 5*time.Second))
		return err == nil && s.ClusterVersion >= 2
	})
	require.NoError(t, api.SetSettings(within(t, 20*time.Second), admin.By{}, admin.Settings{
		RetryFirstSeconds: 1, RetryMaxSeconds: 2,
		Sites: []string{"big mx.big.example"}, Limits: []string{"site:big " + limit}}))
	return c, s
}

const domains = 6

var letters atomic.Int64

// feed gives a node messages.
func (m *Member) feed(n int) {
	for i := range n {
		m.MustSend("alice@example.test", fmt.Sprintf("x@d%d.big.example", i%domains),
			Letter(fmt.Sprint("limited", letters.Add(1))))
	}
}

// TestALimitOfTheCluster: connections and messages at a site, as it counts them, while nodes send alone and together,
// one dies, and one is cut off and comes back.
func TestALimitOfTheCluster(t *testing.T) {
	t.Parallel()
	c, s := limited(t, 20*time.Millisecond, "connections=4 rate=50/s")
	const conns, rate = 4, 50
	began := time.Now()
	c.Nodes[0].feed(100)
	settled := func(n int) {
		t.Helper()
		c.Eventually(2*time.Minute, "not all mail goes", func() bool { return len(s.Begun()) >= n })
	}
	settled(100)
	for _, m := range c.Nodes {
		m.feed(60)
	}
	stats, err := c.Nodes[0].Client().Stats(within(t, 20*time.Second))
	require.NoError(t, err)
	for _, d := range stats.Destinations {
		if strings.HasSuffix(d.Domain, ".big.example") {
			require.Equal(t, "big", d.Site)
		}
	}
	settled(280)
	whole := time.Since(began)
	leader := c.Leader()
	i := slices.Index(c.Nodes, leader)
	cut, dead := c.Nodes[(i+1)%3], c.Nodes[(i+2)%3]
	cut.feed(60)
	c.Isolate(cut)
	leader.feed(60)
	settled(340)
	c.Heal(cut)
	settled(400)
	c.WaitHealthy()
	dead.feed(40)
	dead.Kill()
	cut.feed(40)
	settled(440)
	dead.Start()
	dead.WaitReady()
	settled(480)
	_, most := s.Connections()
	require.LessOrEqual(t, most, conns)
	in := s.Window(10 * time.Second)
	t.Logf("280 messages in %v; at most %d in 10 s and %d in 1 s; %d connections at a time", whole, in,
		s.Window(time.Second), most)
	require.LessOrEqual(t, in, rate*12, "of a busy machine some arrive late")
}
