package config

import (
	"fmt"
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
	c, _ = Parse([]byte(Default()), env("RELAY_RELAY_TRUSTED_NETWORKS", "10.0.0.0/8,0.0.0.0/0"))
	require.Equal(t, []string{"relay.trusted_networks[1]: 0.0.0.0/0 lets everybody on the internet send through this " +
		"node (an open relay): name only your own networks, such as 10.0.0.0/8 (set by RELAY_RELAY_TRUSTED_NETWORKS)"},
		c.Warnings())
}

// A balancer that anybody may claim to be is warned of at each kind of listener.
func TestProxiesThatEverybodyIsAreWarnedOf(t *testing.T) {
	text := strings.ReplaceAll(Default(), `# proxy_protocol = ["10.0.0.0/8"]`, `proxy_protocol = ["0.0.0.0/0"]`)
	text = strings.Replace(text, "# [[pop2]]", "[[pop2]]", 1)
	text = strings.Replace(text, `# listen = "127.0.0.1:109"`, `listen = "127.0.0.1:109"`, 1)
	c, problems := Parse([]byte(text), noEnv)
	require.Empty(t, problems)
	all := strings.Join(c.Warnings(), "\n")
	for _, listener := range []string{"smtp", "pop3", "pop2"} {
		require.Regexp(t, `line \d+: `+listener+`\[0\].proxy_protocol\[0\]: 0.0.0.0/0 lets everybody .*: name only`, all)
	}
}

// A validating server that is never asked is warned of; an address that is no server's is a mistake.
func TestServersThatAreBelieved(t *testing.T) {
	with := func(servers, trusted string) (*Config, []Problem) {
		text := strings.Replace(Default(), "dns_servers = []", "dns_servers = "+servers, 1)
		return Parse([]byte(strings.Replace(text, "# trust_ad = []", "trust_ad = "+trusted, 1)), noEnv)
	}
	c, problems := with(`["192.0.2.1:5353", "2001:db8::1"]`, `["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"]`)
	require.Empty(t, problems)
	require.Empty(t, c.Warnings())
	c, _ = with(`["192.0.2.1:5353"]`, `["192.0.2.2"]`)
	require.Contains(t, strings.Join(c.Warnings(), "\n"), "192.0.2.2 is none of delivery.dns_servers")
	c, _ = with(`[]`, `["192.0.2.2"]`)
	require.Empty(t, c.Warnings(), "the system's servers are not known here")
	_, problems = with(`[]`, `["0.0.0.0"]`)
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].String(), "0.0.0.0 is not the address of a name server")
}

// Postfix's mynetworks names IPv4 networks as IPv6 has them, and in brackets.
func TestNetworksAsPostfixHasThem(t *testing.T) {
	with := func(list string) (*Config, []Problem) {
		return Parse([]byte(strings.Replace(Default(), `["127.0.0.1/32", "::1/128"]`, list, 1)), noEnv)
	}
	c, problems := with(`["::ffff:10.0.0.0/104", "::ffff:192.0.2.1", "::1"]`)
	require.Empty(t, problems)
	require.Equal(t, "[10.0.0.0/8 192.0.2.1/32 ::1/128]", fmt.Sprint(c.Relay.TrustedNetworks))
	c, _ = with(`["::ffff:0.0.0.0/96"]`)
	require.Contains(t, strings.Join(c.Warnings(), "\n"), "open relay")
	_, problems = with(`["[::1]/128"]`)
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].String(), "did you mean ::1/128?")
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
