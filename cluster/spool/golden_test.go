package spool_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	"relay/cluster/spool/goldentest"
)

// TestGoldenLogs: logs of the last build of version 1 lead to the state and the
// answers that they led to there.
func TestGoldenLogs(t *testing.T) {
	logs, err := goldentest.Read("testdata/v1")
	require.NoError(t, err)
	kinds := map[spool.Kind]bool{}
	for _, l := range logs {
		var log []entry
		for _, e := range l.Entries {
			log = append(log, entry{e.Index, e.Frame})
			kinds[e.Frame.Kind()] = true
		}
		for name, ends := range map[string]func(int) bool{
			"one by one": func(int) bool { return true },
			"in batches": func(i int) bool { return i%17 == 0 },
		} {
			store, results := play(t, log, ends, false)
			for i, r := range results {
				require.Equal(t, l.Answers[i], goldentest.Answer(log[i].index, r), "%s, %s", l.Name, name)
			}
			require.Equal(t, l.State, store.Sum(), "%s, %s: the state", l.Name, name)
		}
	}
	for k := range 255 {
		if kind := spool.Kind(k); spool.FirstVersion(kind) == 1 && kind != spool.KindRaise {
			require.True(t, kinds[kind], "no golden log has a %s", kind)
		}
	}
}
