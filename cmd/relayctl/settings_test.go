package main

import (
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
	for _, args := range [][]string{{"--greylist", "soon"}, {"--history-bytes", "much"}, {"--audit-bytes", "much"}, {}} {
		_, _, code = w.ctl(t, "", append([]string{"settings", "set"}, args...)...)
		require.Equal(t, 2, code, args)
	}

	_, stderr, code = w.ctl(t, "", "domain", "set", "example.test", "--greylist", "off", "--catch-all",
		"alice@example.test")
	require.Zero(t, code, stderr)
	out, _, _ = w.ctl(t, "", "domain", "ls")
	require.Regexp(t, `example.test +\d+ +alice@example.test +off`, out)
	_, _, code = w.ctl(t, "", "domain", "set", "example.test")
	require.Equal(t, 2, code)
}
