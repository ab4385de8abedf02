package smtptalk

import (
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestQueuedAs(t *testing.T) {
	require.Equal(t, "4XyZ", queuedAs("2.0.0 Ok: queued as 4XyZ"))
	require.Equal(t, "01HOP000000000000000000000", queuedAs("2.0.0 Ok 01HOP000000000000000000000 accepted"))
	require.Equal(t, "", queuedAs("fine"))
}

func FuzzReply(f *testing.F) {
	f.Add("250-a\r\n250 b\r\n")
	f.Add("999\r\n")
	f.Add("250-x\n")
	f.Fuzz(func(t *testing.T, text string) {
		a, b := net.Pipe()
		go func() {
			defer b.Close()
			_, _ = io.WriteString(b, text)
		}()
		defer a.Close()
		d := newDialogue(a, 0, func(string) {})
		_, _ = d.reply(2)
	})
}
