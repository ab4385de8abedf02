package e2e

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func itoa(n int) string { return strconv.Itoa(n) }

// leader returns the number of the leading node, as a node that lives says.
func (d *Dev) leader() int {
	d.t.Helper()
	var status struct{ Leader string }
	d.Await(20*time.Second, "there is a leader", func() bool {
		out, err := d.Try("", d.bin+"/relayctl", "status", "-o", "json")
		return err == nil && json.Unmarshal([]byte(out), &status) == nil && status.Leader != ""
	})
	n, err := strconv.Atoi(strings.TrimPrefix(status.Leader, "n"))
	require.NoError(d.t, err)
	return n
}

// A dead leader loses nothing that was answered 250, and the others go on.
func TestKillLeader(t *testing.T) {
	d := Start(t, "--restart-after", "1s")
	leader := d.leader()
	other, third := leader%3+1, (leader+1)%3+1
	require.NoError(t, send(d.Addr(leader, SMTP), "bob@example.test", []string{"alice@example.test"}, message("before")))
	old := d.PID(leader)
	d.KillNode(leader)
	d.Await(15*time.Second, "another node takes mail", func() bool {
		return send(d.Addr(other, SMTP), "bob@example.test", []string{"alice@example.test"}, message("after")) == nil
	})
	p := login(t, d.Addr(third, POP3), "alice", "secret")
	require.GreaterOrEqual(t, p.count(), 2)
	require.Contains(t, p.retr(1), "Subject: before")
	require.Contains(t, p.retr(2), "Subject: after")
	p.quit()
	d.Await(20*time.Second, "the dead node is back", func() bool { return d.PID(leader) != old })
	d.Ctl("status", "--wait", "30")
}

// All processes stop and the state is found again.
func TestRestartWithDirectory(t *testing.T) {
	t.Parallel()
	d := Start(t)
	require.NoError(t, send(d.Addr(2, SMTP), "bob@example.test", []string{"alice@example.test"}, message("kept")))
	d.Restart()
	p := login(t, d.Addr(3, POP3), "alice", "secret")
	require.Equal(t, 1, p.count())
	require.Contains(t, p.retr(1), "Subject: kept")
	p.quit()
}
