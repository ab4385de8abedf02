package transport

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"relay/cluster/datadir"
)

// sentAhead is a leader in term 3 whose follower n2 takes a second for each call, and has
// acknowledged index 7.
type sentAhead struct {
	*ahead
	mu    sync.Mutex
	calls []*raft.AppendEntriesRequest
	most  int // calls at a time
	now   int
	fails error
}

func newSentAhead(t *testing.T) *sentAhead {
	s := &sentAhead{ahead: newAhead()}
	s.leads, s.commit = func(term uint64) bool { return term == 3 }, func() uint64 { return 6 }
	s.send = func(_ raft.ServerID, _ raft.ServerAddress, req *raft.AppendEntriesRequest,
		resp *raft.AppendEntriesResponse) error {
		s.mu.Lock()
		s.calls, s.now = append(s.calls, req), s.now+1
		s.most = max(s.most, s.now)
		s.mu.Unlock()
		time.Sleep(time.Second)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.now--
		resp.Term, resp.Success = req.Term, s.fails == nil
		return s.fails
	}
	_, err := s.raft(empty(3, 7, 7))
	require.NoError(t, err)
	s.calls = nil
	return s
}

// raft is a call of raft's.
func (s *sentAhead) raft(req *raft.AppendEntriesRequest) (resp raft.AppendEntriesResponse, err error) {
	err = s.call("n2", "n2@", req, &resp, func(string, *raft.AppendEntriesRequest) error { return nil })
	return resp, err
}

func commands(term uint64, from, to uint64) (all []*raft.Log) {
	for i := from; i <= to; i++ {
		all = append(all, &raft.Log{Index: i, Term: term, Type: raft.LogCommand})
	}
	return all
}

func withEntries(req *raft.AppendEntriesRequest, all []*raft.Log) *raft.AppendEntriesRequest {
	req.Entries = all
	return req
}

// TestACommitTakesOneSync: entries go out while they are written here, and raft gets that
// call's answer, whatever it comes with: the same entries, more of them, or none as it has
// not heard of them.
func TestACommitTakesOneSync(t *testing.T) {
	entries := commands(3, 8, 9)
	for name, req := range map[string]*raft.AppendEntriesRequest{
		"the same": withEntries(empty(3, 7, 7), entries),
		"more":     withEntries(empty(3, 7, 7), commands(3, 8, 12)),
		"none":     empty(3, 7, 7),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSentAhead(t)
				began := time.Now()
				require.True(t, s.ours(entries))
				s.offer(entries)
				time.Sleep(990 * time.Millisecond) // they are written here
				resp, err := s.raft(req)
				require.NoError(t, err)
				require.True(t, resp.Success)
				require.Equal(t, time.Second, time.Since(began), "not two")
				require.Len(t, s.calls, 1)
				require.Equal(t, entries, req.Entries, "raft reads there what was sent")
				require.Equal(t, uint64(6), s.calls[0].LeaderCommitIndex)
				require.Equal(t, uint64(7), s.calls[0].PrevLogEntry)
				require.Equal(t, datadir.Mark{Term: 3, Index: 9}, s.lanes["n2"].end)
			})
		})
	}
}

// TestWhatIsNotSentAhead: what raft has to send itself.
func TestWhatIsNotSentAhead(t *testing.T) {
	change := commands(3, 8, 8)
	change[0].Type = raft.LogConfiguration
	for name, c := range map[string]struct {
		entries []*raft.Log
		do      func(s *sentAhead)
	}{
		"none":                            {nil, nil},
		"a change of the members":         {change, nil},
		"entries of a term led elsewhere": {commands(4, 8, 8), nil},
		"entries of two terms":            {append(commands(3, 8, 8), commands(4, 9, 9)...), nil},
		"more than a call takes":          {commands(3, 8, 8+200), nil},
		"a follower that lags":            {commands(3, 9, 9), nil},
		"a call is under way": {commands(3, 8, 8), func(s *sentAhead) {
			go func() { _, _ = s.raft(empty(3, 7, 7)) }()
			synctest.Wait()
		}},
		"the last call failed": {commands(3, 8, 8), func(s *sentAhead) {
			s.fails = errors.New("down")
			_, _ = s.raft(empty(3, 7, 7))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSentAhead(t)
				if c.do != nil {
					c.do(s)
				}
				before := len(s.calls)
				if s.ours(c.entries) {
					s.offer(c.entries)
				}
				time.Sleep(time.Minute)
				require.Len(t, s.calls, before)
			})
		})
	}
}

// TestAnswersThatRaftDoesNotGet: late ones, which it would count as a sign of life, and those
// to another call. There is never more than one call under way.
func TestAnswersThatRaftDoesNotGet(t *testing.T) {
	for name, c := range map[string]struct {
		late time.Duration
		req  *raft.AppendEntriesRequest
	}{
		"a late one":      {2 * time.Second, withEntries(empty(3, 7, 7), commands(3, 8, 8))},
		"of another call": {0, withEntries(empty(3, 6, 6), commands(3, 7, 8))},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSentAhead(t)
				s.offer(commands(3, 8, 8))
				time.Sleep(c.late)
				_, err := s.raft(c.req)
				require.NoError(t, err)
				require.Len(t, s.calls, 2)
				require.Same(t, c.req, s.calls[1])
				require.Equal(t, 1, s.most)
			})
		})
	}
}

// TestRaftHearsOfAFailureAhead: it is raft's own call that has failed.
func TestRaftHearsOfAFailureAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSentAhead(t)
		s.fails = errors.New("down")
		s.offer(commands(3, 8, 8))
		_, err := s.raft(withEntries(empty(3, 7, 7), commands(3, 8, 8)))
		require.ErrorIs(t, err, s.fails)
		require.Len(t, s.calls, 1)
		s.offer(commands(3, 8, 8))
		time.Sleep(time.Minute)
		require.Len(t, s.calls, 1, "nothing goes ahead before it has taken a call again")
	})
}

// TestACallOfANewTermWaitsForNone of the former one.
func TestACallOfANewTermWaitsForNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSentAhead(t)
		s.offer(commands(3, 8, 8))
		began := time.Now()
		_, err := s.raft(withEntries(empty(4, 7, 7), commands(4, 8, 8)))
		require.NoError(t, err)
		require.Equal(t, time.Second, time.Since(began))
		require.Len(t, s.calls, 2)
	})
}
