package nodetest

import (
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"
	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/replica"
)

// TestWhoseSignature: an account speaks for itself, its aliases and what it was
// given; other addresses of hosted domains are refused, or go unsigned.
func TestWhoseSignature(t *testing.T) {
	t.Parallel()
	c, port := relay(t, nil)
	ctx := within(t, 3*time.Minute)
	api, by := c.Nodes[0].Client(), admin.By{Why: "test"}
	require.NoError(t, api.AddDomain(ctx, by, admin.Domain{Name: "other.test"}))
	require.NoError(t,
		api.SetAlias(ctx, by, admin.Alias{Address: "info@other.test", Targets: []string{"alice@example.test"}}))
	require.NoError(t, api.SetAlias(ctx, by, admin.Alias{
		Address: "all@other.test", Targets: []string{"alice@example.test", "bob@example.test"},
	}))
	records := map[string]string{}
	for _, domain := range []string{"example.test", "other.test"} {
		k, err := api.AddSigner(ctx, by, admin.SignerAdd{Domain: domain, Selector: "s"})
		require.NoError(t, err)
		records[k.Name] = k.Record
	}
	sent := 0
	send := func(addr, login, from string) string {
		d := talkTo(t, addr)
		if login != "" {
			d.play(login, "S: 235")
		}
		d.play("C: MAIL FROM:<alice@example.test>", "S: 250", "C: RCPT TO:<x@far.example>", "S: 250", "C: DATA", "S: 354")
		d.raw(from + "Subject: s\r\n\r\nx\r\n.\r\n")
		reply := d.play("S: ")
		if !strings.HasPrefix(reply, "250") {
			return reply
		}
		sent++
		require.NoError(t, c.Sink.Wait(ctx, sent))
		got := c.Sink.Got()[sent-1].Body
		checks, err := dkim.VerifyWithOptions(strings.NewReader(got),
			&dkim.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
				return []string{records[name]}, nil
			}})
		require.NoError(t, err)
		if len(checks) == 0 {
			return "unsigned"
		}
		require.NoError(t, checks[0].Err)
		// Nobody can put another author on top.
		checks2, err := dkim.VerifyWithOptions(strings.NewReader("From: ceo@other.test\r\n"+got), &dkim.VerifyOptions{
			LookupTXT: func(name string) ([]string, error) { return []string{records[name]}, nil },
		})
		require.NoError(t, err)
		require.Error(t, checks2[0].Err)
		return checks[0].Domain
	}
	own := map[string]string{
		"From:\r\n =?utf-8?q?Alice?=\r\n\t<Alice@EXAMPLE.test>\r\n": "example.test",
		"From: alice+news@example.test\r\n":                         "example.test",
		"From: info@other.test\r\n":                                 "other.test",
		"":                                                          "example.test",
	}
	foreign := []string{
		"From: ceo@other.test\r\n", "From: bob@example.test\r\n", "From: all@other.test\r\n", "From: someone@far.example\r\n",
		"From: alice@example.test\r\nFrom: ceo@other.test\r\n", "From:\r\n ceo@other.test (alice@example.test)\r\n",
		"From: Team: alice@example.test, ceo@other.test;\r\n",
	}
	settings, err := api.Settings(ctx)
	require.NoError(t, err)
	require.Equal(t, "refuse", settings.FromCheck, "a new cluster")
	for from, want := range own {
		require.Equal(t, want, send(port, loginAlice, from), "%q", from)
	}
	for _, from := range foreign {
		reply := send(port, loginAlice, from)
		require.True(t, strings.HasPrefix(reply, "550 5.7.1 "), "%q: %s", from, reply)
	}
	require.Contains(t, send(port, loginAlice, foreign[0]),
		"'relayctl user set alice@example.test --sender ceo@other.test'")
	require.Equal(t, "other.test", send(c.Nodes[0].SMTP, "", foreign[0]), "who is trusted without a login is no account")

	senders := []string{"ceo@other.test"}
	require.NoError(t, api.SetUser(ctx, by, "alice@example.test", admin.UserSet{Senders: &senders}))
	require.Equal(t, "other.test", send(port, loginAlice, foreign[0]))

	senders = []string{}
	require.NoError(t, api.SetUser(ctx, by, "alice@example.test", admin.UserSet{Senders: &senders}))

	settings.FromCheck, settings.Changed = "", nil
	require.NoError(t, api.SetSettings(ctx, by, *settings), "a former relayctl")
	require.Contains(t, send(port, loginAlice, foreign[1]), "550")
	settings.FromCheck = "unsigned"
	require.NoError(t, api.SetSettings(ctx, by, *settings))
	for _, from := range foreign {
		require.Equal(t, "unsigned", send(port, loginAlice, from), "%q", from)
	}
	require.Regexp(t, `\nrelay_from_foreign_total\{result="refused"\} 9\nrelay_from_foreign_total\{result="unsigned"\} 7\n`, metrics(t, c.Nodes[0]))
	settings.FromCheck = "off"
	require.NoError(t, api.SetSettings(ctx, by, *settings))
	require.Equal(t, "other.test", send(port, loginAlice, "From: all@other.test\r\n"))
	settings.FromCheck = "perhaps"
	require.ErrorIs(t, api.SetSettings(ctx, by, *settings), admin.ErrInvalid)
}

// TestAuthorsOnAnUpgradedCluster: a cluster whose settings are older than the check of
// authors has none; its accounts' mail with another author goes, unsigned.
func TestAuthorsOnAnUpgradedCluster(t *testing.T) {
	t.Parallel()
	c, port := relay(t, nil)
	ctx := within(t, 3*time.Minute)
	api, by := c.Nodes[0].Client(), admin.By{Why: "test"}
	_, err := api.AddSigner(ctx, by, admin.SignerAdd{Domain: "example.test", Selector: "s"})
	require.NoError(t, err)
	_, err = replica.Propose(ctx, c.Nodes[0].Node().Cluster(), spool.KindPutSettings, &pb.PutSettings{
		Settings: &pb.Settings{DefaultDomain: "example.test"},
	})
	require.NoError(t, err)
	for n, from := range []string{"bob@example.test", "alice@example.test"} {
		d := talkTo(t, port)
		d.play(loginAlice, "S: 235")
		require.NotEmpty(t, idOf(d.mail("alice@example.test", "x@far.example", "From: "+from+"\r\n\r\nx\r\n")))
		require.NoError(t, c.Sink.Wait(ctx, n+1))
	}
	got := c.Sink.Got()
	require.NotContains(t, got[0].Body, "DKIM-Signature:")
	require.Contains(t, got[1].Body, "DKIM-Signature:")
	require.Contains(t, metrics(t, c.Nodes[0]), "\nrelay_from_foreign_total{result=\"unsigned\"} 1\n")
}
