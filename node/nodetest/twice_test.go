package nodetest

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMailMeantTwice: a client that has read that a message was taken, and sends the
// same again, means a second one; one that may not have read it means the first.
func TestMailMeantTwice(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 3})
	envelope := []string{"C: MAIL FROM:<s@far.example>", "S: 250", "C: RCPT TO:<alice@example.test>", "S: 250"}
	send := func(node int, letter []string, after ...string) string {
		d := talkTo(t, c.Nodes[node].SMTP)
		id := idOf(d.play(append(envelope[:4:4], letter...)...))
		d.play(after...)
		_ = d.conn.Close()
		require.Len(t, id, 26)
		return id
	}
	lost := func(node int, letter []string) string {
		cut := newCutter(t, c.Nodes[node].SMTP)
		d := talkTo(t, cut.addr)
		d.play(append(envelope[:4:4], letter[:len(letter)-1]...)...)
		d.closed()
		return idOf(<-cut.said)
	}
	quit := []string{"C: QUIT", "S: 221"}
	for name, text := range map[string][]string{"small": letter("small"), "large": largeLetter("large")} {
		t.Run(name, func(t *testing.T) {
			before := len(c.inbox("alice@example.test"))
			first := send(0, text, quit...)
			second := send(0, text, "C: RSET", "S: 250")
			require.NotEqual(t, first, second, "at the node that knows")
			third := send(1, text, quit...)
			require.NotContains(t, []string{first, second}, third, "at another one")
			require.Equal(t, third, func() string { return fourthAfter(third, lost(2, text), send, text) }())
			require.Len(t, c.inbox("alice@example.test"), before+4)
		})
	}
	t.Run("nobody can be sure", func(t *testing.T) {
		text := letter("unsure")
		first := send(0, text)
		require.Equal(t, first, send(0, text), "closed without a word")
		d := talkTo(t, c.Nodes[1].SMTP)
		d.play(append(envelope[:4:4], text[:2]...)...)
		d.raw(strings.Join([]string{
			"From: alice@example.test", "Subject: unsure", "Message-ID: <unsure@test>", "", "text", ".", "QUIT", "",
		}, "\r\n"))
		require.Equal(t, first, idOf(d.play("S: 250")), "QUIT was in the same flight")
		require.Equal(t, first, send(2, text))
		proven := send(2, text, quit...)
		require.Equal(t, first, proven, "a repeat that was read about now")
		require.NotEqual(t, first, send(1, text), "so the next one is meant")
	})
	t.Run("the node that knew is gone", func(t *testing.T) {
		text := letter("gone")
		first := send(2, text, quit...)
		c.Nodes[2].Kill()
		c.Eventually(time.Minute, "the others do not take mail", func() bool {
			_, err := c.Nodes[0].Send(t.Context(), "bob@example.test", "bob@example.test", Letter("probe"))
			return err == nil
		})
		require.Equal(t, first, send(0, text))
	})
}

// fourthAfter checks that a fourth message whose 250 was lost is one, wherever it
// comes again, and returns what was the third.
func fourthAfter(third, fourth string, send func(int, []string, ...string) string, text []string) string {
	for node := range 3 {
		if again := send(node, text); again != fourth || fourth == third {
			return "the fourth is " + fourth + " and comes again as " + again
		}
	}
	return third
}

func largeLetter(subject string) []string {
	all := []string{"C: DATA", "S: 354", "M: Subject: " + subject, "M: Message-ID: <" + subject + "@test>", "M: "}
	for range 6000 {
		all = append(all, "M: "+strings.Repeat("x", 90))
	}
	return append(all, "M: .", "S: 250")
}
