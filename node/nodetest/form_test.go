package nodetest

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

// TestFormsOfLines: whatever a line looks like, it is one command or none, with
// one answer. wants are the beginnings of all answers; "closed": no more comes.
func TestFormsOfLines(t *testing.T) {
	t.Parallel()
	c, _ := relay(t, nil)
	const mail = "MAIL FROM:<a@b.example>\r\n"
	long := strings.Repeat("x", 5000)
	for _, one := range []struct{ said, wants string }{
		{"NOOP\r\r\n", "500"}, {"NOOP \x00\r\n", "501"}, {"\x00NOOP\r\n", "500"}, {"NOOP\rNOOP\r\n", "500"},
		{"NOOP x\rMAIL FROM:<a@b.example>\r\n", "501"}, {"NOOP x\n" + mail, "500"}, {"\n" + mail, "500"},
		{"\r\n" + mail, "500 250"}, {"NOOP x\n\n\n" + mail, "500"}, {"NOOP " + long + "\n" + mail, "500"},
		{"NOOP " + long + "\r\n" + mail, "500 250"}, {long + "\r" + long + "\r\n" + mail, "500 250"},
		{"NOOP\t\r\n", "500"}, {"MAIL\tFROM:<a@b.example>\r\n", "500"}, {"MAIL FROM:\t<a@b.example>\r\n", "501"},
		{"MAIL FROM :<a@b.example>\r\n", "501"}, {"  " + mail, "500"}, {"mail from:<a@b.example>   \r\n", "250"},
		{"MAIL FROM: <a@b.example>\r\n", "250"}, {"MAIL  FROM:<a@b.example>\r\n", "250"},
		{"\xef\xbb\xbfNOOP\r\n", "500"}, {"NOOP \xc2\x85\r\n", "501"}, {"NOOP \xe2\x80\xae\r\n", "501"},
		{"Subject: x\r\n", "500"}, {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "500 500 500"},
		{"BDAT 5\r\nNOOP\n", "503"}, {"BDAT 0 LAST\r\n", "503"}, {"BDAT\r\n" + mail, "501 closed"},
		{"BDAT 4 FIRST\r\nNOOP" + mail, "501 closed"}, {"BDAT -1 LAST\r\n" + mail, "501 closed"},
		{"BDAT +4\r\n" + mail, "501 closed"}, {"BDAT 0x4\r\n" + mail, "501 closed"},
		{"BDAT 4\tLAST\r\n" + mail, "501 closed"},
		{"BDAT 999999999999999999999 LAST\r\n" + mail, "501 closed"},
		{"MAIL FROM:<> SIZE=0\r\n", "250"}, {"MAIL FROM:<> SIZE=-1\r\n", "501"}, {"MAIL FROM:<> SIZE=+1\r\n", "501"},
		{"MAIL FROM:<> SIZE=1 SIZE=1\r\n", "501"}, {"MAIL FROM:<> SIZE=99999999999999999999\r\n", "552"},
		{"MAIL FROM:<> SIZE=999999999999999999999\r\n", "501"}, {"MAIL FROM:<> SIZE\r\n", "501"},
		{"MAIL FROM:<>SIZE=1\r\n", "501"}, {"MAIL FROM:<> body=8bitmime\r\n", "250"}, {"MAIL FROM:<> BODY=9BIT\r\n", "501"},
		{"MAIL FROM:<> SMTPUTF8=yes\r\n", "501"}, {"MAIL FROM:<> RET=full ENVID=a+2Bb\r\n", "250"},
		{"MAIL FROM:<> ENVID=+ZZ\r\n", "501"}, {"MAIL FROM:<> ENVID=+0D+0A\r\n", "501"},
		{"MAIL FROM:<> ENVID=\xfc\r\n", "501"},
		{"MAIL FROM:<> ENVID=" + strings.Repeat("\xc3\xbc", 50) + "\r\n", "501"},
		{"MAIL FROM:<> AUTH=<>\r\n", "250"}, {"MAIL FROM:<> AUTH=+C2+85\r\n", "501"}, {"MAIL FROM:<\xfc@b.example>\r\n", "5"},
		{"MAIL FROM:<\xc3\xbc@b.example>\r\n", "553"}, {"MAIL FROM:<\xc3\xbc@b.example> SMTPUTF8\r\n", "250"},
		{"MAIL FROM:<a@b.example>\r\nAUTH PLAIN =\r\nDATA\r\nRSET\r\n", "250 503 503 250"},
		{"MAIL FROM:<a@b.example>\r\nMAIL FROM:<c@b.example>\r\n", "250 503"},
		{"MAIL FROM:<a@b.example>\r\nEHLO again\r\nRCPT TO:<alice@example.test>\r\n", "250 250 503"},
	} {
		d := strangerTo(t, c.Nodes[0].SMTP)
		d.play("S: 220", "C: EHLO c.example", "S: 250")
		d.raw(one.said)
		wants := strings.Fields(one.wants)
		for _, want := range wants {
			if want == "closed" {
				d.closed()
				continue
			}
			code, text, err := d.tp.ReadResponse(0)
			require.NoError(t, err, "%.80q wants %s", one.said, one.wants)
			require.True(t, strings.HasPrefix(fmt.Sprint(code), want), "%.80q wants %s, got %d %s", one.said, one.wants,
				code, text)
		}
		if wants[len(wants)-1] != "closed" {
			d.play("C: QUIT", "S: 221")
			d.closed()
		}
	}
}

// TestFormsOfForeignProtocols: the first line of any other protocol that puts
// words of its own before a stranger's text ends the connection.
func TestFormsOfForeignProtocols(t *testing.T) {
	t.Parallel()
	c, _ := relay(t, nil)
	mail := "EHLO c\r\nMAIL FROM:<a@far.example>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n"
	for _, first := range []string{
		"PROPFIND / HTTP/1.1\r\n", "M-SEARCH * HTTP/1.1\r\n", "INVITE sip:x@y SIP/2.0\r\n", "OPTIONS rtsp://x RTSP/1.0\r\n",
		" GET / HTTP/1.1\r\n", "GET\t/\tHTTP/1.1\r\n", "GET /\r\n", "Get http://x/ http/1.1\r\n", "post /x\r\n",
		"  Host: x\r\n", "\tX-A:b\r\n",
		"POST / HTTP/1.1\r\r\n", "PATCH /x HTTP/1.1\n", "HELO: x\r\n", "Host :\tx\r\n", "X:\r\n", "{\"a\":1}\r\n",
		"TRACE / HTTP/1.1 \r\n", "CONNECT x:25\r\n", "DELETE /a%20b HTTP/3\r\n",
		"GET /" + strings.Repeat("x", 5000) + " HTTP/1.0\r\n\r\n",
		strings.Repeat("x", 5000) + "\n", "BREW /pot HTCPCP/1.0\r\nHost: x\r\n",
	} {
		d := strangerTo(t, c.Nodes[0].SMTP)
		d.play("S: 220")
		d.raw(first + mail)
		for last := ""; !strings.HasPrefix(last, "421"); {
			last = d.play("S: ")
			require.NotContains(t, last, "queued", "%q", first)
			require.False(t, strings.HasPrefix(last, "2"), "%q: %s", first, last)
		}
		d.closed()
	}
	require.Empty(t, c.inbox("alice@example.test"))
}

// TestFormsOfRecipients: addresses as people and programs write them.
func TestFormsOfRecipients(t *testing.T) {
	t.Parallel()
	c, _ := relay(t, nil)
	require.NoError(t, c.Nodes[0].Client().SetAlias(within(t, 3*time.Minute), admin.By{Why: "test"},
		admin.Alias{Address: "postmaster@example.test", Targets: []string{"alice"}}))
	var d *talk
	for i, one := range [][2]string{
		{"<alice@EXAMPLE.TEST>", "250"}, {"<\"alice\"@example.test>", "250"}, {"<\"al\\ice\"@example.test>", "250"},
		{"<alice@example.test..>", "501"}, {"<alice.@example.test>", "550"}, {"<\"alice \"@example.test>", "550"},
		{"<\"\"@example.test>", "550"}, {"<@example.test>", "501"}, {"<alice@>", "501"}, {"<alice>", "501"},
		{"alice@example.test", "501"}, {"<<alice@example.test>>", "501"}, {"<alice@example.test", "501"},
		{"<alice@exa mple.test>", "501"}, {"<alice @example.test>", "501"}, {"<alice@ example.test>", "501"},
		{"<>", "501"}, {"< >", "501"}, {"<alice@@example.test>", "501"}, {"<alice@far.example@example.test>", "501"},
		{"<\"alice@far.example\"@example.test>", "550"}, {"<alice%far.example@example.test>", "550"},
		{"<far.example!alice@example.test>", "550"}, {"<alice@-example.test>", "501"}, {"<alice@example-.test>", "501"},
		{"<alice@.example.test>", "501"}, {"<alice@example..test>", "501"}, {"<alice@[127.0.0.1>", "501"},
		{"<alice@[127.0.0.1.]>", "501"}, {"<alice@[IPv6:fe80::1%25lo]>", "501"}, {"<alice@[::1]>", "5"},
		{"<alice@" + strings.Repeat("a", 64) + ".test>", "501"}, {"<" + strings.Repeat("a", 400) + "@example.test>", "501"},
		{"<POSTMASTER>", "250"}, {"<al(c)ice@example.test>", "501"}, {"<alice@example.test>x", "501"},
		{"<alice@example.test> NOTIFY=NEVER,SUCCESS", "501"}, {"<alice@example.test> NOTIFY=SUCCESS,success", "501"},
		{"<alice@example.test> NOTIFY=", "501"}, {"<alice@example.test> NOTIFY=never ORCPT=rfc822;a+2Bb@c", "250"},
		{"<alice@example.test> ORCPT=rfc822", "501"}, {"<alice@example.test> ORCPT=rfc822;", "501"},
		{"<alice@example.test> ORCPT=;a@b", "501"}, {"<alice@example.test> ORCPT=rfc822;a+0D+0Ab@c", "501"},
		{"<alice@example.test> ORCPT=rfc822;a=b@c", "501"}, {"<alice@example.test> SIZE=1", "555"},
		{"<alice@example.test> ORCPT=utf-8;\\x{110000}@c", "501"}, {"<alice@example.test> ORCPT=utf-8;\\x{85}@c", "501"},
	} {
		if i%8 == 0 { // ten errors end a session
			d = strangerTo(t, c.Nodes[0].SMTP)
			d.play("S: 220", "C: EHLO c.example", "S: 250", "C: MAIL FROM:< >", "S: 250")
		}
		d.raw("RCPT TO:" + one[0] + "\r\n")
		got := d.play("S: ")
		require.True(t, strings.HasPrefix(got, one[1]), "%s: want %s, got %s", one[0], one[1], got)
	}
}

// TestFormsOfMessageIDs: on submission a message keeps the one Message-ID field
// that it has, in whatever form, and is found by what stands in it.
func TestFormsOfMessageIDs(t *testing.T) {
	t.Parallel()
	c, port := relay(t, nil)
	for field, id := range map[string]string{
		"Message-ID:\t<1@f.example>\r\n": "1@f.example", "Message-ID :<2@f.example>\r\n": "2@f.example",
		"Message-ID: 3@f.example\r\n": "3@f.example", "Message-ID:\r\n <4@\r\n\tf.example>\r\n": "4@f.example",
		"Message-ID: (a comment) <5@f.example>\r\n":    "5@f.example",
		"Message-ID: <6@f.example> (a comment)\r\n":    "6@f.example",
		"MESSAGE-id:   \r\n   \r\n\t<7@f.example>\r\n": "7@f.example", "Message-ID: <8 @ f.example>\r\n": "8@f.example",
		"Message-ID: <\"a b\"@f.example>\r\n": "\"a b\"@f.example", "Message-ID: no brackets\r\n": "no brackets",
		"Message-ID:\r\n": "", "Message-ID: \r\n \r\n": "", "Message-ID: <>\r\n": "",
		"Message-ID: <9@f.example>\r\n" + strings.Repeat("X-Long: "+strings.Repeat("y", 900)+"\r\n", 200): "9@f.example",
	} {
		d := talkTo(t, port)
		d.play(loginAlice, "S: 235", "C: MAIL FROM:<alice@example.test>", "S: 250",
			"C: RCPT TO:<bob@example.test>", "S: 250", "C: DATA", "S: 354")
		d.raw("From: alice@example.test\r\n" + field + "\r\nx\r\n.\r\n")
		sent := idOf(d.play("S: 250"))
		count := strings.Count(strings.ToLower(c.last("bob@example.test")), "\r\nmessage-id")
		require.Equal(t, 1, count, "%.60q", field)
		if id == "" {
			continue
		}
		found, err := c.Nodes[0].Client().Find(t.Context(), admin.TraceQuery{MessageID: id})
		require.NoError(t, err, "%.60q", field)
		require.Len(t, found, 1, "%.60q", field)
		require.Equal(t, sent, found[0].ID)
	}
}

// TestFormsOfLogins: names of one account in several spellings, the flags of
// channel binding, names that are none, and passwords in all their forms.
func TestFormsOfLogins(t *testing.T) {
	t.Parallel()
	c, port := relay(t, nil)
	ctx, by := within(t, 3*time.Minute), admin.By{Why: "test"}
	const set = "ju\u0308rgen\u00a0²"
	require.NoError(t, c.Nodes[0].Client().AddUser(ctx, by, admin.UserAdd{Address: "carol@example.test", Password: set}))
	plain := func(id, user, secret string) string {
		return base64.StdEncoding.EncodeToString([]byte(id + "\x00" + user + "\x00" + secret))
	}
	for _, one := range []struct{ line, want string }{
		{"AUTH PLAIN " + plain("Alice@EXAMPLE.test", "alice", "secret"), "235"},
		{"AUTH PLAIN " + plain("alice", "ALICE@example.test", "secret"), "235"},
		{"auth plain " + plain("", "alice@example.test.", "secret"), "5"},
		{"AUTH PLAIN " + plain("bob", "alice", "secret"), "535"}, {"AUTH PLAIN " + plain("nobody", "alice", "secret"), "535"},
		{"AUTH PLAIN " + plain("alice@far.example", "alice", "secret"), "535"},
		{"AUTH PLAIN " + plain("", "alice", "Secret"), "535"}, {"AUTH PLAIN " + plain("", "", "secret"), "501"},
		{"AUTH PLAIN " + plain("", "alice", ""), "501"}, {"AUTH PLAIN " + plain("", "alice", "secret\x00"), "501"},
		{"AUTH PLAIN =", "501"}, {"AUTH PLAIN *", "501"}, {"AUTH PLAIN !", "501"}, {"AUTH PLAIN AGE", "501"},
		{"AUTH PLAIN  " + plain("", "alice", "secret"), "235"}, {"AUTH", "501"}, {"AUTH SCRAM-SHA-256-PLUS", "504"},
		{"AUTH XOAUTH2 abc", "504"}, {"AUTH PLAIN " + plain("", "carol", "jürgen 2"), "235"},
		{"AUTH PLAIN " + plain("", "carol", set), "235"}, {"AUTH PLAIN " + plain("", "carol", "j\u00fcrgen\u00a02"), "235"},
		{"AUTH PLAIN " + plain("", "carol", "jurgen 2"), "535"},
	} {
		d := talkTo(t, port)
		d.play("C: " + one.line)
		got := d.play("S: ")
		require.True(t, strings.HasPrefix(got, one.want), "%s: want %s, got %s", one.line, one.want, got)
	}
	for _, one := range []struct{ gs2, user, want string }{
		{"n,,", "alice", "235"}, {"y,,", "alice", "235"}, {"n,a=alice,", "alice@example.test", "235"},
		{"n,a=ALICE@Example.Test,", "alice", "235"}, {"y,a=alice@example.test,", "Alice", "235"},
		{"n,a=bob,", "alice", "535"}, {"n,a=alice@far.example,", "alice", "535"}, {"n,a=,", "alice", "235"},
		{"n,alice,", "alice", "501"}, {"p=tls-unique,,", "alice", "501"}, {"x,,", "alice", "501"}, {"N,,", "alice", "501"},
		{"n,,", "al=ice", "501"}, {"n,,", "alice=", "501"}, {"n,,", "alice=4", "501"}, {"n,,", "alice=40example.test", "501"},
		{"n,,", "alice=2c", "501"}, {"n,a=alice=3d,", "alice", "501"}, {"n,,", "alice=3D", "535"}, {"n,,", "alice=2C", "535"},
		{"n,,", "", "501"}, {"n,,m=x,", "alice", "501"}, {"n,,", "ali\u00adce", "235"}, {"n,,", "\uff41lice", "235"},
		{"n,,", "carol", "235"}, {"n,,", "alice\x00", "501"}, {"n,,", "\xff", "501"}, {"n,,", "\u202ealice", "5"},
	} {
		got := byScram(t, port, one.gs2, one.user, map[bool]string{true: "jürgen 2", false: "secret"}[one.user == "carol"])
		require.True(t, strings.HasPrefix(got, one.want), "%q n=%q: want %s, got %s", one.gs2, one.user, one.want, got)
	}
}

// byScram logs in with a first message as it is given, and returns the last reply.
func byScram(t *testing.T, port, gs2, user, password string) string {
	t.Helper()
	d := talkTo(t, port)
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	const nonce = "rOprNGfwEbeRWgbNEkqO"
	d.play("C: AUTH SCRAM-SHA-256 " + encode(gs2+"n="+user+",r="+nonce))
	first := d.play("S: ")
	text, more := strings.CutPrefix(first, "334 ")
	if !more {
		return first
	}
	challenge, err := base64.StdEncoding.DecodeString(text)
	require.NoError(t, err)
	fields := strings.Split(string(challenge), ",")
	final := "c=" + encode(gs2) + "," + fields[0]
	proof := proofOf(t, password, fields, "n="+user+",r="+nonce+","+string(challenge)+","+final)
	d.play("C: " + encode(final+",p="+proof))
	last := d.play("S: ")
	if strings.HasPrefix(last, "334") {
		last = d.play("C: ", "S: ")
	}
	return last
}

// proofOf is the client's proof (RFC 5802 section 3) for the server's first message.
func proofOf(t *testing.T, password string, first []string, message string) string {
	t.Helper()
	salt, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(first[1], "s="))
	require.NoError(t, err)
	iterations, err := strconv.Atoi(strings.TrimPrefix(first[2], "i="))
	require.NoError(t, err)
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	require.NoError(t, err)
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	key := mac(salted, "Client Key")
	stored := sha256.Sum256(key)
	subtle.XORBytes(key, key, mac(stored[:], message))
	return base64.StdEncoding.EncodeToString(key)
}
