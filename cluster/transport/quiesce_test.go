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

// TestNothingIsKeptWhileTheLeadershipMoves: a call that waits goes out, and the next ones do
// not wait, though they tell nothing, or only that renewals are committed.
func TestNothingIsKeptWhileTheLeadershipMoves(t *testing.T) {
	for name, commit := range map[string]uint64{"it tells nothing": 7, "it tells of renewals": 6} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q, _, _, _ := quietLog()
				q.entry = func(index uint64, to *raft.Log) error {
					*to = raft.Log{Index: index, Term: 3}
					return nil
				}
				q.petty = func(*raft.Log) bool { return true }
				q.acknowledged("n2", empty(3, 7, commit))
				began, ended := time.Now(), make(chan error, 1)
				go func() { ended <- q.keep("n2", empty(3, 7, 7)) }()
				synctest.Wait()
				done := q.hurry()
				require.NoError(t, <-ended)
				require.NoError(t, q.keep("n2", empty(3, 7, 7)))
				require.Zero(t, time.Since(began))
				done()
				require.NoError(t, q.keep("n2", empty(3, 7, 7)))
				require.Equal(t, q.longest, time.Since(began))
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

// TestCommitsOfRenewalsWait for the next entry, or until somebody at a follower waits for them.
func TestCommitsOfRenewalsWait(t *testing.T) {
	const told, end = 7, 9
	for name, c := range map[string]struct {
		petty  []uint64
		commit uint64 // as raft wrote it into the call
		during func(q *quiescence, last *atomic.Uint64)
		after  time.Duration
		says   uint64 // what the call says in the end
	}{
		"nobody waits":                     {[]uint64{8, 9}, 9, nil, time.Second, 9},
		"they are not committed yet":       {[]uint64{8, 9}, 7, nil, time.Second, 9},
		"one is no renewal":                {[]uint64{9}, 9, nil, 0, 9},
		"the last is no renewal":           {[]uint64{8}, 9, nil, 0, 9},
		"no renewal that is not committed": {[]uint64{8}, 7, nil, 0, 7},
		"somebody waits for what is told": {[]uint64{8, 9}, 9, func(q *quiescence, _ *atomic.Uint64) { q.want(told) },
			time.Second, 9},
		"somebody waits for the first": {[]uint64{8, 9}, 9, func(q *quiescence, _ *atomic.Uint64) { q.want(8) },
			time.Second / 2, 9},
		"the next entry": {[]uint64{8, 9}, 7, func(q *quiescence, last *atomic.Uint64) {
			last.Store(10)
			q.look()
		}, time.Second / 2, 9},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q, _, last, _ := quietLog()
				last.Store(end)
				q.commit = func() uint64 { return end }
				q.entry = func(index uint64, to *raft.Log) error {
					*to = raft.Log{Index: index, Term: 3}
					return nil
				}
				q.petty = func(e *raft.Log) bool { return slices.Contains(c.petty, e.Index) }
				if c.during != nil {
					time.AfterFunc(q.longest/2, func() { c.during(q, last) })
				}
				began, req := time.Now(), empty(3, end, c.commit)
				require.NoError(t, q.keep("n2", req))
				require.Equal(t, c.after, time.Since(began))
				require.Equal(t, c.says, req.LeaderCommitIndex)
				require.Len(t, req.Entries, int(last.Load()-end))
			})
		})
	}
}

// TestSomebodyWaitsBeforeTheCall: the index that a reader waits for is not forgotten before it is told.
func TestSomebodyWaitsBeforeTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, _, last, _ := quietLog()
		last.Store(8)
		q.entry = func(uint64, *raft.Log) error { return nil }
		q.petty = func(*raft.Log) bool { return true }
		q.want(8)
		began := time.Now()
		require.NoError(t, q.keep("n2", empty(3, 8, 8)))
		require.Zero(t, time.Since(began))
		q.acknowledged("n2", empty(3, 8, 8))
		last.Store(9)
		require.NoError(t, q.keep("n2", empty(3, 9, 9)))
		require.Equal(t, q.longest, time.Since(began), "nobody waits for the next one")
	})
}
