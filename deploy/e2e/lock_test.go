package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// lockWithin is how soon a mailbox must be free after its holder died.
const lockWithin = 6 * time.Second

// TestLockOfDeadNode: one session holds a mailbox in the whole cluster, and a
// holder that dies holds it no longer than six seconds and deletes nothing.
func TestLockOfDeadNode(t *testing.T) {
	d := Start(t, "--restart-after", "8s")
	for i := range 3 {
		require.NoError(t,
			send(d.Addr(i+1, SMTP), "bob@example.test", []string{"alice@example.test"}, message(fmt.Sprintf("lock-%d", i))))
	}
	for n := range runs(t) {
		for _, leads := range []bool{false, true} {
			name := fmt.Sprintf("run%d/holder is a follower", n+1)
			if leads {
				name = fmt.Sprintf("run%d/holder leads", n+1)
			}
			t.Run(name, func(t *testing.T) { holderDies(t, d.with(t), leads) })
		}
	}
}

func holderDies(t *testing.T, d *Dev, leads bool) {
	const holder = 1
	d.healthy(60 * time.Second)
	if leads {
		d.lead(holder)
	} else {
		d.lead(2)
	}
	held, err := open(d.Addr(holder, POP3), "alice", "secret")
	require.NoError(t, err)
	defer held.close()
	n, err := held.count()
	require.NoError(t, err)
	require.Equal(t, 3, n)
	for _, node := range []int{1, 2, 3} {
		_, err := open(d.Addr(node, POP3), "alice", "secret")
		require.ErrorContains(t, err, "-ERR [IN-USE]")
		require.ErrorContains(t, err, "n1", "the answer names the holder")
	}
	for i := 1; i <= 3; i++ {
		_, err := held.say("DELE " + itoa(i))
		require.NoError(t, err)
	}
	old := d.PID(holder)
	dead := d.kill(holder)

	answers := map[string]int{}
	var next *mailbox
	var slowest time.Duration
	for next == nil && time.Since(dead) < 30*time.Second {
		began := time.Now()
		next, err = open(d.Addr(2, POP3), "alice", "secret")
		slowest = max(slowest, time.Since(began))
		if err != nil {
			kind, _, _ := strings.Cut(err.Error(), "]")
			answers[kind+"]"]++
			require.Regexp(t, `^-ERR \[(IN-USE|SYS/TEMP)\]`, err.Error())
			pause(d, 20*time.Millisecond)
		}
	}
	require.NotNil(t, next, "no login within 30 s: %v", answers)
	took := time.Since(dead)
	t.Logf("login on node 2 succeeded %s after the kill; before: %v; slowest answer %s", seconds(took), answers,
		seconds(slowest))
	if took > lockWithin {
		t.Errorf("that is more than %s", lockWithin)
		for _, node := range []int{2, 3} {
			for _, line := range tailOf(d.logged(node, "session", "leader", "election", "expire"), 15) {
				t.Logf("n%d: %s", node, line)
			}
		}
	}
	n, err = next.count()
	require.NoError(t, err)
	require.Equal(t, 3, n, "a session that died deletes nothing")
	for i := 1; i <= 3; i++ {
		text, err := next.retr(i)
		require.NoError(t, err)
		require.Contains(t, text, fmt.Sprintf("Subject: lock-%d", i-1))
	}
	_, err = open(d.Addr(3, POP3), "alice", "secret")
	require.ErrorContains(t, err, "-ERR [IN-USE]")
	require.ErrorContains(t, err, "n2")
	_, err = next.say("QUIT")
	require.NoError(t, err)
	next.close()
	d.Await(30*time.Second, "the dead node is back", func() bool { return d.PID(holder) != old })
	d.healthy(60 * time.Second)
	d.verify()
}

func tailOf(lines []string, n int) []string { return lines[max(0, len(lines)-n):] }
