package main

import (
	"bufio"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// burn is a shell command that uses some CPU time, at least 50 ms anywhere.
const burn = `i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done`

// TestCPUOfDescendants burns CPU time in a child that has ended and in a
// grandchild that lives on.
func TestCPUOfDescendants(t *testing.T) {
	for _, test := range []struct{ name, script string }{
		{"ended child", `(` + burn + `); echo done; cat`},
		{"living grandchild", `sh -c '` + burn + `; echo done; cat'; true`},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := exec.Command("sh", "-c", test.script)
			in, err := cmd.StdinPipe()
			require.NoError(t, err)
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			defer func() { _ = in.Close(); _ = cmd.Wait() }()
			_, err = bufio.NewReader(out).ReadString('\n')
			require.NoError(t, err)
			cpu, err := treeCPU(cmd.Process.Pid)
			require.NoError(t, err)
			require.Greater(t, cpu, 40*time.Millisecond)
		})
	}
	_, err := treeCPU(1 << 30)
	require.ErrorContains(t, err, "is gone")
}

func TestParseStat(t *testing.T) {
	pid, p, err := parseStat("42 (a ) b (c) S 7 5082 2250 0 -1 4194304 101 0 0 0 100 20 3 4 20 0 1 0 22604 3133440")
	require.NoError(t, err)
	require.Equal(t, 42, pid)
	require.Equal(t, process{parent: 7, cpu: 1270 * time.Millisecond}, p)
	for _, bad := range []string{"", "42", "42 (x) S 7", "42 (x) S 7 0 0 0 0 0 0 0 0 0 one 0 0 0 0"} {
		_, _, err := parseStat(bad)
		require.Error(t, err, "%q", bad)
	}
}
