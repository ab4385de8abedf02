package nodetest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

// TestForeignProtocols: whatever other protocol speaks to the port, none of its
// octets is a command.
func TestForeignProtocols(t *testing.T) {
	t.Parallel()
	c, _ := relay(t, nil)
	mail := "EHLO c\r\nMAIL FROM:<a@far.example>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n"
	for _, first := range []string{
		"GET / HTTP/1.0\r\n", "get /x HTTP/1.1\r\nHost: x\r\n", "PUT /x HTTP/1.1\r\n", "OPTIONS * HTTP/1.1\r\n",
		"CONNECT mx:25 HTTP/1.1\r\n", "HEAD / HTTP/1.1\nHost: x\n\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"Content-Type: text/plain\r\n\r\n", "X-A : b\r\n", "Host:x\r\n",
	} {
		d := strangerTo(t, c.Nodes[0].SMTP)
		d.play("S: 220")
		d.raw(first + mail)
		d.play("S: 421")
		d.closed()
	}
	require.Empty(t, c.inbox("alice@example.test"))
}

// TestFoldedFields: a Message-ID is found however it is folded and spelt.
func TestFoldedFields(t *testing.T) {
	t.Parallel()
	c, port := relay(t, nil)
	for n, field := range []string{
		"Message-ID:\r\n\t<%d@fold.example>\r\n", "message-id: \r\n \r\n <%d@fold.example>\r\n",
		"MESSAGE-ID:\r\n  \t <%d@fold.example>  \r\n", "Message-Id:<%d@fold.example>\r\n",
	} {
		d := talkTo(t, port)
		d.play(loginAlice, "S: 235", "C: MAIL FROM:<alice@example.test>", "S: 250",
			"C: RCPT TO:<bob@example.test>", "S: 250", "C: DATA", "S: 354")
		d.raw("From: alice@example.test\r\n" + fmt.Sprintf(field, n) + "\r\nx\r\n.\r\n")
		id := idOf(d.play("S: 250"))
		all := c.inbox("bob@example.test")
		require.Equal(t, 1, strings.Count(strings.ToLower(all[len(all)-1]), "message-id:"), "%q", field)
		found, err := c.Nodes[0].Client().Find(t.Context(), admin.TraceQuery{MessageID: fmt.Sprintf("<%d@fold.example>", n)})
		require.NoError(t, err, "%q", field)
		require.Len(t, found, 1, "%q", field)
		require.Equal(t, id, found[0].ID)
	}
}

// TestBareHeaderInChunks: the header section of a stranger is as it must be
// wherever chunks part it.
func TestBareHeaderInChunks(t *testing.T) {
	t.Parallel()
	c, _ := relay(t, nil)
	for _, chunks := range [][]string{
		{"Subject: x\r", "Authentication-Results: mx.example.test; dmarc=pass\r\n\r\n"},
		{"Subject: x\r\nA: b", "\nC: d\r\n\r\n"}, {"Subject: x\r\nA: \x00", "\r\n\r\n"},
		{"\rSubject: x\r\n\r\n"}, {"Subject: x\r\n\rFrom: y\r\n\r\n"}, {"Subject: x\r\r\n\r\n"}, {"Subject: x\r\nFrom: a\r"},
	} {
		d := strangerTo(t, c.Nodes[0].SMTP)
		d.play("S: 220", "C: EHLO far.example", "S: 250", "C: MAIL FROM:<a@far.example> BODY=BINARYMIME", "S: 250",
			"C: RCPT TO:<alice@example.test>", "S: 250")
		last := ""
		for i, chunk := range chunks {
			end := ""
			if i == len(chunks)-1 {
				end = " LAST"
			}
			d.raw(fmt.Sprintf("BDAT %d%s\r\n%s", len(chunk), end, chunk))
			last = d.play("S: ")
		}
		require.True(t, strings.HasPrefix(last, "550 5.6.0"), "%q: %s", chunks, last)
	}
	require.Empty(t, c.inbox("alice@example.test"))
}
