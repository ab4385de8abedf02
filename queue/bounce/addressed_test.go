package bounce

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAsAddressed(t *testing.T) {
	secret := Recipient{
		Address: "Jane@Home.example", Reply: "550 5.1.1 <JANE@home.example>: no such user \xff jane@home.example",
		Host: "mailbox jane@home.example",
	}
	for original, want := range map[string]Recipient{
		"":                         secret,
		"x400;/s=jane":             secret,
		"rfc822;":                  secret,
		"rfc822;nobody":            secret,
		"rfc822;jane@home.EXAMPLE": secret,
		"RFC822; info@example.test": {
			Address: "info@example.test", Reply: "550 5.1.1 <info@example.test>: no such user \xff info@example.test",
			Host: "mailbox info@example.test",
		},
	} {
		p := secret
		p.Original, want.Original = original, original
		require.Equal(t, want, p.AsAddressed(), original)
	}
	// The address that the client gave goes before the one that ORCPT gives.
	for _, original := range []string{"", "x400;/s=jane", "rfc822;other@elsewhere.example", "rfc822;jane@home.example"} {
		p := secret
		p.Original, p.Addressed = original, "info@example.test"
		got := p.AsAddressed()
		require.Equal(t, "info@example.test", got.Address)
		require.Equal(t, "mailbox info@example.test", got.Host)
		require.Equal(t, original, got.Original)
		p.Addressed = "jane@HOME.example" // no alias
		require.Equal(t, p, p.AsAddressed())
	}
}
