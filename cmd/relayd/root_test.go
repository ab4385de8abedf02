package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// relayd runs a command line and returns code, standard output and error.
func relayd(t *testing.T, args ...string) (int, string, string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), args, strings.NewReader(""), &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		says string // on standard error
	}{
		{"", exitOK, ""},
		{"version", exitOK, ""},
		{"completion bash", exitOK, ""},
		{"config default", exitOK, ""},
		{"frobnicate", exitUsage, `there is no command "relayd frobnicate"`},
		{"cofnig", exitUsage, "did you mean config?"},
		{"config frob", exitUsage, `there is no command "relayd config frob"`},
		{"run", exitUsage, `--config is missing; 'relayd run --help' shows how`},
		{"run --frob", exitUsage, "unknown flag: --frob"},
		{"run --config x y", exitUsage, "1 argument is given: the form is 'relayd run"},
		{"config check", exitUsage, "the form is 'relayd config check FILE'"},
		{"config check /nowhere/relay.toml", exitFailed, "there is no file /nowhere/relay.toml"},
		{"run --config /nowhere/relay.toml", exitFailed, "there is no file /nowhere/relay.toml"},
		{"completion tcsh", exitUsage, "bash|zsh|fish"},
		{"join --config /nowhere/relay.toml n1:7170", exitUsage, "--token"},
		{"join --config /nowhere/relay.toml --token x n1", exitUsage, "HOST:PORT"},
		{"recover --config x --peers n1", exitUsage, "ID=HOST:PORT"},
		{"recover --config x --peers n1=a:1,n1=b:1", exitUsage, "twice"},
		{"init --config /nowhere/relay.toml --hostname mx.test --advertise nope", exitUsage, "advertise"},
		{"init --config /nowhere/relay.toml --hostname a..b", exitUsage, "hostname"},
		{"join --config /nowhere/relay.toml --token x n1:7170", exitUsage, "token"},
		{"dev --nodes x", exitUsage, `--nodes "x" is not a whole number`},
		{"dev --restart-after x", exitUsage, `--restart-after "x" is not a span`},
		{"dev --nodes 2", exitUsage, "1, 3 or 5"},
		{"dev --listen 0.0.0.0", exitUsage, "not a loopback address"},
		{"dev --base-port 65300", exitUsage, "no room"},
		{"dev --relay nonsense", exitUsage, "not HOST:PORT"},
		{"dev --restart-after -1s", exitUsage, "negative"},
	} {
		t.Run(c.args, func(t *testing.T) {
			code, _, stderr := relayd(t, strings.Fields(c.args)...)
			require.Equal(t, c.code, code, stderr)
			require.Contains(t, stderr, c.says)
			if c.says != "" {
				require.Equal(t, 1, strings.Count(stderr, "\n"), "one sentence: %s", stderr)
			}
		})
	}
}

func TestHelpOnEveryLevel(t *testing.T) {
	for _, args := range []string{
		"", "dev", "init", "join", "run", "config", "config check", "config default", "recover", "version", "completion",
	} {
		code, stdout, stderr := relayd(t, append(strings.Fields(args), "--help")...)
		require.Equal(t, exitOK, code)
		require.Contains(t, stdout, "Usage:")
		require.Empty(t, stderr)
	}
}

func TestConfigCheckNamesEveryMistake(t *testing.T) {
	file := filepath.Join(t.TempDir(), "relay.toml")
	require.NoError(t,
		os.WriteFile(file, []byte("[node]\nid = \"n1\"\nhostnam = \"x\"\n\n[cluster]\nadvertise = 7\n"), 0o600))
	code, _, stderr := relayd(t, "config", "check", file)
	require.Equal(t, exitWrong, code)
	require.Contains(t, stderr, "line 3: node.hostnam")
	require.Contains(t, stderr, "line 6: cluster.advertise")
}

func TestConfigCheckGood(t *testing.T) {
	file := filepath.Join(t.TempDir(), "relay.toml")
	require.NoError(t,
		os.WriteFile(file, []byte("[node]\nid = \"n1\"\nhostname = \"n1\"\n[cluster]\nadvertise = \"n1:7170\"\n"), 0o600))
	code, stdout, stderr := relayd(t, "config", "check", file)
	require.Equal(t, exitOK, code, stderr)
	require.Contains(t, stdout, "is good")
}
