package nodetest

import (
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/node/config"
)

// TestDoctorTriesOutward: with --outward the first mail hosts of waiting mail are
// connected to, and only then; nothing is said to them.
func TestDoctorTriesOutward(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	_, text, _ := net.SplitHostPort(addr)
	port, err := strconv.Atoi(text)
	require.NoError(t, err)
	c := New(t, Options{Nodes: 1, Configure: func(_ int, conf *config.Config) { conf.Delivery.Port = port }})
	m, ctx := c.Nodes[0], within(t, 3*time.Minute)
	require.NoError(t, m.Client().SetRoute(ctx, admin.By{Why: "test"}, admin.Route{Domain: "out.net", Target: "mx"}))
	c.DNS.Add(t, "out.net. 5 MX 10 mail.out.net.", "mail.out.net. 5 A 127.0.0.1")
	outward := func(o admin.ExamineOptions) admin.Condition {
		_, found := m.examine(t, o)
		require.Contains(t, found, "outward")
		return found["outward"]
	}
	one := outward(admin.ExamineOptions{Outward: true})
	require.Equal(t, admin.SeverityUnknown, one.Severity)
	require.Contains(t, strings.Join(one.Evidence, "\n"), "no mail waits that leaves by MX")

	m.MustSend("s@away.example", "x@out.net", Letter("waits"))
	c.Eventually(time.Minute, "nobody listens there", func() bool {
		one = outward(admin.ExamineOptions{Outward: true})
		return one.Severity == admin.SeverityWarning
	})
	require.Contains(t, strings.Join(one.Evidence, "\n"), "mail.out.net")
	require.Equal(t, admin.SeverityUnknown, outward(admin.ExamineOptions{}).Severity, "only where it is asked for")

	listener, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	defer listener.Close()
	require.Equal(t, admin.SeverityOK, outward(admin.ExamineOptions{Outward: true}).Severity)
}
