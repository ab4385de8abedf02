package disk

import (
	"bytes"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
)

// summingToy sums what it does, in the way of one build.
type summingToy struct {
	*toy
	build uint64
}

func (s summingToy) Sum() (uint64, bool) { return s.chain + s.build, true }

func (s summingToy) Resume(uint64) {}

func loadSumming(build uint64) func(spool.Reader) (Machine, error) {
	return func(r spool.Reader) (Machine, error) {
		m, err := loadToy(r)
		if err != nil {
			return nil, err
		}
		return summingToy{m.(*toy), build}, nil
	}
}

// TestDroppedSnapshotThatContradictsIsFatal: a snapshot that a leader sends and this
// node has already is compared before it is dropped.
func TestDroppedSnapshotThatContradictsIsFatal(t *testing.T) {
	logs := func(term uint64, commands ...string) (all []*raft.Log) {
		for i, c := range commands {
			all = append(all, command(term, uint64(i+1), c))
		}
		return all
	}
	terms := func(all ...uint64) func(uint64) (uint64, bool) {
		return func(i uint64) (uint64, bool) {
			if i == 0 || i > uint64(len(all)) {
				return 0, false
			}
			return all[i-1], true
		}
	}
	agreed := logs(3, "set a 1", "set a 2", "set a 3")
	for _, c := range []struct {
		name  string
		here  []*raft.Log
		terms func(uint64) (uint64, bool)
		sent  []*raft.Log
		build uint64
		bad   string
	}{
		{"older, of the same history", agreed, terms(3, 3, 3), agreed[:2], 0, ""},
		{"the same", agreed, terms(3, 3, 3), agreed, 0, ""},
		{"older, and the log begins later", agreed, terms(), agreed[:1], 0, ""},
		{"the same, summed by another build", agreed, terms(3, 3, 3), agreed, 1, ""},
		{"of a later term", agreed, terms(), logs(4, "set a 1", "set a 9"), 0, "entry 3 is applied in term 3"},
		{"the log has another term there", agreed, terms(3, 3, 3), logs(2, "set a 1", "set a 9"), 0,
			"that entry is of term 3"},
		{"the last entry has another term", agreed, nil, logs(2, "set a 1", "set a 2", "set a 9"), 0,
			"that entry is of term 3"},
		{"one entry, two states", agreed, terms(3, 3, 3), logs(3, "set a 1", "set a 2", "set a 9"), 0,
			"whose state is another than here"},
	} {
		t.Run(c.name, func(t *testing.T) {
			from := openStore(t, vfs.NewMem(), "leader", func(o *Options) { o.Load = loadSumming(c.build) })
			from.ApplyBatch(c.sent)
			m, b := stream(t, from)
			var fatal error
			s := openStore(t, vfs.NewMem(), "s", func(o *Options) {
				o.Load, o.TermAt = loadSumming(0), c.terms
				o.Fatal = func(err error) { fatal = err }
			})
			s.ApplyBatch(c.here)
			err := receive(s, m, bytes.NewReader(b))
			if c.bad == "" {
				require.NoError(t, err)
				require.NoError(t, fatal)
				require.Equal(t, "3", value(t, s, "a"))
				return
			}
			require.ErrorContains(t, err, c.bad)
			require.Equal(t, err, fatal)
			require.Equal(t, []any{err}, s.ApplyBatch([]*raft.Log{command(4, 9, "set b 1")}), "it does not go on")
		})
	}
}
