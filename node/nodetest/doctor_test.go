package nodetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/timetest"
	"relay/node/admin"
	"relay/node/config"
)

// examine asks a node's doctor and sorts what it says by condition.
func (m *Member) examine(t *testing.T, o admin.ExamineOptions) (*admin.Examination, map[string]admin.Condition) {
	t.Helper()
	began, machine := time.Now(), timetest.Watch(t)
	x, err := m.Client().Examine(within(t, 3*time.Minute), o)
	require.NoError(t, err)
	require.Less(t, time.Since(began), 5*time.Second+4*machine.Lost(), "relayctl would turn to another node")
	by := map[string]admin.Condition{}
	for _, c := range x.Conditions {
		by[c.Name] = c
	}
	require.GreaterOrEqual(t, len(by), 40)
	require.Len(t, x.Conditions, len(by))
	return x, by
}

// The doctor looks up what DNS says of the nodes and of local domains, and sees a
// change at once.
func TestDoctorAsksDNS(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1, Configure: func(_ int, conf *config.Config) {
		conf.Node.Hostname = "mx1.doctor.net"
	}})
	m, by := c.Nodes[0], admin.By{Why: "test"}
	ctx := within(t, 3*time.Minute)
	api := m.Client()
	require.NoError(t, api.AddDomain(ctx, by, admin.Domain{Name: "doctor.net"}))
	names := []string{"hostname-resolves", "reverse-name", "domain-mx", "domain-spf", "domain-dkim",
		"domain-dmarc", "postmaster"}
	x, found := m.examine(t, admin.ExamineOptions{})
	require.False(t, x.OK)
	for _, name := range names {
		if name != "reverse-name" { // there is no address whose it could be
			require.Equal(t, admin.SeverityWarning, found[name].Severity, "%v", found[name])
			require.NotEmpty(t, found[name].Next)
		}
	}
	require.Equal(t, "relayctl alias set postmaster@doctor.net ADDRESS", found["postmaster"].Next)
	require.Equal(t, admin.SeverityOK, found["dns"].Severity)

	for _, domain := range []string{"doctor.net", "example.test"} {
		k, err := api.AddSigner(ctx, by, admin.SignerAdd{Domain: domain, Selector: "s", Algorithm: "ed25519"})
		require.NoError(t, err)
		alias := admin.Alias{Address: "postmaster@" + domain, Targets: []string{"alice@example.test"}}
		require.NoError(t, api.SetAlias(ctx, by, alias))
		c.DNS.Add(t, domain+". 5 MX 10 mail."+domain+".", "mail."+domain+". 5 A 198.51.100.7",
			domain+`. 5 TXT "v=spf1 a:mx1.doctor.net -all"`,
			fmt.Sprintf("%s. 5 TXT %q", k.Name, k.Record), "_dmarc."+domain+`. 5 TXT "v=DMARC1; p=none"`)
	}
	c.DNS.Add(t, "mx1.doctor.net. 5 A 198.51.100.7", "7.100.51.198.in-addr.arpa. 5 PTR mx1.doctor.net.")
	_, found = m.examine(t, admin.ExamineOptions{})
	for _, name := range names {
		require.Equal(t, admin.SeverityOK, found[name].Severity, "%v", found[name])
	}

	// The address is another's now: its mail host, its SPF, its reverse name.
	c.DNS.Add(t, "doctor.net. 5 MX 5 mx.other.org.", "mx1.doctor.net. 5 A 198.51.100.8",
		"8.100.51.198.in-addr.arpa. 5 PTR host8.isp.net.")
	require.NoError(t, api.RemoveSigner(ctx, by, "doctor.net", "s"))
	_, err := api.AddSigner(ctx, by, admin.SignerAdd{Domain: "doctor.net", Selector: "s", Algorithm: "ed25519"})
	require.NoError(t, err)
	c.DNS.Add(t, `_dmarc.doctor.net. 5 TXT "v=DMARC1; p=none"`) // two are none
	_, found = m.examine(t, admin.ExamineOptions{})
	require.Equal(t, admin.SeverityWarning, found["reverse-name"].Severity)
	require.Contains(t, strings.Join(found["reverse-name"].Evidence, "\n"),
		"198.51.100.8 is host8.isp.net, and not mx1.doctor.net")
	require.Equal(t, admin.SeverityError, found["domain-dkim"].Severity, "%v", found["domain-dkim"])
	require.Equal(t, admin.SeverityWarning, found["domain-dmarc"].Severity, "%v", found["domain-dmarc"])

	// Without DNS nothing is said of names, and in time.
	c.DNS.Hang(".")
	_, found = m.examine(t, admin.ExamineOptions{})
	require.Equal(t, admin.SeverityWarning, found["dns"].Severity)
	for _, name := range []string{"hostname-resolves", "domain-mx", "domain-dkim", "dns-validates"} {
		require.Equal(t, admin.SeverityUnknown, found[name].Severity, "%v", found[name])
	}
	// The metrics are of the node's first minute, in which it may not have led yet.
	require.Regexp(t, `\nrelay_doctor_condition{condition="divergence"} 0\n`, metrics(t, m))
	require.NotContains(t, metrics(t, m), `condition="domain-mx"`)
}

// A name server that is silent about one name holds up nothing for more than five
// seconds, and leaves the other domains judged.
func TestDoctorWaitsForNobody(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1})
	m := c.Nodes[0]
	require.NoError(t, m.Client().AddDomain(within(t, 3*time.Minute), admin.By{}, admin.Domain{Name: "slow.net"}))
	c.DNS.Hang("slow.net.")
	c.DNS.Add(t, "example.test. MX 10 mx.other.org.")
	_, found := m.examine(t, admin.ExamineOptions{})
	text := strings.Join(found["domain-mx"].Evidence, "\n")
	require.Contains(t, text, "example.test: its MX is mx.other.org")
	require.Contains(t, text, "slow.net")
}

// A node without a majority says so, and judges what it has.
func TestDoctorWithoutQuorum(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Tuning: Quick()})
	_, found := c.Nodes[0].examine(t, admin.ExamineOptions{})
	for _, name := range []string{"quorum", "redundancy", "node-dead", "node-silent", "node-unready", "version-mix"} {
		require.Equal(t, admin.SeverityOK, found[name].Severity, "%v", found[name])
	}
	c.Nodes[1].Kill()
	c.Nodes[2].Kill()
	c.Eventually(time.Minute, "the nodes are missed", func() bool {
		_, found = c.Nodes[0].examine(t, admin.ExamineOptions{})
		return found["node-dead"].Severity == admin.SeverityError && len(found["node-dead"].Evidence) == 2
	})
	x, found := c.Nodes[0].examine(t, admin.ExamineOptions{})
	require.False(t, x.OK)
	require.Equal(t, admin.SeverityError, found["quorum"].Severity)
	require.Contains(t, strings.Join(found["quorum"].Evidence, "\n"), "1 of 3 voting nodes answers, and 2 are needed")
	require.Equal(t, admin.SeverityWarning, found["redundancy"].Severity)
	require.Equal(t, admin.SeverityOK, found["queue-old"].Severity)
	require.Equal(t, admin.SeverityOK, found["mailbox-lock"].Severity)
}
