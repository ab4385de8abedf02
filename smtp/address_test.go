package smtp

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestParseAddress(t *testing.T) {
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
		got, err := ParseAddress(in)
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
		_, err := ParseAddress(in)
		require.Error(t, err, "%q", in)
	}
}

func TestPath(t *testing.T) {
	for in, want := range map[string]string{
		"<>": "", "< >": "", "<a@b>": "a@b", "< a@b >": "a@b", "<a@b >": "a@b", "< @x:a@b.>": "a@b", `< "a"@b >`: "a@b",
	} {
		p := addressParser{in: []byte(in)}
		addr, err := p.path()
		require.NoError(t, err, in)
		require.Equal(t, want, addr, in)
	}
	for _, in := range []string{"<", "<a b@c>", "<a@b c>", "< a @b>", "<a@ b>", "<a@b", "<a@[1.2.3.4].>"} {
		p := addressParser{in: []byte(in)}
		_, err := p.path()
		require.Error(t, err, in)
	}
}

func TestSplitAddress(t *testing.T) {
	for in, want := range map[string][2]string{
		"a@b": {"a", "b"}, "a": {"a", ""}, "": {"", ""}, `"a@b"@c`: {`"a@b"`, "c"},
	} {
		local, domain := SplitAddress(in)
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
		if addr, err := ParseAddress(in); err == nil {
			again, err := ParseAddress(addr)
			require.NoError(t, err, "%q of %q", addr, in)
			require.Equal(t, addr, again)
			local, domain := SplitAddress(addr)
			require.Equal(t, addr, local+"@"+domain)
			require.False(t, hasControl([]byte(addr)))
		}
		p := addressParser{in: []byte(in)}
		if addr, err := p.path(); err == nil {
			require.True(t, IsASCII(addr))
			require.LessOrEqual(t, p.pos, len(in))
		}
	})
}

func FuzzParams(f *testing.F) {
	for _, s := range []string{
		" SIZE=1 BODY=8BITMIME", " RET=FULL ENVID=a+2B", " BY=1;RT", " HOLDFOR=1", " NOTIFY=NEVER ORCPT=rfc822;a",
		" MT-PRIORITY=-9",
	} {
		f.Add(s)
	}
	known := mailParams()
	f.Fuzz(func(t *testing.T, in string) {
		if hasControl([]byte(in)) {
			return // refused before
		}
		now := time.Unix(1e9, 0)
		if o, err := parseMailParams([]byte(in), known, ^Extension(0), now); err == nil {
			require.False(t, hasControl([]byte(o.EnvID+o.Auth)))
		}
		if o, err := parseRcptParams([]byte(in), ^Extension(0)); err == nil {
			require.False(t, hasControl([]byte(o.ORCPT)))
			if o.ORCPT != "" {
				var again RcptOptions
				require.True(t, setORCPT(&again, encodeORCPT(o.ORCPT)) || len(in) > 100, "%q", o.ORCPT)
			}
		}
	})
}

func TestXtextRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "s")
		wire := encodeXtext(s)
		require.True(t, IsASCII(wire) && isPrintable(wire))
		back, ok := decodeXtext(wire)
		require.True(t, ok)
		require.Equal(t, s, back)
	})
}

func TestORCPTRoundTrip(t *testing.T) {
	for in, wire := range map[string]string{
		"rfc822;a+b=c@d":   "rfc822;a+2Bb+3Dc@d",
		"utf-8;jürgen@d":   `utf-8;j\x{FC}rgen@d`,
		`utf-8;a+b\@d`:     `utf-8;a\x{2B}b\x{5C}@d`,
		"utf-8;用户@例子.test": `utf-8;\x{7528}\x{6237}@\x{4F8B}\x{5B50}.test`,
	} {
		require.Equal(t, wire, encodeORCPT(in))
		var o RcptOptions
		require.True(t, setORCPT(&o, wire))
		require.Equal(t, in, o.ORCPT)
	}
}

func TestNetwork(t *testing.T) {
	require.Equal(t, "192.0.2.1/32", networkOf(netip.MustParseAddr("::ffff:192.0.2.1")).String())
	require.Equal(t, "2001:db8:0:1::/64", networkOf(netip.MustParseAddr("2001:db8:0:1:2::3")).String())
}

func TestAuthDelayGrows(t *testing.T) {
	m := NewMeters(Limits{})
	a := netip.MustParseAddr("192.0.2.1")
	var last time.Duration
	for range 8 {
		d := m.AuthDelay(a)
		require.GreaterOrEqual(t, d, last)
		last = d
	}
	require.Equal(t, 8*time.Second, last)
	require.Equal(t, time.Second/2, m.AuthDelay(netip.MustParseAddr("127.0.0.9")), "loopback is like others")
	require.Equal(t, time.Second/2, m.AuthDelay(netip.MustParseAddr("192.0.2.2")))
}

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
