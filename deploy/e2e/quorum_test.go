package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// answerWithin is how soon a client must hear that there is no majority.
const answerWithin = 15 * time.Second

// TestNoQuorum: a node that lives alone accepts nothing, promises nothing, says
// so in time, and goes on by itself when one of the others is back.
func TestNoQuorum(t *testing.T) {
	t.Parallel()
	for _, led := range []bool{true, false} {
		name := "the follower is left"
		if led {
			name = "the leader is left"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			majorityDies(t, led)
		})
	}
}

func majorityDies(t *testing.T, led bool) {
	const left, first, second = 1, 2, 3
	d := Start(t, "--restart-after", "0")
	if led {
		d.lead(left)
	} else {
		d.lead(first)
	}
	for i := range 2 {
		require.NoError(t,
			send(d.Addr(left, SMTP), "bob@example.test", []string{"alice@example.test"}, message(fmt.Sprintf("kept-%d", i))))
	}
	// These stand open when the majority dies: a session before MAIL, one behind 354, and
	// a mailbox with a deletion.
	idle, err := dialSMTP(d.Addr(left, SMTP), 30*time.Second)
	require.NoError(t, err)
	defer idle.close()
	busy, err := dialSMTP(d.Addr(left, SMTP), 30*time.Second)
	require.NoError(t, err)
	defer busy.close()
	require.NoError(t, busy.begin("bob@example.test", []string{"alice@example.test", "x@example.net"}))
	held, err := open(d.Addr(left, POP3), "alice", "secret")
	require.NoError(t, err)
	defer held.close()
	_, err = held.say("DELE 1")
	require.NoError(t, err)

	d.kill(second)
	dead := d.kill(first)

	asked := time.Now()
	_, err = busy.finish(strings.NewReader(message("refused")))
	turnedAway(t, "the end of DATA", err, asked)
	asked = time.Now()
	_, err = idle.send("bob@example.test", []string{"alice@example.test"}, message("refused"))
	turnedAway(t, "a transaction on an open connection", err, asked)
	require.ErrorContains(t, err, "4.3.2")
	line, err := held.say("QUIT")
	require.Error(t, err, "a deletion was promised: %s", line)
	t.Logf("QUIT with a deletion: %v", err)

	answers := map[string]int{}
	var slowest time.Duration
	for time.Since(dead) < 18*time.Second {
		began := time.Now()
		kind := "SMTP accepted"
		if c, err := dialSMTP(d.Addr(left, SMTP), 30*time.Second); err != nil {
			kind = "SMTP greeting: " + err.Error()
		} else {
			_, err = c.send("bob@example.test", []string{"alice@example.test"}, message("refused"))
			kind = fmt.Sprint("SMTP transaction: ", err)
			require.Error(t, err)
			c.close()
		}
		require.Regexp(t, `: 4[25]1 `, kind)
		answers[kind]++
		slowest = max(slowest, time.Since(began))

		began = time.Now()
		m, err := open(d.Addr(left, POP3), "alice", "secret")
		if err == nil {
			m.close()
		}
		require.Error(t, err, "a mailbox was opened without a majority")
		require.Regexp(t, `^-ERR \[(SYS/TEMP|IN-USE)\]`, err.Error())
		kind = err.Error()
		if strings.HasPrefix(kind, "-ERR [IN-USE]") {
			kind = "-ERR [IN-USE]"
		}
		answers["POP3 login: "+kind]++
		slowest = max(slowest, time.Since(began))
		pause(d, 100*time.Millisecond)
	}
	for _, kind := range slices.Sorted(maps.Keys(answers)) {
		t.Logf("%d times %s", answers[kind], kind)
	}
	t.Logf("slowest answer %s", seconds(slowest))
	require.Less(t, slowest, answerWithin)
	s, err := d.status(left)
	require.NoError(t, err, "status answers without a majority")
	require.False(t, s.Healthy)
	t.Logf("status: leader %q, problems %q", s.Leader, s.Problems)

	back := d.revive(first, "")
	var took time.Duration
	d.Await(60*time.Second, "mail is accepted again", func() bool {
		c, err := dialSMTP(d.Addr(left, SMTP), 30*time.Second)
		if err != nil {
			return false
		}
		defer c.close()
		_, err = c.send("bob@example.test", []string{"alice@example.test"}, message("again"))
		took = time.Since(back)
		return err == nil
	})
	t.Logf("mail is accepted %s after the second node was started again", seconds(took))
	var m *mailbox
	d.Await(60*time.Second, "mailboxes open again", func() bool {
		m, err = open(d.Addr(left, POP3), "alice", "secret")
		took = time.Since(back)
		return err == nil
	})
	t.Logf("mailboxes open %s after it", seconds(took))
	defer m.close()
	n, err := m.count()
	require.NoError(t, err)
	subjects := map[string]int{}
	for i := 1; i <= n; i++ {
		text, err := m.retr(i)
		require.NoError(t, err)
		subjects[field(text, "Subject")]++
	}
	t.Logf("the mailbox holds %v", subjects)
	require.Equal(t, 1, subjects["kept-0"], "nothing was deleted")
	require.Equal(t, 1, subjects["kept-1"])
	require.Equal(t, 1, subjects["again"])
	// A message whose fate was unknown when its sender was told 451 may exist.
	require.LessOrEqual(t, subjects["refused"], 2, "only what was under way when the majority died may have come through")
	_, err = m.say("QUIT")
	require.NoError(t, err)
	d.revive(second, "")
	d.healthy(60 * time.Second)
	d.verify()
}

// turnedAway wants a temporary refusal in time.
func turnedAway(t *testing.T, what string, err error, asked time.Time) {
	t.Helper()
	took := time.Since(asked)
	var r *refused
	require.ErrorAs(t, err, &r, "%s got no reply but: %v", what, err)
	t.Logf("%s: %v, after %s", what, r, seconds(took))
	require.Contains(t, []int{421, 451}, r.code)
	require.Less(t, took, answerWithin)
}
