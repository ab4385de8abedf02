package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRetryAndNoticeSettings: what is not named stays, and what was set is shown.
func TestRetryAndNoticeSettings(t *testing.T) {
	w := newWorld(t)
	out, _, _ := w.ctl(t, "", "settings", "show")
	require.Regexp(t, `(?m)^delay notice +4h$`, out)
	require.NotContains(t, out, "notice text")
	file := filepath.Join(t.TempDir(), "notice.txt")
	require.NoError(t, os.WriteFile(file, []byte("[failure]\nSubject: sorry\n\n{recipients}\n"), 0o600))
	for _, args := range [][]string{
		{"--retry", "* greylist first=2m max=10m", "--retry", "slow.example expire=2d"}, {"--delay-notice", "2h"},
		{"--notice-template", file}, {"--retry-first", "1m"}, {"--slow-on", "rate,blocklist"},
	} {
		_, stderr, code := w.ctl(t, "", append([]string{"settings", "set"}, args...)...)
		require.Zero(t, code, stderr)
	}
	out, _, _ = w.ctl(t, "", "settings", "show")
	require.Regexp(t, `(?m)^delay notice +2h$`, out)
	require.Regexp(t, `(?m)^slow on +rate blocklist$`, out)
	require.Regexp(t, `(?m)^notice text +own, 4 lines: 'relayctl settings show -o yaml' has it$`, out)
	require.Regexp(t, `(?m)^retry rule 1 +\* greylist first=2m max=10m$`, out)
	require.Regexp(t, `(?m)^retry rule 2 +slow.example expire=2d$`, out)
	out, _, _ = w.ctl(t, "", "settings", "show", "-o", "yaml")
	require.Contains(t, out, "{recipients}")

	_, stderr, code := w.ctl(t, "[delay]\n{recipients}\n", "settings", "set", "--notice-template", "-", "--delay-notice",
		"off")
	require.Zero(t, code, stderr)
	out, _, _ = w.ctl(t, "", "settings", "show")
	require.Regexp(t, `(?m)^delay notice +never$`, out)
	require.Contains(t, out, "own, 2 lines")
	_, stderr, code = w.ctl(t, " \n", "settings", "set", "--notice-template", "-")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "standard input is empty: 'relayctl settings set --notice-template default'")
	_, _, code = w.ctl(t, "", "settings", "set", "--notice-template", file+".missing")
	require.Equal(t, 1, code)
	_, _, code = w.ctl(t, "", "settings", "set", "--delay-notice", "soon")
	require.Equal(t, 2, code)
	_, stderr, code = w.ctl(t, "", "settings", "set", "--notice-template", "default", "--delay-notice", "default",
		"--retry", "", "--slow-on", "")
	require.Zero(t, code, stderr)
	out, _, _ = w.ctl(t, "", "settings", "show")
	require.Regexp(t, `(?m)^delay notice +4h$`, out)
	require.NotContains(t, out, "notice text")
	require.NotContains(t, out, "slow on")
	require.NotContains(t, out, "retry rule")

	_, stderr, code = w.ctl(t, "", "settings", "set", "--srs", "example.test")
	require.Zero(t, code, stderr)
	_, stderr, code = w.ctl(t, "", "settings", "set", "--srs-new-key")
	require.Zero(t, code, stderr)
	out, _, _ = w.ctl(t, "", "settings", "show", "-o", "json")
	require.Contains(t, out, `"srs_generation": 1`)
	out, _, _ = w.ctl(t, "", "settings", "show")
	require.Regexp(t, `(?m)^return addresses +SRS at example.test$`, out)
	_, stderr, code = w.ctl(t, "", "settings", "set", "--srs", "off")
	require.Zero(t, code, stderr)
	out, _, _ = w.ctl(t, "", "settings", "show")
	require.NotContains(t, out, "return addresses")
}
