package config

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A setting that makes an open relay is named with its line and the cure, and is no
// mistake.
func TestOpenRelayIsWarnedOf(t *testing.T) {
	text := strings.Replace(Default(), `trusted_networks = [`, `trusted_networks = ["0.0.0.0/0", "::/0", `, 1)
	c, problems := Parse([]byte(text), noEnv)
	require.Empty(t, problems)
	all := strings.Join(c.Warnings(), "\n")
	require.Regexp(t, `line \d+: relay.trusted_networks\[0\]: 0.0.0.0/0 lets everybody .* \(an open relay\): name only`, all)
	require.Contains(t, all, "::/0 lets everybody")
	c, _ = Parse([]byte(Default()), noEnv)
	require.NotContains(t, strings.Join(c.Warnings(), "\n"), "open relay")
}

func TestUnknownVariablesAreNamed(t *testing.T) {
	require.Empty(t, Unknown([]string{
		"PATH=/bin", "RELAY_NODE_ID=n1", "RELAY_RELAY_TRUSTED_NETWORKS=10.0.0.0/8", "RELAY_ADDR=x", "RELAY_TOKEN=x",
		"RELAY_TOKEN_FILE=x", "RELAY_CA=x",
		"RELAY_PORT=tcp://10.0.0.1:25", "RELAY_PORT_25_TCP=x", "RELAY_PORT_25_TCP_ADDR=x", "RELAY_SERVICE_HOST=x",
		"RELAY_SERVICE_PORT_SMTP=25",
		"RELAY_HEADLESS_SERVICE_HOST=x",
	}))
	all := Unknown([]string{"RELAY_TRUSTED_NETWORKS=10.0.0.0/8", "RELAY_NONSENSE=1"})
	require.Len(t, all, 2)
	require.Contains(t, all[0], "RELAY_NONSENSE overrides nothing")
	require.Contains(t, all[1], "perhaps RELAY_RELAY_TRUSTED_NETWORKS is meant")
}
