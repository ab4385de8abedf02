package smtp

import (
	"bufio"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestRefuse: a server that goes out of service ends open connections between
// their transactions, and turns new ones away, until it is back.
func TestRefuse(t *testing.T) {
	s, addr := start(t, ServerConfig{Backend: &testBackend{}})
	fresh, idle, busy := call(t, addr), call(t, addr), call(t, addr)
	idle.say("HELO c\r\n")
	idle.hear("250")
	busy.say(envelope)
	for range 3 {
		busy.hear("250")
	}
	s.Refuse(true)
	for _, p := range []*person{fresh, idle} {
		p.hear("421 4.3.2 mx.example.test is going out of service")
		p.gone()
	}
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	turned := &person{t, conn, bufio.NewReader(conn)}
	turned.hear("421 mx.example.test is going out of service")
	turned.gone()
	busy.say("DATA\r\n")
	busy.hear("354")
	busy.say("x\r\n.\r\n")
	busy.hear("250 2.0.0 Ok: queued as")
	busy.hear("421 4.3.2")
	busy.gone()
	require.Eventually(t, func() bool { return s.Stats().Serving.Load() == 0 }, time.Minute, time.Millisecond)
	require.EqualValues(t, 1, s.Stats().Turned.Load())

	s.Refuse(false)
	again := call(t, addr)
	again.say("QUIT\r\n")
	again.hear("221")
}

// TestRefusedCommandsAreTold: a command behind the last transaction of a server that goes
// out of service is told as a refusal, and a QUIT there is none.
func TestRefusedCommandsAreTold(t *testing.T) {
	for next, want := range map[string][]string{
		"MAIL FROM:<b@c>": {"mail stopping 421"}, "NONSENSE": {"command stopping 421"}, "QUIT": nil,
	} {
		var told []string
		s, addr := start(t, ServerConfig{Backend: &testBackend{}, Refused: func(f *Refusal) {
			told = append(told, fmt.Sprint(f.Stage, " ", f.Reason, " ", f.Reply.Code))
			assert.False(t, f.InMail)
		}})
		p := call(t, addr)
		p.say(envelope + "DATA\r\n")
		for _, code := range []string{"250", "250", "250", "354"} {
			p.hear(code)
		}
		s.Refuse(true)
		p.say("x\r\n.\r\n" + next + "\r\n")
		p.hear("250 2.0.0 Ok: queued as")
		p.hear("421 4.3.2")
		p.gone()
		require.Eventually(t, func() bool { return s.Stats().Active.Load() == 0 }, time.Minute, time.Millisecond)
		require.Equal(t, want, told, next)
	}
}

// TestRefuseHearsLastWords: input that a client sent meanwhile does not take the 421
// away, as the close of a socket with unread input would.
func TestRefuseHearsLastWords(t *testing.T) {
	s, addr := start(t, ServerConfig{Backend: &testBackend{}})
	for range 20 {
		s.Refuse(false)
		p := call(t, addr)
		p.say("HELO c\r\n")
		p.hear("250")
		s.Refuse(true)
		p.say("MAIL FROM:<a@b>\r\n")
		p.hear("421 4.3.2")
		p.gone()
	}
}
