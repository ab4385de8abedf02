package e2e

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestLargeDeletionIsOneStep: a session deletes so many messages that they are
// taken out in bulk, and while it does the node that serves it, or the leader,
// dies. The mailbox then has lost all of them or none, all if QUIT was answered, and
// it goes on: its next messages are seen, and no more than they.
func TestLargeDeletionIsOneStep(t *testing.T) {
	const n = 1200
	d := Start(t, "--restart-after", "1s")
	outcomes := map[string]int{}
	full := 0
	for round := range 4 * runs(t) {
		d.healthy(60 * time.Second)
		if full == 0 {
			for node := 1; node <= 3; node++ {
				sendMany(t, d, node, n/3, fmt.Sprintf("round-%d-%d", round, node))
			}
			full = n
		}
		d.lead(round%3 + 1)
		serves := (round/2+round)%3 + 1
		m, err := open(d.Addr(serves, POP3), "alice", "secret")
		require.NoError(t, err)
		has, err := m.count()
		require.NoError(t, err)
		require.Equal(t, full, has)
		deleteAll(t, m, has)
		answer := make(chan error, 1)
		go func() { _, err := m.say("QUIT"); answer <- err }()
		pause(d, time.Duration(rand.IntN(12))*time.Millisecond)
		victim := serves
		if round%2 == 1 {
			victim = round%3 + 1
		}
		old := d.PID(victim)
		d.kill(victim)
		err = <-answer
		m.close()
		d.Await(30*time.Second, "the dead node is back", func() bool { return d.PID(victim) != old })
		d.healthy(60 * time.Second)

		sendMany(t, d, 1, 1, fmt.Sprintf("after-%d", round))
		p := login(t, d.Addr(serves%3+1, POP3), "alice", "secret")
		left := p.count()
		if err == nil {
			require.Equal(t, 1, left, "what was answered +OK is deleted")
		}
		require.Contains(t, []int{1, full + 1}, left, "all or nothing, and the message that came after")
		p.quit()
		outcomes[fmt.Sprintf("answered %t, deleted %t", err == nil, left == 1)]++
		full = left
		if left == 1 {
			empty(t, d, "alice")
			full = 0
		}
	}
	t.Logf("%d deletions of %d messages: %v", 4*runs(t), n, outcomes)
	d.verify()
}

// sendMany sends messages to alice through one node. None is like another, or it
// would be taken for one that is sent again.
func sendMany(t *testing.T, d *Dev, node, n int, name string) {
	t.Helper()
	c, err := dialSMTP(d.Addr(node, SMTP), 20*time.Second)
	require.NoError(t, err)
	defer c.close()
	for i := range n {
		_, err := c.send("bob@example.test", []string{"alice@example.test"}, message(fmt.Sprintf("%s-%d", name, i)))
		require.NoError(t, err)
	}
}

// deleteAll marks all messages of a session, in one go.
func deleteAll(t *testing.T, m *mailbox, n int) {
	t.Helper()
	_ = m.conn.SetDeadline(time.Now().Add(30 * time.Second))
	go func() {
		w := bufio.NewWriter(m.conn)
		for i := range n {
			_, _ = fmt.Fprintf(w, "DELE %d\r\n", i+1)
		}
		_ = w.Flush()
	}()
	for range n {
		_, err := m.reply()
		require.NoError(t, err)
	}
}
