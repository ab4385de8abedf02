package inbound

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/node/mailheader"
	"relay/node/milter"
	"relay/node/verify"
)

// One digest is of what the client has sent and the other of what is kept, in the order
// that digest_top says, also where stages have changed the message.
func TestDigestsOfAnInlineMessage(t *testing.T) {
	const trace = "Received: from a by b\r\n"
	steps := map[string]func(*body){
		"fields": func(b *body) { b.addFields([]byte("Date: now\r\n")) },
		"on top": func(b *body) { b.putOnTop([]byte("Authentication-Results: b; none\r\n")) },
		"an end": func(b *body) { b.endSection() },
		"a strip": func(b *body) {
			b.keepFields(len(verify.Strip(b.fields(), func() []string { b.pay(); return []string{"b"} })))
		},
		"an edit": func(b *body) {
			b.edit(&milter.Verdict{Body: []byte("another text\n")})
		},
	}
	orders := [][]string{
		{}, {"fields"}, {"on top"}, {"fields", "on top"}, {"an end"}, {"an end", "fields", "on top"}, {"a strip"},
		{"a strip", "fields", "on top"}, {"an edit"}, {"fields", "an edit", "on top"},
	}
	for _, sent := range []string{
		"Message-ID: <1@a>\r\n\r\ntext\r\n",
		"Message-ID: <1@a>\r\nAuthentication-Results: b; spf=pass\r\nX: y\r\n\r\ntext\r\n",
	} {
		for _, order := range orders {
			t.Run(fmt.Sprint(len(sent), order), func(t *testing.T) {
				b := &body{ended: true, digest: sha256.New(), dedup: sha256.New(), trace: len(trace)}
				b.buf = []byte(trace + sent)
				b.head, b.owed = mailheader.Parse(b.sent()), len(sent)
				for _, step := range order {
					steps[step](b)
				}
				b.share()
				b.read(b.buf[:3])
				b.read(b.buf[3:])
				b.readAll()
				want := sha256.Sum256([]byte(sent))
				require.Equal(t, want[:], b.dedupDigest())
				want = sha256.Sum256(slices.Concat(b.buf[len(b.last):], b.last))
				require.Equal(t, want[:], b.digest.Sum(nil))
				if !slices.ContainsFunc(order, func(step string) bool { return step[:2] == "an" || step == "a strip" }) {
					require.Equal(t, sent, string(b.buf[len(b.last):]), "it is read once")
				}
			})
		}
	}
}

// The digests of a large message, whose pieces go ahead one by one, are the same.
func TestDigestsOfPieces(t *testing.T) {
	const trace, first, second = "Received: from a by b\r\n", "Message-ID: <1@a>\r\n\r\nte", "xt\r\n"
	in := &intake{body: body{digest: sha256.New(), trace: len(trace)}, env: &envelope{origin: "somebody"}}
	in.buf = []byte(trace + first)
	in.head = mailheader.Parse(in.sent())
	require.NoError(t, in.beginDedup(t.Context()))
	in.addFields([]byte("Date: now\r\n"))
	in.share()
	in.read(in.buf[:40])
	in.read(in.buf[40:])
	in.passDedup(t.Context(), []byte(second))
	in.share()
	in.read([]byte(second))
	in.readAll()
	want := sha256.Sum256([]byte(first + second))
	require.Equal(t, want[:], in.dedupDigest())
	require.Equal(t, trace+"Date: now\r\n", string(in.last))
	want = sha256.Sum256([]byte(first + second + string(in.last)))
	require.Equal(t, want[:], in.digest.Sum(nil))
}
