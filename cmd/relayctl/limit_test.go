package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLimits(t *testing.T) {
	w := newWorld(t)
	out, _, _ := w.ctl(t, "", "limit", "ls")
	require.Equal(t, "There is no limit.\n", out)
	for _, args := range [][]string{
		{"site:Google", "--connections", "10", "--rate", "50/s"}, {"domain:x.example", "--recipients", "1000/h"},
		{"site:google", "--connections", "20", "--burst", "30", "--why", "they ask for it"},
		{"route:smtp:hop.test:25", "--per-connection", "5"},
	} {
		_, stderr, code := w.ctl(t, "", append([]string{"limit", "set"}, args...)...)
		require.Zero(t, code, stderr)
	}
	out, _, _ = w.ctl(t, "", "limit", "ls")
	require.Regexp(t, `(?m)^site:google +20 +- +50/s +- +30$`, out)
	require.Regexp(t, `(?m)^domain:x.example +- +- +- +1000/h +-$`, out)
	require.Regexp(t, `(?m)^route:smtp:hop.test:25 +- +5 +- +- +-$`, out)
	out, _, _ = w.ctl(t, "", "limit", "ls", "-o", "json")
	require.Contains(t, out, `"per_connection": 5`)
	for _, args := range [][]string{
		{"set", "google", "--connections", "5"}, {"set", "site:x"}, {"set", "site:x", "--rate", "fast"},
		{"set", "site:google", "--connections", "0", "--rate", "", "--burst", "0"}, {"rm", "site:yahoo"},
	} {
		_, stderr, code := w.ctl(t, "", append([]string{"limit"}, args...)...)
		require.Equal(t, 2, code, args)
		require.NotEmpty(t, stderr)
	}
	_, _, code := w.ctl(t, "", "limit", "rm", "SITE:google")
	require.Zero(t, code)
	out, _, _ = w.ctl(t, "", "limit", "ls")
	require.NotContains(t, out, "google")
}

func TestSites(t *testing.T) {
	w := newWorld(t)
	out, _, _ := w.ctl(t, "", "site", "ls")
	require.Regexp(t, `(?m)^google +built in +google.com`, out)
	for _, args := range [][]string{
		{"set", "BigCo", "--mx-suffix", "mx.bigco.example", "--mx-suffix", ".mx.bigco.example.net"}, {"set", "qq"},
	} {
		_, stderr, code := w.ctl(t, "", append([]string{"site"}, args...)...)
		require.Zero(t, code, stderr)
	}
	out, _, _ = w.ctl(t, "", "site", "ls")
	require.Regexp(t, `(?m)^bigco +you +mx.bigco.example mx.bigco.example.net$`, out)
	require.NotRegexp(t, `(?m)^qq `, out)
	_, stderr, code := w.ctl(t, "", "site", "set", "x", "--mx-suffix", "co.uk")
	require.Equal(t, 2, code)
	require.Contains(t, stderr, "anybody")
	_, stderr, code = w.ctl(t, "", "site", "rm", "google")
	require.Equal(t, 2, code)
	require.Contains(t, stderr, "no site google of your own")
	_, _, code = w.ctl(t, "", "site", "rm", "qq")
	require.Zero(t, code)
	out, _, _ = w.ctl(t, "", "site", "ls")
	require.Regexp(t, `(?m)^qq +built in +qq.com$`, out)
}
