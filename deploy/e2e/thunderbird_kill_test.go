package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestThunderbirdOutlivesNode: the node that serves Thunderbird dies inside one of
// many messages. At another node it fetches the rest, and has each once.
func TestThunderbirdOutlivesNode(t *testing.T) {
	d := Start(t)
	tb := newThunderbird(d)
	const many, at = 60, 33
	for i := range many {
		require.NoError(t,
			send(d.Addr(i%3+1, SMTP), "bob@example.test", []string{"alice@example.test"}, message(fmt.Sprintf("outlive-%d", i))))
	}
	uids := d.listed("alice", nil)
	require.Len(t, uids, many)
	const dies, next = 1, 2
	tb.pop3.cutAt(fmt.Sprintf("Subject: outlive-%d\r\n", at), func() { d.kill(dies) })
	err := tb.fetch()
	require.Error(t, err)
	t.Logf("the node's death was told as: %v", err)
	died := time.Now()
	tb.pop3.to(d.Addr(next, POP3), "", false)
	told := map[string]int{}
	tb.await("the lock of the dead node ends, and mail comes", func() bool {
		err := tb.fetch()
		if err != nil {
			told[err.Error()]++
		}
		return err == nil
	})
	t.Logf("the rest came %s after the kill; meanwhile the user was told: %v", seconds(time.Since(died)), told)
	retr := 0
	for _, commands := range tb.pop3.commands() {
		retr += countPrefix(commands, "RETR ")
	}
	require.Equal(t, many+1, retr, "only what broke off is fetched again")
	tb.quit()
	stored := tb.stored()
	require.Len(t, stored, many)
	for uid, want := range uids {
		require.True(t, stored[uid] == want, "message %s:\n%q\nstored: %q", uid, want, stored[uid])
	}
	require.Equal(t, many, strings.Count(slurp(d, tb.inbox()), "\nSubject: outlive-"))
}
