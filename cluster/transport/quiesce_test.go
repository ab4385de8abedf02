package transport

import (
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"relay/cluster/tuning"
)

// quietLog is a quiescence over a log that ends at index 7, led in term 3; what n2 knows
// is all of it.
func quietLog() (q *quiescence, done chan struct{}, last, term *atomic.Uint64) {
	done, last, term = make(chan struct{}), new(atomic.Uint64), new(atomic.Uint64)
	last.Store(7)
	term.Store(3)
	q = newQuiescence(done)
	q.longest = time.Second
	q.last = func() (uint64, error) { return last.Load(), nil }
	q.leads = func(t uint64) bool { return t == term.Load() }
	q.acknowledged("n2", empty(3, 7, 7))
	return q, done, last, term
}

func empty(term, end, commit uint64) *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{Term: term, PrevLogEntry: end, PrevLogTerm: term, LeaderCommitIndex: commit}
}

// TestCallsThatTellNothingAreKeptBack: and which ones go out at once.
func TestCallsThatTellNothingAreKeptBack(t *testing.T) {
	with := empty(3, 6, 6)
	with.Entries = []*raft.Log{{Index: 7, Term: 3}}
	for name, c := range map[string]struct {
		node string
		req  *raft.AppendEntriesRequest
		kept bool
	}{
		"all is known":                   {"n2", empty(3, 7, 7), true},
		"entries":                        {"n2", with, false},
		"a commit that is not known":     {"n2", empty(3, 7, 8), false},
		"the last is not committed":      {"n2", empty(3, 7, 6), false},
		"the follower's log is shorter":  {"n2", empty(3, 6, 6), false},
		"another term":                   {"n2", empty(4, 7, 7), false},
		"a follower that never answered": {"n3", empty(3, 7, 7), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q, _, _, _ := quietLog()
				began := time.Now()
				require.NoError(t, q.keep(c.node, c.req))
				want := time.Duration(0)
				if c.kept {
					want = q.longest
				}
				require.Equal(t, want, time.Since(began))
			})
		})
	}
}

// TestKeptCallsAreWoken by whatever may give the follower something to learn.
func TestKeptCallsAreWoken(t *testing.T) {
	for name, c := range map[string]struct {
		wake  func(q *quiescence, done chan struct{}, last, term *atomic.Uint64)
		after time.Duration
		err   error
	}{
		"an entry is stored": {func(q *quiescence, _ chan struct{}, last, _ *atomic.Uint64) {
			last.Store(8)
			q.look()
		}, 0, nil},
		"a call to it fails": {func(q *quiescence, _ chan struct{}, _, _ *atomic.Uint64) { q.forget("n2") }, 0, nil},
		"one to another fails": {func(q *quiescence, _ chan struct{}, _, _ *atomic.Uint64) { q.forget("n3") },
			time.Second / 2, nil},
		"the node stops": {func(_ *quiescence, done chan struct{}, _, _ *atomic.Uint64) { close(done) }, 0,
			tuning.ErrPastTerm},
		"its term ended": {func(q *quiescence, _ chan struct{}, _, term *atomic.Uint64) {
			term.Store(4)
			q.look()
		}, 0, tuning.ErrPastTerm},
		"its term ends in silence": {func(_ *quiescence, _ chan struct{}, _, term *atomic.Uint64) { term.Store(4) },
			time.Second / 2, tuning.ErrPastTerm},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q, done, last, term := quietLog()
				q.acknowledged("n3", empty(3, 7, 6))
				ended := make(chan error, 1)
				go func() { ended <- q.keep("n2", empty(3, 7, 7)) }()
				time.Sleep(q.longest / 2)
				c.wake(q, done, last, term)
				began := time.Now()
				require.ErrorIs(t, <-ended, c.err)
				require.Equal(t, c.after, time.Since(began))
			})
		})
	}
}

// TestKeptCallsTakeEntriesAlong: those of the call's own term, in order, as many as raft sends.
func TestKeptCallsTakeEntriesAlong(t *testing.T) {
	for name, c := range map[string]struct {
		terms []uint64 // of the entries from index 8 on
		sent  int
	}{
		"one":                    {[]uint64{3}, 1},
		"several":                {[]uint64{3, 3, 3}, 3},
		"of another leader":      {[]uint64{4, 4}, 0},
		"the second of another":  {[]uint64{3, 4, 4}, 1},
		"more than a call takes": {slices.Repeat([]uint64{3}, tuning.MaxGroup+5), tuning.MaxGroup},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q, _, last, _ := quietLog()
				q.entry = func(index uint64, to *raft.Log) error {
					*to = raft.Log{Index: index, Term: c.terms[index-8]}
					return nil
				}
				req, ended := empty(3, 7, 7), make(chan error, 1)
				go func() { ended <- q.keep("n2", req) }()
				synctest.Wait()
				last.Store(7 + uint64(len(c.terms)))
				q.look()
				require.NoError(t, <-ended)
				require.Len(t, req.Entries, c.sent)
				for i, e := range req.Entries {
					require.Equal(t, raft.Log{Index: 8 + uint64(i), Term: 3}, *e)
				}
			})
		})
	}
}
