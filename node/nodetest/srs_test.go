package nodetest

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/smtp"
)

// TestForwardedMailComesBack: a stranger's mail that an alias leads outside goes with a return address of ours, and
// beside it, to a mailbox, with its sender. Bounces from outside and our own reports reach the stranger, at whichever
// node they come in; others' addresses do not.
func TestForwardedMailComesBack(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Tuning: Quick()})
	api, by, ctx := c.Nodes[0].Client(), admin.By{Why: "test"}, within(t, 3*time.Minute)
	c.rewrites(t)
	for alias, targets := range map[string][]string{
		"away": {"jane@else.example"}, "both": {"jane@else.example", "bob@example.test"}, "here": {"bob@example.test"},
	} {
		require.NoError(t, api.SetAlias(ctx, by, admin.Alias{Address: alias + "@example.test", Targets: targets}))
	}
	letter := "DKIM-Signature: v=1; d=far.example; b=abc\r\n" + Letter("away")
	n := len(c.Sink.Got())
	c.Nodes[0].MustSend("sam@far.example", "away@example.test", letter)
	require.NoError(t, c.Sink.Wait(ctx, n+1))
	got := c.Sink.Got()[n]
	require.True(t, strings.HasPrefix(got.From, "SRS0="), got.From)
	require.True(t, strings.HasSuffix(got.From, "=far.example=sam@example.test"), got.From)
	require.True(t, strings.HasSuffix(got.Body, letter), "what was signed stays: %s", got.Body)

	// the next hop bounces it later, at another node, and has lost the case of letters
	c.Nodes[2].MustSend("", strings.ToLower(got.From), Letter("bounce"))
	require.NoError(t, c.Sink.Wait(ctx, n+2))
	require.Equal(t, "sam@far.example", c.Sink.Got()[n+1].To)
	require.Empty(t, c.Sink.Got()[n+1].From)
	_, err := c.Nodes[1].Send(ctx, "", "SRS0=aaaaaaaa=aa=victim.example=eve@example.test", Letter("forged"))
	require.ErrorContains(t, err, "550")

	c.Nodes[1].MustSend("sam@far.example", "both@example.test", Letter("both"))
	require.NoError(t, c.Sink.Wait(ctx, n+3))
	require.True(t, strings.HasPrefix(c.Sink.Got()[n+2].From, "SRS0="))
	require.Contains(t, strings.Join(c.inbox("bob"), ""), "Return-Path: <sam@far.example>\r\n")
	c.Nodes[1].MustSend("alice@example.test", "away@example.test", Letter("ours"))
	require.NoError(t, c.Sink.Wait(ctx, n+4))
	require.Equal(t, "alice@example.test", c.Sink.Got()[n+3].From, "SPF knows us")
}

// rewrites has return addresses made, and waits until they are: the leader gives the cluster its secret a moment after
// the raise.
func (c *Cluster) rewrites(t *testing.T) {
	t.Helper()
	name := "example.test"
	c.setLater(t, c.Nodes[0], admin.Settings{DefaultDomain: name, SRSDomain: &name})
	require.NoError(t, c.Nodes[0].Client().SetAlias(within(t, time.Minute), admin.By{Why: "test"},
		admin.Alias{Address: "probe@example.test", Targets: []string{"p@else.example"}}))
	c.Eventually(time.Minute, "no return address is made", func() bool {
		n := len(c.Sink.Got())
		c.Nodes[0].MustSend("sam@far.example", "probe@example.test", Letter("probe"))
		require.NoError(t, c.Sink.Wait(within(t, time.Minute), n+1))
		return strings.HasPrefix(c.Sink.Got()[n].From, "SRS0=")
	})
}

// TestReportsOnForwardedMail: what the next hop refuses at once is reported to the stranger, and names the alias.
func TestReportsOnForwardedMail(t *testing.T) {
	t.Parallel()
	c, _ := relay(t, nil)
	api, by, ctx := c.Nodes[0].Client(), admin.By{Why: "test"}, within(t, 3*time.Minute)
	c.rewrites(t)
	require.NoError(t, api.SetAlias(ctx, by,
		admin.Alias{Address: "away@example.test", Targets: []string{"jane@else.example"}}))
	c.Sink.Answer(func(to string) error {
		if to == "jane@else.example" {
			return smtp.NewReply(550, "5.1.1", "<"+to+">: no such user")
		}
		return nil
	})
	n := len(c.Sink.Got())
	c.Nodes[0].MustSend("sam@far.example", "away@example.test", Letter("away"))
	require.NoError(t, c.Sink.Wait(ctx, n+1))
	got := c.Sink.Got()[n]
	require.Empty(t, got.From)
	require.Equal(t, "sam@far.example", got.To)
	require.Contains(t, got.Body, "Final-Recipient: rfc822; away@example.test\r\nAction: failed\r\n")
	require.NotContains(t, got.Body, "jane")
}
