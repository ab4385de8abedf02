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
	one, other := porttest.Base(t, 400), porttest.Base(t, 400)
	require.GreaterOrEqual(t, max(one-other, other-one), 400, "two rows share ports")
	l, err := net.Listen("tcp", porttest.Addr(t, "127.0.0.1"))
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

// Tests that run side by side hold more than one block has.
func TestPortsAreHeldUntilTheTestEnds(t *testing.T) {
	var all []int
	before := porttest.Held()
	t.Run("while it runs", func(t *testing.T) {
		for range 5 {
			base := porttest.Base(t, 400)
			for _, other := range all {
				require.GreaterOrEqual(t, max(base-other, other-base), 400, "two rows share ports")
			}
			all = append(all, base)
		}
		require.Equal(t, before+5*400, porttest.Held())
	})
	require.Equal(t, before, porttest.Held(), "they are free again")
}

// TestStrangersInABlock: where others listen in a block of ours, another one is found.
func TestStrangersInABlock(t *testing.T) {
	full := porttest.Base(t, 1) / 1000 * 1000
	free := porttest.TakeBehind(t, full, 400)
	require.NotEqual(t, full, free/1000*1000)
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
