package nodetest

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

// TestFormsOfSubmittedFields: on submission a message gets no second From, Date or Message-ID,
// in whatever form it has its own.
func TestFormsOfSubmittedFields(t *testing.T) {
	t.Parallel()
	c, port := relay(t, nil)
	name := regexp.MustCompile(`(?im)^(date|from|message-id)[ \t]*:`)
	for i, fields := range []string{
		"FROM:\r\n\tAlice\r\n <alice@example.test>\r\nDATE :\r\n Tue, 1 Dec 2026 00:00:00 +0000\r\n" +
			"Message-ID\t:\r\n\t<%d@x>\r\n",
		"from\t: (c) alice@example.test\r\nDate:\r\n \r\n\tTue, 1 Dec 2026\r\n 00:00:00 +0000\r\nmessage-ID:<%d@x>\r\n",
		"From:\r\n alice@\r\n example.test\r\ndate:\r\nMESSAGE-ID: %d\r\n",
		"From: =?utf-8?Q?Al=0D=0AX?= <alice@example.test>\r\nDate: x\r\nMessage-ID: <%d@x>\r\n",
		"From: alice@example.test (\r\n a\r\n )\r\nDate:\r\nMessage-ID: (\r\n) <%d@x>\r\n",
		"Subject: x\r\n From: y\r\n\tDate: y\r\nDate: z\r\nFrom: alice@example.test\r\nMessage-ID:\r\n\t\r\n %d\r\n",
	} {
		d := talkTo(t, port)
		d.play(loginAlice, "S: 235", "C: MAIL FROM:<alice@example.test>", "S: 250",
			"C: RCPT TO:<bob@example.test>", "S: 250", "C: DATA", "S: 354")
		d.raw(fmt.Sprintf(fields, i) + "\r\nx\r\n.\r\n")
		d.play("S: 250")
		head, _, _ := strings.Cut(c.last("bob@example.test"), "\r\n\r\n")
		require.Len(t, name.FindAllString(head, -1), 3, "%q", head)
	}
}

// TestFormsOfPOP3Logins: as TestFormsOfLogins, by POP3: an account in several spellings, answers
// that are no base64, exchanges that are given up, passwords in their forms.
func TestFormsOfPOP3Logins(t *testing.T) {
	t.Parallel()
	c, _ := relay(t, nil)
	const set = "ju\u0308rgen\u00a0²"
	require.NoError(t, c.Nodes[0].Client().AddUser(within(t, 3*time.Minute), admin.By{Why: "test"},
		admin.UserAdd{Address: "carol@example.test", Password: set}))
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	plain := func(id, user, secret string) string { return encode(id + "\x00" + user + "\x00" + secret) }
	for _, one := range []struct{ said, want string }{
		{"AUTH PLAIN " + plain("Alice@EXAMPLE.test", "alice", "secret"), "+OK"},
		{"AUTH PLAIN " + plain("alice", "ALICE@example.test", "secret"), "+OK"},
		{"auth plain\n" + plain("alice@Example.Test", "Alice", "secret"), "+ |+OK"},
		{"AUTH PLAIN " + plain("bob", "alice", "secret"), "-ERR"},
		{"AUTH PLAIN " + plain("nobody", "alice", "secret"), "-ERR"},
		{"AUTH PLAIN " + plain("alice@far.example", "alice", "secret"), "-ERR"},
		{"AUTH PLAIN " + plain("", "alice", ""), "-ERR"}, {"AUTH PLAIN " + plain("", "", "secret"), "-ERR"},
		{"AUTH PLAIN " + plain("", "alice", "secret\x00"), "-ERR"}, {"AUTH PLAIN =", "-ERR"}, {"AUTH PLAIN !", "-ERR"},
		{"AUTH PLAIN AGE", "-ERR"}, {"AUTH PLAIN\n*", "+ |-ERR"}, {"AUTH PLAIN\n", "+ |-ERR"},
		{"AUTH LOGIN\n*", "+ |-ERR"}, {"AUTH LOGIN " + encode("alice") + "\n*", "+ |-ERR"},
		{"AUTH LOGIN " + encode("Alice@Example.TEST") + "\n" + encode("secret"), "+ |+OK"},
		{"AUTH LOGIN\n" + encode("alice") + "\n" + encode("secret"), "+ |+ |+OK"},
		{"AUTH SCRAM-SHA-256 " + encode("n,,n=alice,r=x") + "\n*", "+ |-ERR"},
		{"AUTH SCRAM-SHA-256 " + encode("n,,n=alice=,r=x"), "-ERR"},
		{"AUTH SCRAM-SHA-256 " + encode("n,a=bob,n=alice,r=x"), "-ERR"},
		{"AUTH SCRAM-SHA-256 " + encode("y,a=ALICE,n=alice@example.test,r=x"), "+ "},
		{"AUTH SCRAM-SHA-256-PLUS", "-ERR"}, {"AUTH XOAUTH2 abc", "-ERR"},
		{"AUTH PLAIN " + plain("", "carol", "jürgen 2"), "+OK"}, {"AUTH PLAIN " + plain("", "carol", set), "+OK"},
		{"AUTH PLAIN " + plain("", "carol", "jurgen 2"), "-ERR"},
		{"USER \xffalice\nPASS secret", "+OK|-ERR"}, {"USER ali\u202ece\nPASS secret", "+OK|-ERR"},
		{"USER Alice\nPASS secret", "+OK|+OK"},
	} {
		conn, err := net.Dial("tcp", c.Nodes[0].POP3)
		require.NoError(t, err)
		_ = conn.SetDeadline(time.Now().Add(3 * time.Minute))
		in := bufio.NewReader(conn)
		hear := func(want string) {
			line, err := in.ReadString('\n')
			require.NoError(t, err, "%q wants %q", one.said, want)
			require.True(t, strings.HasPrefix(line, want), "%q wants %q, got %q", one.said, want, line)
		}
		hear("+OK")
		wants := strings.Split(one.want, "|")
		for i, line := range strings.Split(one.said, "\n") {
			_, err = fmt.Fprintf(conn, "%s\r\n", line)
			require.NoError(t, err)
			hear(wants[i])
		}
		if strings.HasSuffix(one.want, "+OK") { // which gives the maildrop back
			_, err = fmt.Fprint(conn, "QUIT\r\n")
			require.NoError(t, err)
			hear("+OK")
		}
		_ = conn.Close()
	}
}
