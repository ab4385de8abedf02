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
	fake := func(name string, rival bool, values ...float64) side {
		return side{
			name: name, rival: rival,
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
		{name: "rate", unit: "msg/s", work: 1000, sides: []side{
			fake("a", false, 5, 300, 100, 200), fake("b", true, 5, 100, 100, 80)}},
		{name: "latency", unit: "ms", less: true, sides: []side{fake("a", false, 9, 1, 2, 3), fake("b", true, 9, 4, 4, 4)}},
		{name: "alone", unit: "msg/s", sides: []side{fake("a", false, 1, 7, 8, 9)}},
		{name: "idle", unit: "ms/s", less: true, cold: true, sides: []side{
			fake("a", false, 12, 12, 12), fake("b", true, 24, 24, 24), fake("c", true, 6, 6, 6)}},
	}
	var out bytes.Buffer
	require.NoError(t, table(t.Context(), &out, io.Discard, rows, 3))
	require.Equal(t, "ab"+"abbaab"+"ab"+"abbaab"+"aaaa"+"abcbcacab", strings.Join(order, ""))
	require.Regexp(t, `^\| load \| a \| b \| c \| unit \| ratio \| CPU ratio \|
\|---\|---\|---\|---\|---\|---\|---\|
\| rate \| 200\.0 · \d\.\d{3} \| 100\.0 · \d\.\d{3} \| – \| msg/s \| 2\.50× \| \S+ \|
\| latency \| 2\.00 \| 4\.00 \| – \| ms \| 2\.00× \| – \|
\| alone \| 8\.00 \| – \| – \| msg/s \| – \| – \|
\| idle \| 12\.0 \| 24\.0 \| 6\.00 \| ms/s \| 0\.50× \| – \|

All rows are of one run\. Best row: rate, 2\.50×\. Worst row: idle, 0\.50×\.
$`, out.String())
}

func TestCPURatio(t *testing.T) {
	r := row{name: "x", unit: "msg/s", work: 1000, sides: []side{{name: "a"}, {name: "b", rival: true}}}
	var out strings.Builder
	to, rivals := r.print(&out, []string{"a", "b"}, [][]result{
		{{value: 10, cpu: 0.2}, {value: 30, cpu: 0.3}, {value: 20, cpu: 0.1}},
		{{value: 10, cpu: 0.4}, {value: 10, cpu: 0.5}, {value: 10, cpu: 0.1}},
	})
	require.Equal(t, "| x | 20.0 · 0.200 | 10.0 · 0.400 | msg/s | 2.00× | 0.600 |\n", out.String())
	require.Equal(t, ratio{"x", 2}, to)
	require.True(t, rivals)
}

func TestSizes(t *testing.T) {
	sizes, err := parseSizes("3,1")
	require.NoError(t, err)
	require.Equal(t, []int{3, 1}, sizes)
	for _, bad := range []string{"", "2", "3,", "3,3", "x"} {
		_, err := parseSizes(bad)
		require.ErrorContains(t, err, "-nodes wants 1, 3 or 5", bad)
	}
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
		{bench{
			n: 10, logins: 1, cluster: &cluster{nodes: 3}, others: []*cluster{{nodes: 1}}, postfix: &postfix{}, exim: &exim{},
		}, 4},
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
