package deploy

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"relay/node/config"
)

func TestSampleIsWhatTheProgramPrints(t *testing.T) {
	sample, err := os.ReadFile("relay.toml")
	require.NoError(t, err)
	require.Equal(t, config.Default(), string(sample), "copy what 'relayd config default' prints to deploy/relay.toml")
	parses(t, sample, nil)
}

func TestComposeConfiguration(t *testing.T) {
	data, err := os.ReadFile("compose/compose.yaml")
	require.NoError(t, err)
	var compose struct {
		Services map[string]struct{ Environment map[string]string }
	}
	require.NoError(t, yaml.Unmarshal(data, &compose))
	file, err := os.ReadFile("compose/relay.toml")
	require.NoError(t, err)
	for _, id := range []string{"n1", "n2", "n3"} {
		c := parses(t, file, compose.Services[id].Environment)
		require.Equal(t, id, c.Node.ID)
		require.Equal(t, id+":7170", c.Cluster.Advertise)
		require.Len(t, c.Cluster.Join, 2, "n1 makes the cluster where no other answers, the others join")
	}
}

func parses(t *testing.T, file []byte, env map[string]string) *config.Config {
	t.Helper()
	c, problems := config.Parse(file, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	require.Empty(t, problems)
	return c
}

// Without netlink a node cannot learn its addresses, and mail by MX waits.
func TestUnitAllowsWhatTheProgramNeeds(t *testing.T) {
	unit, err := os.ReadFile("systemd/relay.service")
	require.NoError(t, err)
	require.Regexp(t, `(?m)^RestrictAddressFamilies=.*\bAF_NETLINK\b`, string(unit))
}
