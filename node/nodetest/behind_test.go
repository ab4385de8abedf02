package nodetest

import (
	"context"
	"encoding/base64"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/timetest"
	"relay/node/admin"
	"relay/node/config"
	"relay/pop3"
	"relay/smtp/sasl"
)

// lagging starts a cluster in which one follower can fall behind for a while, and
// returns it with the leader.
func lagging(t *testing.T) (c *Cluster, leader, behind *Member) {
	tuning := Lasting()
	tuning.Heartbeat, tuning.Election = 20*time.Second, 20*time.Second
	tuning.LeaderLease = 16 * time.Second // a leader that steps down has no successor for as long as an election takes
	c = New(t, Options{Tuning: tuning, Configure: func(_ int, conf *config.Config) { conf.SMTP[0].VRFY = true }})
	leader = c.Leader()
	for _, m := range c.Nodes {
		if m != leader {
			behind = m
		}
	}
	return c, leader, behind
}

// newcomer makes an account, an alias and a domain at a node.
func newcomer(t *testing.T, ctx context.Context, at *Member, name string) {
	api, by := at.Client(), admin.By{Why: "test"}
	require.NoError(t, api.AddUser(ctx, by, admin.UserAdd{Address: name + "@example.test", Password: "secret"}))
	require.NoError(t,
		api.SetAlias(ctx, by, admin.Alias{Address: name + "-list@example.test", Targets: []string{name + "@example.test"}}))
	require.NoError(t, api.AddDomain(ctx, by, admin.Domain{Name: name + ".test", CatchAll: name + "@example.test"}))
	require.NoError(t, api.SetUser(ctx, by, "bob@example.test", admin.UserSet{Senders: &[]string{name + "@far.test"}}))
}

// asks are questions to a node whose answers change with newcomer.
func asks(t *testing.T, ctx context.Context, m *Member, name string) map[string]func() string {
	smtp := func(stranger bool, first []string, last string) func() string {
		return func() string {
			var d *talk
			if stranger {
				d = strangerTo(t, m.SMTP)
				d.play("S: 220", "C: EHLO client.test", "S: 250")
			} else {
				d = talkTo(t, m.SMTP)
			}
			return d.play(append(first, "C: "+last, "S: ")...)
		}
	}
	plain := base64.StdEncoding.EncodeToString([]byte("\x00" + name + "\x00secret"))
	bob := "C: AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00bob\x00secret"))
	begin := []string{"C: MAIL FROM:<a@far.test>", "S: 250"}
	return map[string]func() string{
		"RCPT of an account": smtp(false, begin, "RCPT TO:<"+name+"@example.test>"),
		"RCPT of an alias":   smtp(false, begin, "RCPT TO:<"+name+"-list@example.test>"),
		"RCPT of a domain":   smtp(true, begin, "RCPT TO:<x@"+name+".test>"),
		"VRFY":               smtp(false, nil, "VRFY "+name),
		"AUTH":               smtp(false, nil, "AUTH PLAIN "+plain),
		"MAIL":               smtp(false, []string{bob, "S: 235"}, "MAIL FROM:<"+name+"@far.test>"),
		"POP3": func() string {
			one, err := m.Login(ctx, name)
			if err != nil {
				return err.Error()
			}
			require.NoError(t, one.Quit(ctx))
			return "2 by POP3"
		},
		"POP3 by SCRAM": func() string {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "tcp", m.POP3)
			require.NoError(t, err)
			one, err := pop3.NewClient(ctx, conn)
			require.NoError(t, err)
			defer one.Close()
			if err := one.Auth(ctx, sasl.NewScramClient(name, "secret", nil)); err != nil {
				return err.Error()
			}
			return "2 by SCRAM"
		},
	}
}

// TestFollowerBehindRefusesNothing: a follower that lags puts off what it would
// refuse, and takes it as soon as it has caught up.
func TestFollowerBehindRefusesNothing(t *testing.T) {
	t.Parallel()
	c, leader, behind := lagging(t)
	ctx := within(t, 3*time.Minute)
	for what, ask := range asks(t, ctx, behind, "zoe") {
		answer := ask()
		require.True(t, strings.HasPrefix(answer, "5") || strings.Contains(answer, "[AUTH]"),
			"%s: %s: nobody is called that", what, answer)
	}

	answers := make(chan [2]string, 20)
	begin := func(name, without string) int {
		all := asks(t, ctx, behind, name)
		delete(all, without)
		for what, ask := range all {
			go func() { answers <- [2]string{what, ask()} }()
		}
		return len(all)
	}
	next := func() (what, answer string) {
		select {
		case one := <-answers:
			return one[0], one[1]
		case <-ctx.Done():
			require.FailNow(t, "no answer")
			return "", ""
		}
	}

	c.Starve(behind)
	newcomer(t, ctx, leader, "zoe")
	began, machine := time.Now(), timetest.Watch(t)
	for range begin("zoe", "") {
		what, answer := next()
		require.True(t, strings.HasPrefix(answer, "45") || strings.Contains(answer, "[SYS/TEMP]"), "%s: %s", what, answer)
	}
	require.Less(t, time.Since(began), 10*time.Second+4*machine.Lost())
	c.Heal(behind)
	c.WaitHealthy()
	c.Verify() // it has caught up: SCRAM begins with the keys that are here
	for what, ask := range asks(t, ctx, behind, "zoe") {
		answer := ask()
		require.True(t, strings.HasPrefix(answer, "2"), "%s: %s", what, answer)
	}

	// Asked while the node is behind, and answered when it is not. By SCRAM it
	// would have told the keys of nobody.
	c.Starve(behind)
	newcomer(t, ctx, leader, "yan")
	n := begin("yan", "POP3 by SCRAM")
	c.Heal(behind)
	for range n {
		what, answer := next()
		require.True(t, strings.HasPrefix(answer, "2"), "%s: %s", what, answer)
	}
}

// TestNoMajorityRefusesNothing: a node that is alone can't tell who is there.
func TestNoMajorityRefusesNothing(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Tuning: Quick()})
	ctx := within(t, 3*time.Minute)
	alone := c.Nodes[0]
	d := talkTo(t, alone.SMTP)
	d.play("C: MAIL FROM:<a@far.test>", "S: 250", "C: RCPT TO:<zoe@example.test>", "S: 550 5.1.1")
	c.Isolate(alone)
	d.play("C: RCPT TO:<zoe@example.test>", "S: 451 4.3.0", "C: RCPT TO:<alice@example.test>", "S: 250")
	c.Heal(alone)
	newcomer(t, ctx, c.Nodes[1], "zoe")
	alone.WaitReady()
	d.play("C: RCPT TO:<zoe@example.test>", "S: 250")
}
