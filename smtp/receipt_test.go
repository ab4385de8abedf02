package smtp

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// receiptBackend notes what its sessions hear of replies that were read.
type receiptBackend struct{ *testBackend }

type receiptSession struct{ *testSession }

func (b receiptBackend) NewSession(ctx context.Context, p *Peer) (Session, error) {
	s, err := b.testBackend.NewSession(ctx, p)
	if err != nil {
		return nil, err
	}
	return receiptSession{s.(*testSession)}, nil
}

// Received implements Receiver.
func (s receiptSession) Received() { s.b.note("received") }

func (b receiptBackend) received() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, line := range b.log {
		if line == "received" {
			n++
		}
	}
	return n
}

// flightClient is a client that says octets as they are, and reads one reply at a time.
type flightClient struct {
	t  *testing.T
	c  net.Conn
	in *bufio.Reader
}

func (w *flightClient) say(octets string, codes ...string) {
	w.t.Helper()
	_, err := io.WriteString(w.c, octets)
	require.NoError(w.t, err)
	w.hear(codes...)
}

func (w *flightClient) hear(codes ...string) {
	w.t.Helper()
	for _, code := range codes {
		for {
			line, err := w.in.ReadString('\n')
			require.NoError(w.t, err)
			require.True(w.t, strings.HasPrefix(line, code), "want %s, got %s", code, line)
			if line[3] == ' ' {
				break
			}
		}
	}
}

// TestReceipt: a 250 counts as read where a command proves it, and only there.
func TestReceipt(t *testing.T) {
	const envelope, text = "MAIL FROM:<a@b.example>\r\nRCPT TO:<bob@example.test>\r\n", "Subject: x\r\n\r\nx\r\n.\r\n"
	for name, c := range map[string]struct {
		want int
		play func(w *flightClient, b receiptBackend)
	}{
		"stepwise QUIT":  {1, func(w *flightClient, _ receiptBackend) { w.say(text, "250"); w.say("QUIT\r\n", "221") }},
		"stepwise RSET":  {1, func(w *flightClient, _ receiptBackend) { w.say(text, "250"); w.say("RSET\r\n", "250") }},
		"stepwise wrong": {1, func(w *flightClient, _ receiptBackend) { w.say(text, "250"); w.say("FROB\r\n", "500") }},
		"once": {1, func(w *flightClient, _ receiptBackend) {
			w.say(text, "250")
			w.say("NOOP\r\n", "250")
			w.say("QUIT\r\n", "221")
		}},
		"no command":         {0, func(w *flightClient, _ receiptBackend) { w.say(text, "250") }},
		"QUIT in one flight": {0, func(w *flightClient, _ receiptBackend) { w.say(text+"QUIT\r\n", "250", "221") }},
		"QUIT before the answer": {0, func(w *flightClient, b receiptBackend) {
			b.block = make(chan struct{})
			w.say(text)
			w.say("QUIT\r\n")
			close(b.block)
			w.hear("250", "221")
		}},
		"a flight up to DATA": {1, func(w *flightClient, b receiptBackend) {
			w.say(text+envelope+"DATA\r\n", "250", "250", "250", "354")
			require.Zero(w.t, b.received())
			w.say(text, "250")
		}},
		"a flight that goes on": {0, func(w *flightClient, b receiptBackend) {
			w.say(text+"RSET\r\n", "250", "250")
			w.say("RSET\r\n", "250")
		}},
		"a flight up to NOOP": {1, func(w *flightClient, b receiptBackend) {
			w.say(text+"RSET\r\nNOOP\r\n", "250", "250", "250")
			w.say("QUIT\r\n", "221")
		}},
		"refused": {0, func(w *flightClient, b receiptBackend) { w.say("REJECT\r\n.\r\n", "554"); w.say("QUIT\r\n", "221") }},
	} {
		for _, secure := range []bool{false, true} {
			t.Run(name+map[bool]string{true: " on TLS"}[secure], func(t *testing.T) {
				b := receiptBackend{&testBackend{}}
				w := receiptWire(t, &b, secure)
				w.say("EHLO c\r\n", "250")
				w.say(envelope+"DATA\r\n", "250", "250", "354")
				c.play(w, b)
				_ = w.c.Close()
				require.Eventually(t, func() bool { b.mu.Lock(); defer b.mu.Unlock(); return slices.Contains(b.log, "close") },
					time.Minute, time.Millisecond)
				require.Equal(t, c.want, b.received())
			})
		}
	}
}

func TestReceiptOfChunks(t *testing.T) {
	b := receiptBackend{&testBackend{}}
	w := receiptWire(t, &b, false)
	w.say("EHLO c\r\n", "250")
	w.say("MAIL FROM:<a@b.example>\r\nRCPT TO:<bob@example.test>\r\nBDAT 3 LAST\r\nx\r\n", "250", "250", "250")
	require.Zero(t, b.received())
	w.say("MAIL FROM:<a@b.example>\r\n", "250")
	require.Equal(t, 1, b.received())
}

func receiptWire(t *testing.T, b *receiptBackend, secure bool) *flightClient {
	serverTLS, clientTLS := testTLS(t)
	_, addr := start(t, ServerConfig{Backend: *b, TLS: serverTLS, ImplicitTLS: secure})
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	if secure {
		conn = tls.Client(conn, clientTLS)
	}
	w := &flightClient{t, conn, bufio.NewReader(conn)}
	w.hear("220")
	return w
}
