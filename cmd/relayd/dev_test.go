package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/node/config"
)

func none(string) bool { return false }

func TestPlanFollowsTheNumbering(t *testing.T) {
	p := &plan{Listen: "127.0.0.1", Nodes: 3, BasePort: 12000}
	for s, port := range map[service]int{
		portSMTP: 12225, portSubmission: 12287, portSubmissions: 12265,
		portPOP3: 12210, portPOP3S: 12295, portAdmin: 12280, portCluster: 12270,
	} {
		require.Equal(t, port, p.port(2, s))
	}
	require.Equal(t, "127.0.0.1:12025", p.sink())
}

func TestPlanIsFoundAgain(t *testing.T) {
	dir := t.TempDir()
	p, err := loadPlan(devOptions{dir: dir, listen: "127.0.0.1", nodes: 5, basePort: 14000}, none)
	require.NoError(t, err)
	require.NoError(t, p.save())
	again, err := loadPlan(devOptions{dir: dir, listen: "127.0.0.1", nodes: 3, basePort: 12000}, none)
	require.NoError(t, err)
	require.Equal(t, p, again, "the directory rules over defaults")
	_, err = loadPlan(devOptions{dir: dir, nodes: 3, basePort: 14000}, func(f string) bool { return f == "nodes" })
	require.ErrorContains(t, err, "leave --nodes out")
	_, err = loadPlan(devOptions{dir: dir, nodes: 5, basePort: 12000}, func(f string) bool { return f == "base-port" })
	require.ErrorContains(t, err, "leave --base-port out")
}

func TestDevConfigurations(t *testing.T) {
	p := &plan{Dir: t.TempDir(), Listen: "127.0.0.1", Nodes: 3, BasePort: 12000}
	require.NoError(t, writeCertificate(p.path("tls.crt"), p.path("tls.key"), p.path("ca.pem"), []string{"localhost"}))
	for node := 1; node <= p.Nodes; node++ {
		require.NoError(t, p.writeConfig(node))
		require.NoError(t, makeToken(p.path("admin.token"), devToken))
		c, err := config.Load(p.config(node))
		require.NoError(t, err)
		require.Equal(t, p.nodeDir(node), c.Node.DataDir)
		require.Equal(t, p.path("admin.token"), c.TokenPath())
		require.Equal(t, p.addr(node, portCluster), c.Cluster.Advertise)
		require.NoError(t, onlyLoopback(p.config(node)))
		require.True(t, c.Delivery.LoopbackHops)
		for _, l := range c.POP3 {
			require.Equal(t, config.NewPOP3().UIDBeyondSnapshot, l.UIDBeyondSnapshot, "a trial is of what everybody gets")
		}
	}
}

func TestDevKeepsAnEditedFileOnLoopback(t *testing.T) {
	p := &plan{Dir: t.TempDir(), Listen: "127.0.0.1", Nodes: 1, BasePort: 12000}
	require.NoError(t, os.MkdirAll(p.nodeDir(1), 0o755))
	require.NoError(t,
		writeFile(p.config(1),
			[]byte("[node]\nid = \"n1\"\nhostname = \"n1\"\n[cluster]\nlisten = \"127.0.0.1:1\"\n[[pop3]]\n"+
				"listen = \"0.0.0.0:110\"\ntls = \"none\"\n"), 0o644))
	require.ErrorContains(t, p.writeConfig(1), "0.0.0.0:110")
}

func TestChildEnvironment(t *testing.T) {
	require.Equal(t, []string{"PATH=/bin", "GOGC=50"},
		childEnv([]string{"PATH=/bin", "RELAY_ADMIN_LISTEN=0.0.0.0:80", "NOTIFY_SOCKET=/x", "GOGC=50"}))
}

func TestLastLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	require.Empty(t, lastLine(file))
	require.NoError(t, os.WriteFile(file, []byte("first\nsecond\n\n"), 0o600))
	require.Equal(t, "second", lastLine(file))
}
