package outbound

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAuthorDomain(t *testing.T) {
	for header, want := range map[string]string{
		"From: A@B\u00dcCHER.example\r\n":                      "xn--bcher-kva.example",
		"From: =?x?q?y?= <a@Example.Test>\r\n":                 "example.test",
		"Subject: x\r\n":                                       "sender.test",
		"From: a@example.test\r\nFrom: a@example.test\r\n\r\n": "",
		"From: a b c\r\n":                                      "",
	} {
		require.Equal(t, want, authorDomain([]byte(header), "s@sender.test"), header)
	}
	require.Empty(t, authorDomain(nil, ""))
}

// A signature leaves no room for a second From.
func TestSignedFields(t *testing.T) {
	keys := func(header string) string { return strings.Join(dkimHeaders([]byte(header)), " ") }
	require.Equal(t, "From From Reply-To Subject Subject To Cc Date Date",
		keys("From: a@b.test\r\nSUBJECT : x\r\n y\r\nDate: now\r\nX-Other: 1\r\n\r\nCc: body\r\n"))
	require.Equal(t, "From Reply-To Subject To To To Cc", keys("To: a@b.test\r\nTo: c@d.test\r\n\r\n"))
}
