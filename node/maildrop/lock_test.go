package maildrop

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/pop3"
)

// lostOf has the loss of a maildrop told to a channel.
func lostOf(m pop3.Maildrop) <-chan string {
	told := make(chan string, 1)
	m.OnLost(func(why string) { told <- why })
	return told
}

// TestLossIsTold: a caller that asks before or after a lock is lost is called, and
// one that was replaced is not.
func TestLossIsTold(t *testing.T) {
	ls := newLocks("n1", func() {})
	l := ls.ask("s1/1", "alice@example.test", 7)
	require.False(t, ls.grant(l, 9, &maildrop{lock: l}))
	told := make(chan string, 8)
	ls.onLost(l, func(string) { told <- "replaced" })
	ls.onLost(l, func(why string) { told <- "before: " + why })
	ls.loseOne(l, "gone")
	ls.loseOne(l, "again")
	require.Equal(t, "before: gone", <-told)
	ls.onLost(l, func(why string) { told <- "after: " + why })
	require.Equal(t, "after: gone", <-told)
	require.Empty(t, told)
}

// TestLockStates walks the table of DESIGN.md: what happens to a lock, in whatever order, leads to the state that the
// table names, and the keeper is woken where there is something to give back.
func TestLockStates(t *testing.T) {
	const token, epoch = 9, 7
	var ls *locks
	var l *lock
	m := &maildrop{}
	woken := 0
	steps := map[string]func(){
		"ask":     func() { l = ls.ask("s1/1", "a@example.test", epoch) },
		"fail":    func() { ls.fail(l) },
		"grant":   func() { ls.grant(l, token, m) },
		"applied": func() { ls.taken([]spool.Taken{{Node: "n1", Epoch: epoch, Session: "s1/1", Token: token}}, epoch) },
		"foreign": func() { ls.taken([]spool.Taken{{Node: "n2", Epoch: epoch, Session: "s1/1", Token: token}}, epoch) },
		"old":     func() { ls.taken([]spool.Taken{{Node: "n1", Epoch: 3, Session: "s1/1", Token: token}}, epoch) },
		"end":     func() { ls.end(l) },
		"orphan":  func() { ls.orphan(l) },
		"freed": func() {
			for _, l := range ls.orphans() {
				ls.freed(l)
			}
		},
		"broken":   func() { ls.broken([]uint64{token}, pop3.LostToOperator) },
		"restored": func() { ls.restored() },
		"found": func() {
			ls.found(map[string]*pb.Lock{"a@example.test": {Node: "n1", Epoch: epoch, Session: "s1/1", Token: token}}, epoch)
		},
	}
	for _, c := range []struct {
		steps string
		want  lockState
		woken int
	}{
		{"ask", lockAsked, 0},
		{"ask fail", lockGone, 0},
		{"ask fail applied", lockOrphaned, 1},
		{"ask applied", lockAsked, 0},
		{"ask applied fail", lockOrphaned, 1},
		{"ask applied fail freed", lockGone, 1},
		{"ask found", lockAsked, 0},
		{"ask grant", lockHeld, 0},
		{"ask grant found", lockHeld, 0},
		{"ask grant broken", lockHeld, 0},
		{"ask grant end", lockEnded, 0},
		{"ask grant end applied", lockGone, 0},
		{"ask grant end restored", lockGone, 1},
		{"ask grant end orphan", lockOrphaned, 1},
		{"ask grant end applied orphan", lockOrphaned, 1},
		{"ask grant end orphan freed", lockGone, 1},
		{"ask grant applied end", lockGone, 0},
		{"ask grant restored end", lockGone, 1},
		{"ask grant applied end orphan", lockOrphaned, 1},
		{"ask grant applied end found orphan", lockOrphaned, 2},
		{"ask grant applied end found orphan freed", lockGone, 2},
		{"ask restored found fail found", lockOrphaned, 3},
		{"ask applied grant end", lockGone, 0},
		{"applied", lockOrphaned, 1},
		{"applied applied freed", lockGone, 1},
		{"found", lockOrphaned, 1},
		{"foreign", lockGone, 0},
		{"old", lockGone, 0},
	} {
		woken = 0
		ls, l = newLocks("n1", func() { woken++ }), nil
		for _, step := range strings.Fields(c.steps) {
			steps[step]()
		}
		state := lockGone
		for _, one := range ls.asked {
			state = one.state
		}
		for _, one := range ls.known {
			state = one.state
		}
		require.Equal(t, c.want, state, c.steps)
		require.Equal(t, c.woken, woken, c.steps)
		for state, n := range ls.count {
			want := 0
			if lockState(state) == c.want {
				want = 1
			}
			require.Equal(t, want, n, "%s: locks in state %d", c.steps, state)
		}
	}
}

// TestDoubtsOfALock: a lock that may have ended before its session began leaves doubts.
func TestDoubtsOfALock(t *testing.T) {
	for name, end := range map[string]func(ls *locks){
		"broken":   func(ls *locks) { ls.broken([]uint64{9}, pop3.LostToOperator) },
		"restored": func(ls *locks) { ls.restored() },
		"":         func(ls *locks) { ls.broken([]uint64{8}, pop3.LostToOperator) },
	} {
		ls := newLocks("n1", func() {})
		l := ls.ask("s1/1", "a@example.test", 7)
		ls.taken([]spool.Taken{{Node: "n1", Epoch: 7, Session: "s1/1", Token: 9}}, 7)
		end(ls)
		require.Equal(t, name != "", ls.grant(l, 9, &maildrop{lock: l}), name)
	}
}

// TestEndedLocksAreBounded: sessions that are over before this node has applied their locks are forgotten when they are
// too many.
func TestEndedLocksAreBounded(t *testing.T) {
	ls := newLocks("n1", func() {})
	for n := range uint64(maxEnded + 5) {
		l := ls.ask(fmt.Sprint(n), "a@example.test", 7)
		ls.grant(l, n+1, &maildrop{lock: l})
		require.True(t, ls.end(l))
		require.False(t, ls.end(l))
	}
	require.Equal(t, 5, ls.count[lockEnded])
	require.Len(t, ls.known, 5)
}
