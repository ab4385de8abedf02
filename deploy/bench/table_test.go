package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTurns lets two sides take a load in turns after one that does not count, and wants
// medians, and medians of the rounds' ratios.
func TestTurns(t *testing.T) {
	var order []string
	fake := func(name string, values ...float64) side {
		return side{
			root: func() (int, error) { return os.Getpid(), nil },
			load: func(context.Context) (float64, error) {
				order = append(order, name)
				v := values[0]
				values = values[1:]
				return v, nil
			},
		}
	}
	rows := []row{
		{name: "rate", unit: "msg/s", work: 1000, sides: []side{fake("a", 5, 300, 100, 200), fake("b", 5, 100, 100, 80)}},
		{name: "latency", unit: "ms", less: true, sides: []side{fake("a", 9, 1, 2, 3), fake("b", 9, 4, 4, 4)}},
		{name: "alone", unit: "msg/s", sides: []side{fake("a", 1, 7, 8, 9)}},
	}
	var out bytes.Buffer
	require.NoError(t, table(t.Context(), &out, io.Discard, rows, 3, "this", "former"))
	require.Equal(t, "ab"+"abbaab"+"ab"+"abbaab"+"aaaa", strings.Join(order, ""))
	lines := strings.Split(out.String(), "\n")
	require.Len(t, lines, 5)
	require.Equal(t, []string{
		"load", "this", "CPU", "s/1,000", "former", "CPU", "s/1,000", "unit", "ratio", "CPU", "ratio",
	}, strings.Fields(lines[0]))
	rate := strings.Fields(lines[1])
	require.Equal(t, []string{"rate", "200.0"}, rate[:2])
	require.Equal(t, []string{"msg/s", "2.50×"}, rate[5:7])
	require.Equal(t, []string{"latency", "2.0", "–", "4.0", "–", "ms", "2.00×", "–"}, strings.Fields(lines[2]))
	require.Equal(t, []string{"alone", "8.0", "–", "–", "–", "msg/s", "–", "–"}, strings.Fields(lines[3]))
}

func TestCPURatio(t *testing.T) {
	r := row{name: "x", unit: "msg/s", work: 1000}
	var out strings.Builder
	r.print(&out, [][]result{
		{{value: 10, cpu: 0.2}, {value: 30, cpu: 0.3}, {value: 20, cpu: 0.1}},
		{{value: 10, cpu: 0.4}, {value: 10, cpu: 0.5}, {value: 10, cpu: 0.1}},
	})
	require.Equal(t, "x\t20.0\t0.200\t10.0\t0.400\tmsg/s\t2.00×\t0.600\t\n", out.String())
}

func TestFormerBinary(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	require.NoError(t, os.WriteFile(plain, nil, 0o644))
	for _, path := range []string{plain, plain + ".none", t.TempDir()} {
		_, err := formerBinary(path)
		require.ErrorContains(t, err, "-with wants a relayd")
	}
	require.NoError(t, os.Chmod(plain, 0o755))
	path, err := formerBinary(plain)
	require.NoError(t, err)
	require.Equal(t, plain, path)
	for cgo, want := range map[string]bool{"0": false, "1": true} {
		built := &buildinfo.BuildInfo{Settings: []debug.BuildSetting{{Key: "CGO_ENABLED", Value: cgo}}}
		require.Equal(t, want, usesCgo(built))
	}
}

// TestRows wants one side without peers, and two with a former build, in every row.
func TestRows(t *testing.T) {
	for _, test := range []struct {
		b     bench
		sides int
	}{
		{bench{n: 10, logins: 1, cluster: &cluster{nodes: 1}}, 1},
		{bench{n: 10, logins: 1, cluster: &cluster{nodes: 3}, former: &cluster{nodes: 3}}, 2},
		{bench{n: 10, logins: 1, cluster: &cluster{nodes: 3}, postfix: &postfix{}}, 2},
	} {
		var names []string
		for _, r := range test.b.rows() {
			names = append(names, r.name)
			if test.b.postfix == nil || !strings.HasPrefix(r.name, "POP3") {
				require.Len(t, r.sides, test.sides, r.name)
			}
		}
		require.Contains(t, names, "accept 4 KiB, one session")
		require.Contains(t, names, "accept 4 KiB, 20 at once, a connection per message")
	}
	require.True(t, wanted("accept 4 KiB", "POP3,accept"))
	require.False(t, wanted("accept 4 KiB", "POP3"))
}

func TestMetric(t *testing.T) {
	text := "# HELP a help\na_more 1\na{x=\"y\"} 2\na 3.5e+06\n"
	v, err := metric(strings.NewReader(text), "a")
	require.NoError(t, err)
	require.InDelta(t, 3.5e6, v, 0)
	_, err = metric(strings.NewReader(text), "b")
	require.ErrorContains(t, err, "no metric b")
}
