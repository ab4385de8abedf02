package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSettings(t *testing.T) {
	w := newWorld(t)
	out, _, code := w.ctl(t, "", "settings", "show")
	require.Zero(t, code)
	require.Regexp(t, `(?m)^greylist +off$`, out)
	require.Regexp(t, `(?m)^greylist window +8h$`, out)
	_, stderr, code := w.ctl(t, "", "settings", "set", "--greylist", "1m", "--expire", "2d", "--greylist-trust", "-1",
		"--greylist-exempt", "192.0.2.0/24,2001:db8::/32", "--history-bytes", "2GB", "--audit", "90d", "--audit-bytes", "5MB")
	require.Zero(t, code, stderr)
	_, stderr, code = w.ctl(t, "", "settings", "set", "--retry-first", "1m")
	require.Zero(t, code, stderr)
	out, _, _ = w.ctl(t, "", "settings", "show")
	for _, line := range []string{`greylist +1m`, `queue lifetime +2d`, `first retry +1m`, `greylist trust +never`, `greylist exempt +192.0.2.0/24 2001:db8::/32`, `history bound +2.0 GB`, `audit log +90d`, `audit bound +5.0 MB`} {
		require.Regexp(t, "(?m)^"+line, out)
	}
	for _, args := range [][]string{
		{"--greylist", "soon"}, {"--greylist", "1w"}, {"--history-bytes", "much"}, {"--audit-bytes", "much"}, {},
	} {
		_, _, code = w.ctl(t, "", append([]string{"settings", "set"}, args...)...)
		require.Equal(t, 2, code, args)
	}

	_, stderr, code = w.ctl(t, "", "settings", "set", "--reply-rule", "rate 451 come, slowly", "--reply-rule", "full 599")
	require.Zero(t, code, stderr)
	_, stderr, code = w.ctl(t, "", "settings", "set", "--retry-first", "2m")
	require.Zero(t, code, stderr)
	out, _, _ = w.ctl(t, "", "settings", "show")
	require.Regexp(t, "(?m)^reply rule 1 +rate 451 come, slowly$", out)
	require.Regexp(t, "(?m)^reply rule 2 +full 599$", out)
	_, stderr, code = w.ctl(t, "", "settings", "set", "--reply-rule", "")
	require.Zero(t, code, stderr)
	out, _, _ = w.ctl(t, "", "settings", "show")
	require.NotContains(t, out, "reply rule")

	_, stderr, code = w.ctl(t, "", "domain", "set", "example.test", "--greylist", "off", "--catch-all",
		"alice@example.test")
	require.Zero(t, code, stderr)
	out, _, _ = w.ctl(t, "", "domain", "ls")
	require.Regexp(t, `example.test +\d+ +alice@example.test +off`, out)
	_, _, code = w.ctl(t, "", "domain", "set", "example.test")
	require.Equal(t, 2, code)
}

// A setting that does more than it seems to is set nevertheless, with a warning that
// says so.
func TestDangerousSettingsAreWarnedOf(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		args, want string // empty: nothing is said
	}{
		{"settings set --expire 1s", "warning: mail that is not delivered within 1s is given back to its sender, also what"},
		{"settings set --expire 1s", "warning: mail is tried only once: the first retry comes after 5m"},
		{"settings set --expire 5d", ""},
		{"settings set --expire 0", ""},
		{"settings set --retry-first 1s", "after 1s; some block"},
		{"settings set --retry-first 5m --retry-max 1w", "given up after 5d, before the longest wait"},
		{"settings set --retry-max 4h --history 1m", "more than 1m ago"},
		{"settings set --audit 1h", "older than 1h are deleted"},
		{"settings set --audit-bytes 10KB", "10 KB of the audit log are kept"},
		{"settings set --greylist 12h", "waits for 12h or longer"},
		{"settings set --greylist off --from-check off", "any address into From"},
		{"settings set --default-domain example.test", "mean example.test from now on"},
		{"settings set --greylist-exempt 0.0.0.0/0", "nobody is greylisted"},
		{"settings set --default-domain=", "without a domain are refused from now on"},
		{"settings set --history 3d --audit 400d --greylist 5m --from-check refuse", ""},
		{"user set bob@example.test --retention 1s", "warning: mail of bob@example.test that is older than 1s is deleted"},
		{"user set bob@example.test --retention 30d", ""},
		{"user set bob@example.test --login-delay 1d", "once in 1d only"},
	} {
		out, stderr, code := w.ctl(t, "", strings.Fields(c.args)...)
		require.Zero(t, code, stderr)
		require.Contains(t, out, "changed", c.args)
		require.Contains(t, stderr, c.want, c.args)
		if c.want == "" {
			require.Empty(t, stderr, c.args)
		}
	}
}
