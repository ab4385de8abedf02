package pop3_test

import (
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/pop3"
)

// stateTable says for every command and every state how the answer begins: one
// row a command, with an argument that is good.
var stateTable = []struct{ line, authorization, transaction, sleeping string }{
	{"CAPA", "+OK", "+OK", "-ERR session is asleep"},
	{"LANG", "+OK", "+OK", "-ERR session is asleep"},
	{"LANG de", "+OK de", "+OK de", "-ERR session is asleep"},
	{"UTF8", "+OK", "-ERR command not valid", "-ERR session is asleep"},
	{"STLS", "-ERR TLS is not available", "-ERR command not valid", "-ERR session is asleep"},
	{"USER alice", "+OK", "-ERR command not valid", "-ERR session is asleep"},
	{"PASS secret", "-ERR USER has to come first", "-ERR command not valid", "-ERR session is asleep"},
	{"AUTH", "+OK", "-ERR command not valid", "-ERR session is asleep"},
	{"AUTH PLAIN =", "-ERR malformed", "-ERR command not valid", "-ERR session is asleep"},
	{"APOP alice 0123456789abcdef0123456789abcdef", "-ERR [AUTH]", "-ERR command not valid", "-ERR session is asleep"},
	{"XLOG alice wrong", "-ERR [AUTH]", "-ERR command not valid", "-ERR session is asleep"},
	{"STAT", "-ERR command not valid", "+OK 3 104", "-ERR session is asleep"},
	{"LIST", "-ERR command not valid", "+OK 3", "-ERR session is asleep"},
	{"LIST 1", "-ERR command not valid", "+OK 1 24", "-ERR session is asleep"},
	{"UIDL", "-ERR command not valid", "+OK", "-ERR session is asleep"},
	{"UIDL 1", "-ERR command not valid", "+OK 1 u1", "-ERR session is asleep"},
	{"RETR 1", "-ERR command not valid", "+OK 24", "-ERR session is asleep"},
	{"TOP 1 0", "-ERR command not valid", "+OK", "-ERR session is asleep"},
	{"DELE 1", "-ERR command not valid", "+OK", "-ERR session is asleep"},
	{"DELI 1", "-ERR command not valid", "+OK", "-ERR session is asleep"},
	{"RSET", "-ERR command not valid", "+OK", "-ERR session is asleep"},
	{"LAST", "-ERR command not valid", "+OK 0", "-ERR session is asleep"},
	{"NOOP", "-ERR command not valid", "+OK", "+OK"},
	{"SLEE", "-ERR command not valid", "+OK", "-ERR session is asleep"},
	{"WAKE", "-ERR command not valid", "-ERR command not valid", "+OK [ACTIVITY/NONE]"},
	{"QAUT", "-ERR command not valid", "+OK", "-ERR session is asleep"},
	{"QUIT", "+OK bye", "+OK bye", "+OK bye"},
	{"HELP", "-ERR unknown command", "-ERR unknown command", "-ERR session is asleep"},
	{"", "-ERR unknown command", "-ERR unknown command", "-ERR session is asleep"},
}

// TestEveryCommandInEveryState plays the table, and each command once more with
// an argument where none belongs, which is refused without any effect.
func TestEveryCommandInEveryState(t *testing.T) {
	cfg := config(newStore())
	cfg.With = pop3.APOP | pop3.Xlog
	for _, row := range stateTable {
		for state, want := range []string{row.authorization, row.transaction, row.sleeping} {
			cfg.Backend = newStore()
			c := dial(t, serve(t, cfg, false))
			if state > 0 {
				require.NoError(t, c.Login(t.Context(), "alice", "secret"))
			}
			if state > 1 {
				require.NoError(t, c.Sleep(t.Context()))
			}
			require.Contains(t, firstLine(t, c, row.line), want, "%q in state %d", row.line, state)
		}
	}
}

func firstLine(t *testing.T, c *pop3.Client, line string) string {
	text, err := c.Command(t.Context(), line)
	if err == nil {
		return "+OK " + text
	}
	var refused *pop3.ReplyError
	require.ErrorAs(t, err, &refused, line)
	if refused.Code != "" {
		return "-ERR [" + refused.Code + "] " + refused.Text
	}
	return "-ERR " + refused.Text
}

// TestNothingTakesAnArgumentTooMany: an argument that no command may have is refused
// in every state where the command itself is known.
func TestNothingTakesAnArgumentTooMany(t *testing.T) {
	s := serve(t, config(newStore()), false)
	c := dial(t, s)
	for _, word := range []string{"CAPA", "UTF8", "QUIT"} {
		require.Equal(t, "-ERR bad arguments", firstLine(t, c, word+" x"))
	}
	require.NoError(t, c.Login(t.Context(), "alice", "secret"))
	for _, word := range []string{"CAPA", "STAT", "RSET", "LAST", "NOOP", "SLEE", "QAUT", "QUIT"} {
		require.Equal(t, "-ERR bad arguments", firstLine(t, c, word+" x"))
	}
	for _, word := range []string{"LIST", "UIDL", "RETR", "DELE", "DELI"} {
		require.Equal(t, "-ERR bad arguments", firstLine(t, c, word+" 1 2"))
	}
	for _, word := range []string{"RETR", "TOP", "DELE", "DELI"} {
		require.Equal(t, "-ERR bad arguments", firstLine(t, c, word))
	}
	require.NoError(t, c.Sleep(t.Context()))
	for _, word := range []string{"NOOP", "WAKE", "QUIT"} {
		require.Equal(t, "-ERR bad arguments", firstLine(t, c, word+" x"))
	}
	_, err := c.Wake(t.Context())
	require.NoError(t, err)
	n, _, err := c.Stat(t.Context())
	require.NoError(t, err)
	require.Equal(t, 3, n)
}

// pop2Table is RFC 937 §4's state table: what a command gets in each state.
// "-" closes; so does an empty one, without a word.
var pop2Table = []struct{ line, auth, mbox, item, next string }{
	{"HELO alice secret", "#3", "-", "-", "-"},
	{"HELO alice wrong", "-", "-", "-", "-"},
	{"HELO alice", "-", "-", "-", "-"},
	{"FOLD inbox", "-", "#3", "#3", "-"},
	{"FOLD nowhere", "-", "#0", "#0", "-"},
	{"READ", "-", "=24", "=24", "-"},
	{"READ 2", "-", "=38", "=38", "-"},
	{"READ 9", "-", "=0", "=0", "-"},
	{"READ x", "-", "-", "-", "-"},
	{"RETR", "-", "-", "Subject: one", "-"},
	{"ACKS", "-", "-", "-", "=38"},
	{"ACKD", "-", "-", "-", "=38"},
	{"NACK", "-", "-", "-", "=24"},
	{"QUIT", "+ bye", "+ bye", "+ bye", "-"},
	{"QUIT now", "-", "-", "-", "-"},
	{"NOOP", "-", "-", "-", "-"},
	{"", "-", "-", "-", "-"},
}

func TestPOP2EveryCommandInEveryState(t *testing.T) {
	ways := []string{"", "HELO alice secret\r\n", "HELO alice secret\r\nREAD\r\n", "HELO alice secret\r\nREAD\r\nRETR\r\n"}
	before := []int{1, 2, 3, 6} // lines until the answer: greeting, #3, =24, three of the message
	for _, row := range pop2Table {
		for state, want := range []string{row.auth, row.mbox, row.item, row.next} {
			store := newStore()
			s := serve(t, config(store), true)
			nc, err := s.dial(t.Context())
			require.NoError(t, err)
			_, err = nc.Write([]byte(ways[state] + row.line + "\r\n"))
			require.NoError(t, err)
			half, ok := nc.(interface{ CloseWrite() error })
			require.True(t, ok)
			require.NoError(t, half.CloseWrite())
			text, err := io.ReadAll(nc)
			require.NoError(t, err)
			all := string(text)
			lines := strings.Split(all, "\r\n")
			require.Greater(t, len(lines), before[state], "%q in state %d: %q", row.line, state, all)
			require.True(t, strings.HasPrefix(lines[before[state]], want), "%q in state %d: %q", row.line, state, all)
			require.Len(t, store.UIDs("alice"), 3, "%q in state %d", row.line, state)
			_ = nc.Close()
		}
	}
}
