package nodetest

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
)

// TestSizesAreWhatRetrSends: LIST, STAT, what the quota counts and what the admin
// API shows are the octets that RETR sends, also where a message came without a
// last line end, which POP3 adds.
func TestSizesAreWhatRetrSends(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Nodes: 1})
	node := c.Nodes[0]
	c.Eventually(time.Minute, "the cluster version is not raised", func() bool {
		st, err := node.Client().Status(within(t, 20*time.Second))
		return err == nil && st.ClusterVersion >= 2
	})
	head := "From: alice@example.test\r\nSubject: s\r\nMessage-ID: <%s@test>\r\n\r\n"
	for name, body := range map[string]string{
		"ended": "text\r\n", "unended": "no end", "cr": "text\r", "lf": "text\n", "gap": "",
		"large": strings.Repeat("0123456789abcdef0123456789abcdef\r\n", spool.MaxInline/30) + "no end",
	} {
		body = strings.Replace(head, "%s", name, 1) + body
		d := talkTo(t, node.SMTP)
		d.play("C: MAIL FROM:<alice@example.test> BODY=BINARYMIME", "S: 250", "C: RCPT TO:<bob@example.test>", "S: 250")
		go func() { _, _ = io.WriteString(d.conn, chunks(body, len(body))) }()
		d.play("S: 250 2.0.0 Ok: queued as", "C: QUIT", "S: 221")
	}
	ctx := within(t, 3*time.Minute)
	p, err := node.Login(ctx, "bob")
	require.NoError(t, err)
	told := map[int]int64{}
	require.NoError(t, p.List(ctx, func(n int, size int64) { told[n] = size }))
	require.Len(t, told, 6)
	var sum int64
	for n, size := range told {
		sent, err := p.Retr(ctx, n, io.Discard)
		require.NoError(t, err)
		require.Equal(t, sent, size, "message %d", n)
		sum += sent
	}
	_, octets, err := p.Stat(ctx)
	require.NoError(t, err)
	require.Equal(t, sum, octets)
	require.NoError(t, p.Quit(ctx))

	box, err := node.Client().Mailbox(ctx, "bob@example.test")
	require.NoError(t, err)
	require.EqualValues(t, sum, box.Bytes)
	for i, one := range box.Content {
		require.EqualValues(t, told[i+1], one.Size)
	}
	var kept int64
	for _, one := range box.Content {
		body, said, err := node.Client().OpenMail(ctx, "bob@example.test", one.UID)
		require.NoError(t, err)
		n, err := io.Copy(io.Discard, body)
		require.NoError(t, err)
		require.NoError(t, body.Close())
		require.Equal(t, said, n)
		kept += n
	}
	require.Equal(t, sum-4*2, kept, "four of them are stored without their last line end")
	c.Verify()
}
