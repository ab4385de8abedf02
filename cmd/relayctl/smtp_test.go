package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// hop is a next hop that answers what its script says: for the first word of
// a line (or "", the greeting, and ".", the end of a message) a reply.
type hop struct {
	replies map[string]string
	heard   []string
	done    chan struct{}
}

func newHop(t *testing.T, replies map[string]string, config *tls.Config) (*hop, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	h := &hop{done: make(chan struct{}), replies: map[string]string{
		"": "220 hop ESMTP", "EHLO": "250-hop\r\n250-SIZE 1000\r\n250 8BITMIME", "MAIL": "250 2.1.0 Ok",
		"RCPT": "250 2.1.5 Ok", "RSET": "250 Ok",
		"DATA": "354 go", ".": "250 2.0.0 Ok: queued as 01HOP000000000000000000000", "QUIT": "221 bye", "AUTH": "235 welcome",
		"STARTTLS": "220 go",
	}}
	for k, v := range replies {
		h.replies[k] = v
	}
	go func() {
		defer close(h.done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		h.serve(conn, config)
	}()
	t.Cleanup(func() { l.Close(); <-h.done })
	return h, l.Addr().String()
}

func (h *hop) serve(conn net.Conn, config *tls.Config) {
	fmt.Fprintf(conn, "%s\r\n", h.replies[""])
	r := bufio.NewReader(conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		h.heard = append(h.heard, strings.TrimSuffix(line, "\r\n"))
		verb := strings.ToUpper(strings.Fields(line + " x")[0])
		reply := h.replies[verb]
		if reply == "drop" {
			return
		}
		fmt.Fprintf(conn, "%s\r\n", reply)
		switch {
		case verb == "QUIT":
			return
		case verb == "STARTTLS" && strings.HasPrefix(reply, "2"):
			conn = tls.Server(conn, config)
			r = bufio.NewReader(conn)
		case verb == "DATA" && strings.HasPrefix(reply, "3"):
			for line != ".\r\n" {
				if line, err = r.ReadString('\n'); err != nil {
					return
				}
				h.heard = append(h.heard, strings.TrimSuffix(line, "\r\n"))
			}
			fmt.Fprintf(conn, "%s\r\n", h.replies["."])
		}
	}
}

func TestSendSMTP(t *testing.T) {
	w := newWorld(t)
	h, addr := newHop(t, nil, nil)
	out, stderr, code := w.ctl(t, "Subject: é\n\n.dot\n", "send", "--smtp", addr, "--helo", "me", "--from", "a@b.test",
		"--to", "c@d.test", "--to", "e@d.test", "--data", "-", "-v")
	require.Zero(t, code, stderr)
	<-h.done
	require.Equal(t, []string{"EHLO me", "MAIL FROM:<a@b.test> SIZE=18 BODY=8BITMIME", "RCPT TO:<c@d.test>",
		"RCPT TO:<e@d.test>", "DATA",
		"Subject: é", "", "..dot", ".", "QUIT"}, h.heard)
	require.Equal(t, "01HOP000000000000000000000 accepted by "+addr+": 18 B, 2 recipients.\n", out)
	require.Contains(t, stderr, "S: 220 hop ESMTP\nC: EHLO me\nS: 250-hop\nS: 250-SIZE 1000\nS: 250 8BITMIME\n")
	require.Contains(t, stderr, "C: .\nS: 250 2.0.0 Ok: queued as 01HOP000000000000000000000\n")
}

func TestSendSMTPRefusals(t *testing.T) {
	w := newWorld(t)
	send := func(replies map[string]string, more ...string) (string, int) {
		_, addr := newHop(t, replies, nil)
		_, stderr, code := w.ctl(t, "pw\n",
			append([]string{"send", "--smtp", addr, "--from", "a@b.test", "--to", "c@d.test"}, more...)...)
		return stderr, code
	}
	for verb, reply := range map[string]string{
		"": "554 go away", "EHLO": "550 who?", "MAIL": "451 4.3.0 later", "RCPT": "550 5.1.1 no such user", "DATA": "503 no",
		".": "554 5.6.0 spam",
	} {
		stderr, code := send(map[string]string{verb: reply})
		require.Equal(t, 1, code)
		require.Contains(t, stderr, reply)
		require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
	}
	stderr, code := send(map[string]string{"RCPT": "drop"})
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "was lost")
	stderr, code = send(map[string]string{"AUTH": "535 5.7.8 wrong"}, "--user", "a@b.test", "--password-stdin", "-v")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "535 5.7.8 wrong")
	require.Contains(t, stderr, "C: AUTH PLAIN ***")
	stderr, code = send(nil, "--to", "x@y\r\nRSET")
	require.Equal(t, 2, code)
	require.Contains(t, stderr, "is not an address")
	_, stderr, code = w.ctl(t, "", "send", "--smtp", "127.0.0.1:1", "--from", "a@b.test", "--to", "c@d.test")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "check the port")
	_, _, code = w.ctl(t, "", "send", "--smtp", "127.0.0.1:1", "--tls", "ssl", "--from", "a@b.test", "--to", "c@d.test")
	require.Equal(t, 2, code)
}

func TestSendSMTPStartTLS(t *testing.T) {
	w := newWorld(t)
	web := httptest.NewUnstartedServer(nil) // lends its certificate
	web.StartTLS()
	defer web.Close()
	h, addr := newHop(t, nil, &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12})
	_, stderr, code := w.ctl(t, "pw\n", "send", "--smtp", addr, "--tls", "starttls", "--insecure", "--user", "u",
		"--password-stdin", "--from", "", "--to", "c@d.test", "--count", "2", "-v")
	require.Zero(t, code, stderr)
	<-h.done
	require.Contains(t, stderr, "* TLS 1.3")
	text := strings.Join(h.heard, "\n")
	require.Contains(t, text, "AUTH PLAIN AHUAcHc=")
	require.Equal(t, 2, strings.Count(text, "MAIL FROM:<>"))
	require.NotContains(t, stderr, "AHUAcHc=")

	_, addr = newHop(t, nil, &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12})
	_, stderr, code = w.ctl(t, "", "send", "--smtp", addr, "--tls", "starttls", "--from", "a@b", "--to", "c@d.test")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "--ca FILE")
}

func TestAddresses(t *testing.T) {
	require.Equal(t, []string{"a@b", `"x, y"@z`, "c@d"}, addresses([]string{"<a@b>, \"x, y\"@z", "", "c@d,"}))
}
