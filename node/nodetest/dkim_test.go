package nodetest

import (
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"
	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

func TestMailOfOwnDomainsIsSigned(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1})
	ctx := within(t, 3*time.Minute)
	api, by := c.Nodes[0].Client(), admin.By{Why: "test"}
	records := map[string]string{}
	add := func(in admin.SignerAdd) {
		k, err := api.AddSigner(ctx, by, in)
		require.NoError(t, err)
		records[k.Name] = k.Record
	}
	add(admin.SignerAdd{Domain: "example.test", Selector: "old"})
	add(admin.SignerAdd{Domain: "example.test", Selector: "ed", Algorithm: "ed25519"})
	add(admin.SignerAdd{Domain: "example.test", Selector: "new", Rotate: true})
	_, err := api.AddSigner(ctx, by, admin.SignerAdd{Domain: "far.example"})
	require.Error(t, err, "a domain of others")

	large := strings.Repeat("0123456789012345678901234567890123456789\r\n", 10000)
	for i, body := range []string{"text\r\n", large} {
		c.Nodes[0].MustSend("alice@example.test", "x@far.example",
			"From: Alice <alice@example.test>\r\nSubject: s\r\nMessage-ID: <"+string(rune('a'+i))+"@x>\r\n\r\n"+body)
		require.NoError(t, c.Sink.Wait(ctx, i+1))
		got := c.Sink.Got()[i].Body
		checks, err := dkim.VerifyWithOptions(strings.NewReader(got),
			&dkim.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
				return []string{records[name]}, nil
			}})
		require.NoError(t, err)
		require.Len(t, checks, 2, "one for each algorithm, none with the retired key")
		for _, check := range checks {
			require.NoError(t, check.Err)
			require.Equal(t, "example.test", check.Domain)
		}
		require.NotContains(t, got, "s=old;")
	}
	c.Nodes[0].MustSend("s@else.example", "y@far.example", Letter("foreign"))
	require.NoError(t, c.Sink.Wait(ctx, 3))
	require.NotContains(t, c.Sink.Got()[2].Body, "DKIM-Signature")

	keys, err := api.Signers(ctx)
	require.NoError(t, err)
	require.Len(t, keys, 3)
	require.NoError(t, api.RemoveSigner(ctx, by, "example.test", "old"))
	require.Error(t, api.RemoveSigner(ctx, by, "example.test", "old"))
}

// A key that leaked is replaced on the day that it was made, and as often as need be.
func TestKeysOfOneDay(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1})
	ctx := within(t, 3*time.Minute)
	api, by := c.Nodes[0].Client(), admin.By{Why: "test"}
	seen := map[string]bool{}
	for range 3 {
		k, err := api.AddSigner(ctx, by, admin.SignerAdd{Domain: "example.test", Algorithm: "ed25519", Rotate: true})
		require.NoError(t, err)
		require.False(t, seen[k.Selector], k.Selector)
		seen[k.Selector] = true
	}
	keys, err := api.Signers(ctx)
	require.NoError(t, err)
	signs := 0
	for _, k := range keys {
		if !k.Retired {
			signs++
		}
	}
	require.Equal(t, 1, signs)

	again := admin.By{Why: "test", Request: "01M8CD1VJC6H6NTGW911HPY849"}
	first, err := api.AddSigner(ctx, again, admin.SignerAdd{Domain: "example.test", Algorithm: "ed25519", Rotate: true})
	require.NoError(t, err)
	second, err := api.AddSigner(ctx, again, admin.SignerAdd{Domain: "example.test", Algorithm: "ed25519", Rotate: true})
	require.NoError(t, err)
	require.Equal(t, first.Selector, second.Selector, "an answer that got lost")
}
