package readyq

import (
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestIndexProperty compares the table's index with a map, also with hashes that are
// all alike in the parts that count.
func TestIndexProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		table := newTable()
		want := map[Ref]int32{}
		ref := rapid.Custom(func(rt *rapid.T) (r Ref) {
			r.ID[0] = rapid.ByteRange(0, 40).Draw(rt, "id")
			r.Recipient = uint32(rapid.IntRange(0, 3).Draw(rt, "recipient"))
			return r
		})
		rt.Repeat(map[string]func(*rapid.T){
			"add": func(rt *rapid.T) {
				r := ref.Draw(rt, "ref")
				if _, known := want[r]; !known {
					want[r], _ = table.add(r)
				}
			},
			"remove": func(rt *rapid.T) {
				if len(want) == 0 {
					rt.Skip()
				}
				all := slices.SortedFunc(maps.Keys(want), func(a, b Ref) int { return slices.Compare(a.ID[:], b.ID[:]) })
				r := rapid.SampledFrom(all).Draw(rt, "ref")
				table.remove(want[r])
				delete(want, r)
			},
			"": func(rt *rapid.T) {
				require.Equal(rt, len(want), table.index.n)
				r := ref.Draw(rt, "any")
				slot, ok := table.index.find(r, &table)
				known, there := want[r]
				require.Equal(rt, there, ok)
				require.Equal(rt, known, slot)
				for r, slot := range want {
					got, ok := table.index.find(r, &table)
					require.True(rt, ok)
					require.Equal(rt, slot, got)
				}
			},
		})
	})
}

// TestPartOfOneHash fills one part with cells of few hashes, at the end of the table and
// around it, and takes them out in any order.
func TestPartOfOneHash(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := &part{}
		var in []cell
		for i := range rapid.IntRange(1, 40).Draw(rt, "cells") {
			if 5*(p.n+1) > 4*len(p.cells) {
				p.grow()
			}
			c := cell{rapid.SampledFrom([]uint32{0, 1, 6, 7, 1<<32 - 1}).Draw(rt, "hash"), int32(i + 1)}
			p.put(c)
			p.n++
			in = append(in, c)
		}
		for len(in) > 0 {
			i := rapid.IntRange(0, len(in)-1).Draw(rt, "out")
			at := p.find(in[i].hash, func(slot int32) bool { return slot == in[i].slot-1 })
			require.GreaterOrEqual(rt, at, 0)
			p.remove(uint32(at))
			p.n--
			in = slices.Delete(in, i, i+1)
			for _, c := range in {
				require.GreaterOrEqual(rt, p.find(c.hash, func(slot int32) bool { return slot == c.slot-1 }), 0)
			}
		}
		require.Equal(rt, make([]cell, len(p.cells)), p.cells)
	})
}
