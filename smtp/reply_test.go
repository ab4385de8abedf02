package smtp

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReplyOnTheWire(t *testing.T) {
	for want, r := range map[string]*Reply{
		"550 5.0.0 no\r\n":                       {Code: 550, Text: "no"},
		"250-2.1.5 a\r\n250 2.1.5 b\r\n":         {Code: 250, Enhanced: "2.1.5", Text: "a\nb"},
		"451 4.3.0\r\n":                          {Code: 451, Enhanced: "4.3.0"},
		"550 5.1.1 a?b?c d ?\r\n":                {Code: 550, Enhanced: "5.1.1", Text: "a\rb\x00c\td ü"},
		"354 go on\r\n":                          {Code: 354, Text: "go on"},
		"550-5.0.0 x\r\n550 5.0.0\r\n":           {Code: 550, Text: "x\n"},
		"550 5.0.0 ?250 2.0.0 queued\r\n":        {Code: 550, Text: "\r250 2.0.0 queued"},
		"550-5.0.0 ?\r\n550 5.0.0 250 faked\r\n": {Code: 550, Text: "\r\n250 faked"},
	} {
		require.Equal(t, want, string(appendReply(nil, r, false)))
	}
	long := appendReply(nil, &Reply{Code: 550, Text: strings.Repeat("ü", 600)}, true)
	require.LessOrEqual(t, len(long), 512)
	require.Equal(t, "550 5.1.1 no: way", (&Reply{Code: 550, Enhanced: "5.1.1", Text: "no:\nway"}).Error())
	require.True(t, NewReply(451, "", "").Temporary())
}
