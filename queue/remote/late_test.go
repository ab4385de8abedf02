package remote

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/queue"
)

// TestLateStrayOfTheMessageBefore: a second answer to a message that comes amid the next one
// shifts nothing, however slow the hop is with recipients: that goes by DATA, and one that
// has to go by BDAT on a connection of its own.
func TestLateStrayOfTheMessageBefore(t *testing.T) {
	for _, binary := range []bool{false, true} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		var conns sync.WaitGroup
		var messages atomic.Int32
		conns.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				conns.Go(func() { defer c.Close(); stutterLate(c, &messages) })
			}
		})
		conf := Config{Client: patience(30 * time.Second)}
		conf.Client.Chunking = true
		a := newAgent(t, conf)
		j := jobTo(fmt.Sprintf("smtp:%s", l.Addr()), "a@x")
		require.Equal(t, queue.Delivered, deliver(t, a, j)[0].Outcome)
		j.Binary = binary
		v := deliver(t, a, j)[0]
		require.Equal(t, queue.Deferred, v.Outcome, "the hop has no room for it: %s", v.Reply)
		require.NotContains(t, v.Reply, "may have been")
		require.NoError(t, l.Close())
		require.NoError(t, a.Close())
		conns.Wait()
	}
}

// stutterLate is a hop that answers a message a second time when it has read the next MAIL, answers
// RCPT then when it has read what comes behind, and has no room for a second message.
func stutterLate(c net.Conn, messages *atomic.Int32) {
	in := bufio.NewReader(c)
	say := func(s string) { _, _ = io.WriteString(c, s) }
	say("220 hi\r\n")
	end := func() {
		if messages.Add(1) > 1 {
			say("452 4.3.1 full\r\n")
		} else {
			say("250 2.0.0 queued\r\n")
		}
	}
	for owed, again, shifted := "", false, false; ; {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		verb, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		say(owed)
		owed = ""
		switch verb {
		case "EHLO":
			say("250-hop\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-BINARYMIME\r\n250 CHUNKING\r\n")
		case "MAIL":
			if shifted, again = again, false; shifted {
				say("250 2.0.0 queued\r\n")
			}
			say("250 2.1.0 ok\r\n")
		case "RCPT":
			if owed = "250 2.1.5 ok\r\n"; !shifted {
				say(owed)
				owed = ""
			}
		case "DATA":
			say("354 go\r\n")
			for line != ".\r\n" && err == nil {
				line, err = in.ReadString('\n')
			}
			again = true
			end()
		case "BDAT":
			if _, _, err := chunk(in, strings.TrimSpace(line)); err != nil {
				return
			}
			again = true
			end()
		case "QUIT":
			return
		}
	}
}
