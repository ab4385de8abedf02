package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/smtp"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// startSink runs a sink and returns its address.
func startSink(t testing.TB, dir string, discard bool) string {
	t.Helper()
	s, err := newSink(dir, discard)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.serve(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done })
	return l.Addr().String()
}

func sendTo(c *smtp.Client, from, message string, to ...string) error {
	if err := c.Mail(from); err != nil {
		return err
	}
	for _, rcpt := range to {
		if err := c.Rcpt(rcpt); err != nil {
			return err
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	_, _ = io.WriteString(w, message)
	return w.Close()
}

func TestSinkKeepsMessagesWhole(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sink")
	c, err := smtp.Dial(startSink(t, dir, false))
	require.NoError(t, err)
	const text = "Subject: hello\r\n\r\n.\r\n..x\r\nna\xc3\xafve\r\n"
	require.NoError(t, sendTo(c, "a@example.test", text, "b@example.net", "c@example.net"))
	require.NoError(t, sendTo(c, "", "Subject: bounce\r\n\r\n", "a@example.test"))
	require.NoError(t, c.Quit())

	files, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	require.Len(t, files, 2)
	first, err := os.ReadFile(files[0])
	require.NoError(t, err)
	head, found := strings.CutSuffix(string(first), text)
	require.True(t, found, "the message as it came: %q", first)
	require.Regexp(t, `^X-Sink-From: <a@example.test>\r\nX-Sink-To: <b@example.net>\r\nX-Sink-To: <c@example.net>\r\nX-Sink-Client: localhost \[127\.0\.0\.1:\d+\]\r\n$`, head)
	second, err := os.ReadFile(files[1])
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(second), "X-Sink-From: <>\r\n"))
}

func TestSinkDiscards(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sink")
	c, err := smtp.Dial(startSink(t, dir, true))
	require.NoError(t, err)
	require.NoError(t, sendTo(c, "a@example.test", "Subject: x\r\n\r\n", "b@example.net"))
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, files)
}

func BenchmarkSink(b *testing.B) {
	for _, discard := range []bool{false, true} {
		b.Run(fmt.Sprintf("discard=%v", discard), func(b *testing.B) {
			addr := startSink(b, filepath.Join(b.TempDir(), "sink"), discard)
			message := "Subject: x\r\n\r\n" +
				strings.Repeat("0123456789012345678901234567890123456789012345678901234567890123456789\r\n", 56)
			b.SetBytes(int64(len(message)))
			b.RunParallel(func(pb *testing.PB) {
				c, err := smtp.Dial(addr)
				if err != nil {
					b.Error(err)
					return
				}
				defer c.Close()
				for pb.Next() {
					if err := sendTo(c, "a@example.test", message, "b@example.net"); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
