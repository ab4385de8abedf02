package printable

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"":      "",
		"plain": "plain",
		"Grüße, می\u200cخواهم 👩\u200d👩\u200d👧": "Grüße, می\u200cخواهم 👩\u200d👩\u200d👧",
		"a\r\nb\x00\x1b[2J\x7f":                "a??b??[2J?",
		"\u0085\u009b2J\u0090":                 "??2J?",
		"\u202egpj.exe\u2066x\u2069\u200f":     "?gpj.exe?x??",
		"\u2028\u2029\ufeff\ufff9":             "????",
		"\ufffe\U000e0041":                     "??",
		"\x85\xff":                             "??",
		"\ufffd":                               "\ufffd",
	} {
		require.Equal(t, want, Text(in, 1000), "%q", in)
	}
	require.Equal(t, "ab", Text("abü", 3))
	require.Equal(t, "ab?", Text("ab\xfc\xfc", 3))
	require.Empty(t, Text("👩", 3))
}

func FuzzText(f *testing.F) {
	f.Add("a\u0085\u202e\xff", 3)
	f.Fuzz(func(t *testing.T, s string, most int) {
		most = max(most, 0)
		out := Text(s, most)
		require.LessOrEqual(t, len(out), most)
		require.True(t, utf8.ValidString(out))
		require.False(t, strings.ContainsFunc(out, func(r rune) bool { return !Rune(r) }))
		require.Equal(t, out, Text(out, most))
	})
}
