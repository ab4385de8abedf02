package inbound

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
)

func TestBuffersOfAnySize(t *testing.T) {
	var b buffers
	for n, want := range map[int]int{
		0: 8 << 10, 8 << 10: 8 << 10, 8<<10 + 1: 16 << 10, 200 << 10: 256 << 10, 1 << 20: spool.MaxInline,
	} {
		p := b.get(n)
		require.Empty(t, p)
		require.Equal(t, want, cap(p), n)
		b.put(append(p, 'x'))
	}
	b.put(make([]byte, 10<<10)) // none of ours
	require.Equal(t, 16<<10, cap(b.get(10<<10)))

	p := b.get(0)
	text := strings.Repeat("0123456789abcdef", spool.MaxInline/16)
	for len(p) < spool.MaxInline {
		if len(p) == cap(p) {
			p = b.grow(p)
		}
		p = append(p, text[len(p):cap(p)]...)
	}
	require.Equal(t, text, string(p))
}

type heldSoFar struct {
	*strings.Reader
	held []int
}

func (h *heldSoFar) Holds(octets int) bool { h.held = append(h.held, octets); return true }

// An intake tells the capacity of its buffers, and not how many octets have come.
func TestMessagesSayWhatTheyHold(t *testing.T) {
	in := &intake{mailer: newMailer(nil, nil, "n1", "mx", 100, nil)}
	in.buf = in.buffers.get(0)
	body := &heldSoFar{Reader: strings.NewReader(strings.Repeat("x", 130<<10))}
	in.holder = body
	require.NoError(t, in.fill(body))
	require.True(t, in.ended)
	require.Len(t, in.buf, 130<<10)
	require.Equal(t, spool.MaxInline, body.held[len(body.held)-1])
	in.top, in.sample = make([]byte, 100<<10), make([]byte, 16<<10)
	in.holds()
	require.Equal(t, spool.MaxInline+116<<10, body.held[len(body.held)-1], "with what is held back")
}
