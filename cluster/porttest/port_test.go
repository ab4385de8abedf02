package porttest_test

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/porttest"
)

func TestNoPortIsGivenTwice(t *testing.T) {
	seen := map[string]bool{}
	for range 500 {
		addr := porttest.Addr(t, "127.0.0.1")
		require.False(t, seen[addr], addr)
		seen[addr] = true
	}
}

func TestPortsInARow(t *testing.T) {
	base := porttest.Base(t, 400)
	require.GreaterOrEqual(t, porttest.Base(t, 400), base-999, "another row, or the block's beginning")
	l, err := net.Listen("tcp", porttest.Addr(t, "127.0.0.1"))
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

// Tests that run side by side hold more than one block has.
func TestPortsAreHeldUntilTheTestEnds(t *testing.T) {
	var all []int
	blocks := map[int]bool{}
	t.Run("while it runs", func(t *testing.T) {
		for range 5 {
			base := porttest.Base(t, 400)
			for _, other := range all {
				require.GreaterOrEqual(t, max(base-other, other-base), 400, "two rows share ports")
			}
			all = append(all, base)
			blocks[base/1000] = true
		}
	})
	for range 5 {
		require.Contains(t, blocks, porttest.Base(t, 400)/1000, "they are free again")
	}
}

// TestProcessesShareNoPort runs this test a second time while this process
// holds its block.
func TestProcessesShareNoPort(t *testing.T) {
	mine := porttest.Addr(t, "127.0.0.1")
	if os.Getenv("PORTTEST_PRINT") != "" {
		t.Log("port " + mine)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestProcessesShareNoPort$", "-test.v")
	cmd.Env = append(os.Environ(), "PORTTEST_PRINT=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	_, theirs, found := strings.Cut(string(out), "port 127.0.0.1:")
	require.True(t, found, string(out))
	require.NotEqual(t, mine[len("127.0.0.1:"):][:2], theirs[:2], "another block")
}
