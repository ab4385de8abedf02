package mailaddr

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"relay/smtp/printable"
)

func TestParse(t *testing.T) {
	long := strings.Repeat("a", 63)
	for in, want := range map[string]string{
		"a@b":                          "a@b",
		"Ann.Example@Example.TEST":     "Ann.Example@Example.TEST",
		"a+b=c/d!e%f@b":                "a+b=c/d!e%f@b",
		"user@xn--bcher-kva.example":   "user@xn--bcher-kva.example",
		"user@under_score.example":     "user@under_score.example",
		"用户@例子.example":                "用户@例子.example",
		`"ann"@b`:                      "ann@b",
		`"a.b"@c`:                      "a.b@c",
		`"a b"@c`:                      `"a b"@c`,
		`"\a"@c`:                       "a@c",
		`"a\"b\\"@c`:                   `"a\"b\\"@c`,
		`"a@b"@c`:                      `"a@b"@c`,
		`""@c`:                         `""@c`,
		`".a"@c`:                       `".a"@c`,
		"a..b@c":                       `"a..b"@c`,
		".a@c":                         `".a"@c`,
		"a.@c":                         `"a."@c`,
		"..@c":                         `".."@c`,
		"a@b.":                         "a@b",
		"a.@B.Example.":                `"a."@B.Example`,
		"a@[192.0.2.1]":                "a@[192.0.2.1]",
		"a@[IPv6:2001:db8::1]":         "a@[IPv6:2001:db8::1]",
		"a@[x-new:some.thing]":         "a@[x-new:some.thing]",
		long + "@" + long + ".example": long + "@" + long + ".example",
	} {
		got, err := Parse(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got)
	}
	for _, in := range []string{
		"", "@", "a", "a@", "@b", "a@b@c", "a@.b", "a@.", "a@b..", "a@b..c", "a@-b", "a@b-", "a@b-.c",
		"a b@c", "a@b c", "<a@b>", `"a@b`, `"a"b@c`, `a"b"@c`, "\"a\x01\"@b", "\"a\\\x01\"@b", "a\x00@b", "a@b\x7f",
		"a@[300.0.0.1]", "a@[IPv6:zz]", "a@[IPv6:fe80::1%eth0]", "a@[192.0.2.1", "a@[]", "a@[x:]", "a@[x:a@b]", "a@[x_:a]",
		"\xff@b", "a@\xff", "a\u0085@b", "a,b@c", "a;b@c", "(a)@b", `a\b@c`,
		strings.Repeat("a", 64) + "@" + strings.Repeat("b.", 130) + "c", "a@" + strings.Repeat("b", 64),
	} {
		_, err := Parse(in)
		require.Error(t, err, "%q", in)
	}
}

func TestPath(t *testing.T) {
	for in, want := range map[string]string{
		"<>": "", "< >": "", "<a@b>": "a@b", "< a@b >": "a@b", "<a@b >": "a@b", "< @x:a@b.>": "a@b", `< "a"@b >`: "a@b",
	} {
		p := parser{in: []byte(in)}
		addr, err := p.path()
		require.NoError(t, err, in)
		require.Equal(t, want, addr, in)
	}
	for _, in := range []string{"<", "<a b@c>", "<a@b c>", "< a @b>", "<a@ b>", "<a@b", "<a@[1.2.3.4].>"} {
		p := parser{in: []byte(in)}
		_, err := p.path()
		require.Error(t, err, in)
	}
}

func TestSplit(t *testing.T) {
	for in, want := range map[string][2]string{
		"a@b": {"a", "b"}, "a": {"a", ""}, "": {"", ""}, `"a@b"@c`: {`"a@b"`, "c"},
	} {
		local, domain := Split(in)
		require.Equal(t, want, [2]string{local, domain})
	}
	require.True(t, RoutesOn("a%b"))
	require.True(t, RoutesOn("b!a"))
	require.True(t, RoutesOn(`"a@b"`))
	require.False(t, RoutesOn("a.b+c"))
}

// The result is its own plainest form.
func FuzzAddress(f *testing.F) {
	for _, s := range []string{"a@b", `"a b"@c`, "<@x,@y:a@b>", "a@[IPv6:::1]", "ü@ü", `"\""@b`, "<>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		if addr, err := Parse(in); err == nil {
			again, err := Parse(addr)
			require.NoError(t, err, "%q of %q", addr, in)
			require.Equal(t, addr, again)
			local, domain := Split(addr)
			require.Equal(t, addr, local+"@"+domain)
			require.False(t, strings.ContainsFunc(addr, func(r rune) bool { return !printable.Rune(r) }))
		}
		p := parser{in: []byte(in)}
		if addr, err := p.path(); err == nil {
			require.True(t, IsASCII(addr))
			require.LessOrEqual(t, p.pos, len(in))
		}
	})
}

func TestXtextRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "s")
		wire := EncodeXtext(s)
		require.True(t, IsASCII(wire) && printable.Text(wire, len(wire)) == wire)
		back, ok := DecodeXtext(wire)
		require.True(t, ok)
		require.Equal(t, s, back)
	})
}
