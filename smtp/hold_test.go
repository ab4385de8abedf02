package smtp

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const mailToBob = "MAIL FROM:<a@b.example>\r\nRCPT TO:<bob@example.test>\r\n"

// visitor is a stranger that has said EHLO.
func visitor(t *testing.T, s *Server, addr string) *person {
	t.Helper()
	p, got := visit(t, s, addr)
	require.Equal(t, "220", got)
	go p.say("EHLO c\r\n")
	for line := "250-"; strings.HasPrefix(line, "250-"); {
		var err error
		line, err = p.in.ReadString('\n')
		require.NoError(t, err)
	}
	return p
}

// A message that nobody keeps takes no part of the budget: neither while the rest of
// it is read nor after that, however long its connection stays.
func TestDroppedMessagesHoldNothing(t *testing.T) {
	line := strings.Repeat("x", 76) + "\r\n"
	text := strings.Repeat(line, 3000)
	for name, one := range map[string]struct {
		said  string
		wants []string
	}{
		"no transaction":  {fmt.Sprintf("BDAT %d LAST\r\n%s", len(text), text), []string{"503"}},
		"refused at once": {mailToBob + "DATA\r\nSKIP\r\n" + text + ".\r\n", []string{"250", "250", "354", "554"}},
		"refused in chunks": {
			mailToBob + fmt.Sprintf("BDAT 6\r\nSKIP\r\nBDAT %d LAST\r\n%s", len(text), text),
			[]string{"250", "250", "554", "503"},
		},
		"refused at its end": {mailToBob + "DATA\r\nREJECT\r\n" + text + ".\r\n", []string{"250", "250", "354", "554"}},
		"taken":              {mailToBob + "DATA\r\n" + text + ".\r\n", []string{"250", "250", "354", "250"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := server(t, ServerConfig{Limits: Limits{Held: 64 * holdMost}})
				s.cfg.Backend = skipping{s.cfg.Backend}
				p := visitor(t, s, "192.0.2.1")
				go p.say(one.said)
				for _, want := range one.wants {
					p.hear(want)
				}
				synctest.Wait()
				require.Zero(t, s.meters.holds.held.Load())
			})
		})
	}
}

// skipping refuses messages that begin with SKIP before their end.
type skipping struct{ Backend }

func (b skipping) NewSession(ctx context.Context, p *Peer) (Session, error) {
	s, err := b.Backend.NewSession(ctx, p)
	return &skippingSession{s}, err
}

type skippingSession struct{ Session }

func (s *skippingSession) Data(ctx context.Context, r io.Reader) (string, error) {
	first := make([]byte, 6)
	if _, err := io.ReadFull(r, first); err == nil && string(first) == "SKIP\r\n" {
		return "", NewReply(554, "5.7.1", "Not this")
	}
	return s.Session.Data(ctx, io.MultiReader(strings.NewReader(string(first)), r))
}

// One network does not take the room of all: above half of the budget it has its
// share, and others go on.
func TestNetworksHaveTheirShareOfTheRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const one = holdBase + 2*holdMost
		s := server(t, ServerConfig{Limits: Limits{Held: 16 * one}})
		s.cfg.Backend = keeping{s.cfg.Backend}
		begin := func(addr string) *person {
			p := begins(t, s, addr)
			p.hear("354")
			p.say("one octet or so\r\n")
			synctest.Wait()
			return p
		}
		for i := range 7 {
			begin(fmt.Sprintf("192.0.2.%d", 10+i))
		}
		for i := range 2 {
			begin(fmt.Sprintf("198.51.100.%d", 10+i))
		}
		require.EqualValues(t, 9*one, s.meters.holds.held.Load())
		p := begins(t, s, "192.0.2.99")
		p.hear("451 4.3.1")
		p = begins(t, s, "198.51.100.99") // has its share
		p.hear("451 4.3.1")
		p = begin("203.0.113.1")
		p.say(".\r\n")
		p.hear("250")
	})
}

// Strangers who fill the room from many networks do not keep out those who hold nothing.
func TestTheLastRoomIsForNewcomers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const one = holdBase + 2*holdMost
		s := server(t, ServerConfig{Limits: Limits{Held: 16 * one}})
		s.cfg.Backend = keeping{s.cfg.Backend}
		for i := range 14 {
			p := begins(t, s, fmt.Sprintf("192.0.%d.1", i))
			p.hear("354")
			p.say("one octet or so\r\n")
			synctest.Wait()
		}
		require.EqualValues(t, 14*one, s.meters.holds.held.Load())
		p := begins(t, s, "192.0.3.2")
		p.hear("451 4.3.1")
		for range 3 {
			p = begins(t, s, "203.0.113.1")
			p.hear("354")
			p.say("Subject: x\r\n\r\nx\r\n.\r\n")
			p.hear("250")
		}
	})
}

// The server counts the octets that a Session has allocated, and not those that have
// come. The message whose growth exceeds the budget ends, and leaves the room to the others.
func TestAllocationsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server(t, ServerConfig{Limits: Limits{Held: 2*holdBase + 3*holdMost}})
		s.cfg.Backend = keeping{s.cfg.Backend}
		first, second := visitor(t, s, "192.0.2.1"), visitor(t, s, "198.51.100.1")
		for _, p := range []*person{first, second} {
			go p.say(mailToBob + "DATA\r\n")
			for _, want := range []string{"250", "250", "354"} {
				p.hear(want)
			}
		}
		first.say("one octet or so\r\n")
		synctest.Wait()
		require.EqualValues(t, 2*holdBase+2*holdMost, s.meters.holds.held.Load())
		second.say("one octet or so\r\n")
		synctest.Wait()
		require.EqualValues(t, 2*holdBase+4*holdMost, s.meters.holds.held.Load())
		second.say("one more\r\n")
		synctest.Wait()
		require.EqualValues(t, 2*holdBase+2*holdMost, s.meters.holds.held.Load(), "nobody keeps what is refused")
		second.say(".\r\n")
		second.hear("451 4.3.1")
		first.say(".\r\n")
		first.hear("250")
		synctest.Wait()
		require.Zero(t, s.meters.holds.held.Load())
	})
}

// keeping allocates much for a little message.
type keeping struct{ Backend }

func (b keeping) NewSession(ctx context.Context, p *Peer) (Session, error) {
	s, err := b.Backend.NewSession(ctx, p)
	return &keepingSession{s}, err
}

type keepingSession struct{ Session }

func (s *keepingSession) Data(ctx context.Context, r io.Reader) (string, error) {
	r.(Holder).Holds(0)
	first := make([]byte, 1)
	if _, err := io.ReadFull(r, first); err != nil {
		return "", err
	}
	r.(Holder).Holds(2 * holdMost)
	return s.Session.Data(ctx, io.MultiReader(strings.NewReader(string(first)), r))
}

// The time between the chunks of a message is part of the message: under pressure it
// has to come at the minimum rate, and it has to have come by DataTimeout.
func TestPausesBetweenChunksCount(t *testing.T) {
	t.Run("under pressure", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := server(t, ServerConfig{Limits: Limits{Held: 5 * holdBase}})
			p := visitor(t, s, "192.0.2.1")
			go p.say(mailToBob + "BDAT 3\r\nx\r\n")
			for range 3 {
				p.hear("250")
			}
			time.Sleep(slowGrace + time.Second)
			for range 2 { // somebody wants the room
				q := begins(t, s, "198.51.100.1")
				q.hear("354")
				q.say("Subject: x\r\n")
			}
			p.hear("421 4.4.2")
		})
	})
	t.Run("by DataTimeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := server(t, ServerConfig{DataTimeout: time.Hour})
			p := visitor(t, s, "192.0.2.1")
			go p.say(mailToBob)
			p.hear("250")
			p.hear("250")
			began, ended := time.Now(), false
			for !ended && time.Since(began) < 3*time.Hour {
				time.Sleep(4 * time.Minute)
				go func() { _, _ = io.WriteString(p.conn, "BDAT 3\r\nx\r\n") }()
				line, err := p.in.ReadString('\n')
				ended = err != nil || strings.HasPrefix(line, "421")
			}
			require.LessOrEqual(t, time.Since(began), time.Hour+10*time.Minute)
		})
	})
}
