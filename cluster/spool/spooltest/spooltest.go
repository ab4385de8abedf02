package spooltest

import (
	"bytes"
	"errors"
	"fmt"
	"sort"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"relay/cluster/spool"
)

// Store is what the suite needs of an implementation.
type Store interface {
	// Update calls fn with a batch, and commits it where fn returns nil.
	Update(fn func(spool.Batch) error) error
	// View calls fn with the committed state.
	View(fn func(spool.Reader) error) error
}

// Run runs the suite. open makes an empty store, which the test cleans up.
func Run(t *testing.T, open func(t *testing.T) Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Store)
	}{
		{"absent and empty differ", absentAndEmpty},
		{"a batch reads what it wrote", readYourWrites},
		{"parts are joined", parts},
		{"keys and values are copied", copied},
		{"a failed batch leaves nothing", discarded},
		{"a batch is visible only after its commit", isolated},
		{"scan bounds and order", scanBounds},
		{"scan stops", scanStops},
		{"scan merges the batch into the store", scanMerges},
		{"reads inside a scan", readInScan},
		{"large values", largeValues},
		{"ranges are deleted", rangesDeleted},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
	t.Run("behaves like a sorted map", func(t *testing.T) { model(t, open) })
}

func set(t require.TestingT, s Store, pairs ...string) {
	require.NoError(t, s.Update(func(b spool.Batch) error {
		for i := 0; i < len(pairs); i += 2 {
			if err := b.Set([]byte(pairs[i]), []byte(pairs[i+1])); err != nil {
				return err
			}
		}
		return nil
	}))
}

func get(t require.TestingT, r spool.Reader, key string) string {
	v, err := r.Get([]byte(key))
	require.NoError(t, err)
	if v == nil {
		return "(none)"
	}
	return string(v)
}

func list(t require.TestingT, r spool.Reader, lo, hi []byte) []string {
	var all []string
	require.NoError(t, r.Scan(lo, hi, func(k, v []byte) bool {
		all = append(all, string(k)+"="+string(v))
		return true
	}))
	return all
}

func view(t require.TestingT, s Store, fn func(spool.Reader)) {
	require.NoError(t, s.View(func(r spool.Reader) error { fn(r); return nil }))
}

func update(t require.TestingT, s Store, fn func(spool.Batch)) {
	require.NoError(t, s.Update(func(b spool.Batch) error { fn(b); return nil }))
}

func absentAndEmpty(t *testing.T, s Store) {
	check := func(r spool.Reader) {
		v, err := r.Get([]byte("empty"))
		require.NoError(t, err)
		require.NotNil(t, v)
		require.Empty(t, v)
		v, err = r.Get([]byte("nil"))
		require.NoError(t, err)
		require.NotNil(t, v)
		v, err = r.Get([]byte("parts"))
		require.NoError(t, err)
		require.NotNil(t, v)
		v, err = r.Get([]byte("absent"))
		require.NoError(t, err)
		require.Nil(t, v)
		require.NoError(t, r.Scan([]byte("empty"), []byte("emptz"), func(_, v []byte) bool {
			require.Empty(t, v)
			return true
		}))
	}
	update(t, s, func(b spool.Batch) {
		require.NoError(t, b.Set([]byte("empty"), []byte{}))
		require.NoError(t, b.Set([]byte("nil"), nil))
		require.NoError(t, b.SetParts([]byte("parts")))
		check(b)
	})
	view(t, s, check)
}

func readYourWrites(t *testing.T, s Store) {
	set(t, s, "a", "1", "b", "2", "c", "3")
	update(t, s, func(b spool.Batch) {
		require.NoError(t, b.Set([]byte("a"), []byte("10")))
		require.Equal(t, "10", get(t, b, "a"))
		require.NoError(t, b.Set([]byte("a"), []byte("11")))
		require.Equal(t, "11", get(t, b, "a"))
		require.NoError(t, b.Delete([]byte("b")))
		require.Equal(t, "(none)", get(t, b, "b"))
		require.NoError(t, b.DeleteSized([]byte("c"), 1))
		require.Equal(t, "(none)", get(t, b, "c"))
		require.NoError(t, b.Set([]byte("c"), []byte("30")))
		require.Equal(t, "30", get(t, b, "c"))
		require.NoError(t, b.Delete([]byte("never there")))
		require.Equal(t, []string{"a=11", "c=30"}, list(t, b, nil, nil))
	})
	view(t, s, func(r spool.Reader) {
		require.Equal(t, []string{"a=11", "c=30"}, list(t, r, nil, nil))
		require.Equal(t, "(none)", get(t, r, "b"))
	})
}

func parts(t *testing.T, s Store) {
	update(t, s, func(b spool.Batch) {
		require.NoError(t, b.SetParts([]byte("k"), []byte("Re"), nil, []byte("ceived"), []byte(": x")))
		require.Equal(t, "Received: x", get(t, b, "k"))
	})
	view(t, s, func(r spool.Reader) { require.Equal(t, "Received: x", get(t, r, "k")) })
}

func copied(t *testing.T, s Store) {
	k, v, p := []byte("key"), []byte("value"), []byte("part")
	update(t, s, func(b spool.Batch) {
		require.NoError(t, b.Set(k, v))
		k[0], v[0] = 'X', 'X'
		require.NoError(t, b.SetParts([]byte("p"), p))
		p[0] = 'X'
		require.Equal(t, "value", get(t, b, "key"))
		require.Equal(t, "(none)", get(t, b, "Xey"))
	})
	view(t, s, func(r spool.Reader) {
		require.Equal(t, []string{"key=value", "p=part"}, list(t, r, nil, nil))
	})
}

func discarded(t *testing.T, s Store) {
	set(t, s, "a", "1")
	sorry := errors.New("sorry")
	require.ErrorIs(t, s.Update(func(b spool.Batch) error {
		require.NoError(t, b.Set([]byte("a"), []byte("2")))
		require.NoError(t, b.Set([]byte("b"), []byte("2")))
		return sorry
	}), sorry)
	update(t, s, func(b spool.Batch) { require.Equal(t, []string{"a=1"}, list(t, b, nil, nil)) })
	view(t, s, func(r spool.Reader) { require.Equal(t, []string{"a=1"}, list(t, r, nil, nil)) })
}

func isolated(t *testing.T, s Store) {
	update(t, s, func(b spool.Batch) {
		require.NoError(t, b.Set([]byte("a"), []byte("1")))
		view(t, s, func(r spool.Reader) { require.Equal(t, "(none)", get(t, r, "a")) })
	})
	view(t, s, func(r spool.Reader) { require.Equal(t, "1", get(t, r, "a")) })
}

func scanBounds(t *testing.T, s Store) {
	set(t, s, "a", "1", "ab", "2", "b", "3", "b\x00", "4", "b\xff", "5", "c", "6", "\xff\xff", "7")
	check := func(r spool.Reader) {
		require.Equal(t, []string{"ab=2", "b=3"}, list(t, r, []byte("ab"), []byte("b\x00")))
		require.Equal(t, []string{"b=3", "b\x00=4", "b\xff=5"}, list(t, r, []byte("b"), []byte("c")))
		require.Equal(t, []string{"c=6", "\xff\xff=7"}, list(t, r, []byte("b\xff\x00"), nil))
		require.Len(t, list(t, r, nil, nil), 7)
		require.Empty(t, list(t, r, []byte("b"), []byte("b")))
		require.Empty(t, list(t, r, []byte("c"), []byte("a")))
		require.Empty(t, list(t, r, []byte("d"), []byte("e")))
	}
	view(t, s, check)
	update(t, s, func(b spool.Batch) { check(b) })
}

func scanStops(t *testing.T, s Store) {
	set(t, s, "a", "1", "b", "2", "c", "3")
	check := func(r spool.Reader) {
		var seen []string
		require.NoError(t, r.Scan(nil, nil, func(k, _ []byte) bool {
			seen = append(seen, string(k))
			return len(seen) < 2
		}))
		require.Equal(t, []string{"a", "b"}, seen)
	}
	view(t, s, check)
	update(t, s, func(b spool.Batch) {
		require.NoError(t, b.Set([]byte("aa"), nil))
		require.NoError(t, b.Delete([]byte("b")))
		require.NoError(t, b.Set([]byte("b"), nil))
		require.NoError(t, b.Delete([]byte("aa")))
		check(b)
	})
}

func scanMerges(t *testing.T, s Store) {
	set(t, s, "b", "1", "d", "1", "f", "1", "h", "1")
	update(t, s, func(b spool.Batch) {
		for _, k := range []string{"a", "c", "d", "i"} {
			require.NoError(t, b.Set([]byte(k), []byte("2")))
		}
		require.NoError(t, b.Delete([]byte("f")))
		require.NoError(t, b.Delete([]byte("g")))
		require.Equal(t, []string{"a=2", "b=1", "c=2", "d=2", "h=1", "i=2"}, list(t, b, nil, nil))
		require.Equal(t, []string{"b=1", "c=2", "d=2"}, list(t, b, []byte("b"), []byte("h")))
		require.Equal(t, []string{"h=1", "i=2"}, list(t, b, []byte("e"), nil))
	})
}

func readInScan(t *testing.T, s Store) {
	set(t, s, "x1", "a", "x2", "b", "y1", "A", "y2", "B")
	check := func(r spool.Reader) {
		var got []string
		require.NoError(t, r.Scan([]byte("x"), []byte("y"), func(k, v []byte) bool {
			other := get(t, r, "y"+string(k[1:]))
			got = append(got, string(k)+string(v)+other)
			require.NoError(t, r.Scan([]byte("y"), nil, func(_, _ []byte) bool { return true }))
			return true
		}))
		require.Equal(t, []string{"x1aA", "x2bB"}, got)
	}
	view(t, s, check)
	update(t, s, func(b spool.Batch) {
		require.NoError(t, b.Set([]byte("x2"), []byte("b")))
		check(b)
	})
}

func rangesDeleted(t *testing.T, s Store) {
	set(t, s, "h1", "a", "h2", "b", "h3", "c", "h5", "d", "i", "e")
	gone := func(r spool.Reader) {
		require.Equal(t, []string{"h1=a", "h22=y", "h5=d", "i=e"}, list(t, r, nil, nil))
		require.Equal(t, []string{"h22=y"}, list(t, r, []byte("h2"), []byte("h5")))
		require.Equal(t, "(none)", get(t, r, "h2"))
		require.Equal(t, "(none)", get(t, r, "h4"))
		require.Equal(t, "y", get(t, r, "h22"))
	}
	update(t, s, func(b spool.Batch) {
		lo, hi := []byte("h2"), []byte("h5")
		require.NoError(t, b.Set([]byte("h22"), []byte("x")))
		require.NoError(t, b.Set([]byte("h4"), []byte("x")))
		require.NoError(t, b.DeleteRange(lo, hi))
		lo[1], hi[1] = 'X', 'X'
		require.Equal(t, []string{"h1=a", "h5=d", "i=e"}, list(t, b, nil, nil))
		require.NoError(t, b.Set([]byte("h22"), []byte("y")))
		gone(b)
	})
	view(t, s, gone)
	update(t, s, func(b spool.Batch) {
		gone(b)
		require.NoError(t, b.DeleteRange([]byte("h"), []byte("i")))
		require.NoError(t, b.DeleteRange([]byte("h3"), []byte("h3")))
		require.Equal(t, []string{"i=e"}, list(t, b, nil, nil))
	})
	view(t, s, func(r spool.Reader) { require.Equal(t, []string{"i=e"}, list(t, r, nil, nil)) })
}

func largeValues(t *testing.T, s Store) {
	big := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 200<<10+i) }
	for round := range 3 {
		update(t, s, func(b spool.Batch) {
			for i := range 10 {
				require.NoError(t, b.SetParts(fmt.Appendf(nil, "k%d%d", round, i), big(i)[:7], big(i)[7:]))
			}
			for i := range 10 {
				v, err := b.Get(fmt.Appendf(nil, "k%d%d", round, i))
				require.NoError(t, err)
				require.True(t, bytes.Equal(big(i), v))
			}
		})
	}
	view(t, s, func(r spool.Reader) {
		n := 0
		require.NoError(t, r.Scan([]byte("k"), nil, func(k, v []byte) bool {
			require.True(t, bytes.Equal(big(int(k[2]-'0')), v))
			n++
			return true
		}))
		require.Equal(t, 30, n)
	})
}

// model runs random batches against the store and a map.
func model(t *testing.T, open func(t *testing.T) Store) {
	s := open(t)
	want := map[string]string{}
	round := 0
	rapid.Check(t, func(r *rapid.T) {
		round++ // the store is kept from one check to the next: it only gets harder
		key := rapid.Custom(func(r *rapid.T) string {
			return string([]byte{byte(rapid.IntRange(1, 3).Draw(r, "kind"))}) +
				rapid.StringMatching(`[ab]{0,3}`).Draw(r, "rest")
		})
		staged := map[string]string{}
		for k, v := range want {
			staged[k] = v
		}
		keep := rapid.IntRange(0, 9).Draw(r, "keep") > 0
		dropped := errors.New("dropped")
		err := s.Update(func(b spool.Batch) error {
			for i := range rapid.IntRange(0, 20).Draw(r, "ops") {
				step(r, b, staged, key, fmt.Sprintf("%d.%d", round, i))
			}
			if keep {
				return nil
			}
			return dropped
		})
		if keep {
			require.NoError(r, err)
			want = staged
		} else {
			require.ErrorIs(r, err, dropped)
		}
		view(r, s, func(v spool.Reader) { same(r, v, want, nil, nil) })
	})
}

func step(r *rapid.T, b spool.Batch, m map[string]string, key *rapid.Generator[string], value string) {
	k := key.Draw(r, "key")
	switch rapid.IntRange(0, 6).Draw(r, "op") {
	case 0, 1:
		require.NoError(r, b.Set([]byte(k), []byte(value)))
		m[k] = value
	case 2:
		require.NoError(r, b.SetParts([]byte(k), []byte(value), []byte("+")))
		m[k] = value + "+"
	case 3:
		require.NoError(r, b.DeleteSized([]byte(k), len(m[k])))
		delete(m, k)
	case 4:
		want, ok := m[k]
		if !ok {
			want = "(none)"
		}
		require.Equal(r, want, get(r, b, k))
	case 5:
		lo, hi := []byte(k), []byte(key.Draw(r, "hi"))
		if rapid.Bool().Draw(r, "open end") {
			hi = nil
		}
		same(r, b, m, lo, hi)
	case 6:
		hi := k[:1] + rapid.StringMatching(`[ab]{0,3}`).Draw(r, "end")
		if rapid.Bool().Draw(r, "all behind") {
			hi = string([]byte{k[0] + 1})
		}
		require.NoError(r, b.DeleteRange([]byte(k), []byte(hi)))
		for one := range m {
			if one >= k && one < hi {
				delete(m, one)
			}
		}
	}
}

func same(t require.TestingT, r spool.Reader, m map[string]string, lo, hi []byte) {
	var want []string
	for k, v := range m {
		if k >= string(lo) && (hi == nil || k < string(hi)) {
			want = append(want, k+"="+v)
		}
	}
	// By key and not by line: a key may be the beginning of another.
	sort.Slice(want, func(i, j int) bool { return keyOf(want[i]) < keyOf(want[j]) })
	if diff := cmp.Diff(want, list(t, r, lo, hi)); diff != "" {
		require.Fail(t, "scan differs", diff)
	}
}

func keyOf(line string) string { return line[:bytes.IndexByte([]byte(line), '=')] }
