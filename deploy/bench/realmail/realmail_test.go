package realmail

import (
	"bytes"
	"fmt"
	"net/mail"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// codec is what bodies might be compressed with.
type codec struct {
	name   string
	encode func(dst, src []byte) []byte
	decode func(dst, src []byte) ([]byte, error)
}

func codecs(t testing.TB) []codec {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(128<<10))
	require.NoError(t, err)
	r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	require.NoError(t, err)
	t.Cleanup(r.Close)
	return []codec{
		{"s2", s2.Encode, s2.Decode},
		{"zstd-fastest", func(dst, src []byte) []byte { return w.EncodeAll(src, dst[:0]) },
			func(dst, src []byte) ([]byte, error) { return r.DecodeAll(src, dst[:0]) }},
	}
}

func TestMessages(t *testing.T) {
	m, same := New(7), New(7)
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		for _, kind := range Kinds() {
			one := m.Message(kind, size)
			require.Equal(t, one, same.Message(kind, size), "a seed makes the same mail")
			require.InDelta(t, size, len(one), 1200, "%s of %d", kind, size)
			_, err := mail.ReadMessage(bytes.NewReader(one))
			require.NoError(t, err)
			for line := range bytes.Lines(one) {
				require.True(t, bytes.HasSuffix(line, []byte("\r\n")), "%q", line)
				require.NotContains(t, string(line[:len(line)-2]), "\n")
				require.Less(t, len(line), 998)
			}
		}
	}
	require.Len(t, m.Mix(7, 4<<10), 7)
	require.NotEqual(t, m.Message(Text, 4<<10), m.Message(Text, 4<<10))
}

// Prose shrinks as prose does that people wrote: this repository's own pages.
func TestProseShrinksAsProseDoes(t *testing.T) {
	written, err := os.ReadFile("../../../README.md")
	require.NoError(t, err)
	page := []byte(strings.ReplaceAll(string(written), "\n", "\r\n"))
	var made bytes.Buffer
	New(3).prose(&made, len(page))
	for _, c := range codecs(t) {
		for _, size := range []int{2 << 10, 8 << 10} {
			want, got := shrunk(c, page, size), shrunk(c, made.Bytes(), size)
			t.Logf("%s, %d octets: the README %.2f, made %.2f", c.name, size, want, got)
			require.InDelta(t, want, got, 0.12)
		}
	}
}

// shrunk is to what part of its size a text shrinks in pieces.
func shrunk(c codec, text []byte, piece int) float64 {
	is, was := 0, 0
	for ; len(text) >= piece; text = text[piece:] {
		was += piece
		is += len(c.encode(nil, text[:piece]))
	}
	return float64(is) / float64(was)
}

// processor is the processor time that the process has used: on a shared machine the clock
// on the wall says little.
func processor(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkShrink is what each codec takes for a KiB of each kind of mail, and what it
// leaves of it.
func BenchmarkShrink(b *testing.B) {
	for _, c := range codecs(b) {
		for _, size := range []int{4 << 10, 64 << 10, 256 << 10} {
			for _, kind := range Kinds() {
				if size == 4<<10 && kind >= Picture {
					continue
				}
				benchShrink(b, c, kind, size)
			}
		}
	}
}

func benchShrink(b *testing.B, c codec, kind Kind, size int) {
	var all, packed [][]byte
	is, was := 0, 0
	m := New(5)
	for range max(4, 4<<20/size) { // more than the caches hold
		all = append(all, m.Message(kind, size))
		packed = append(packed, c.encode(nil, all[len(all)-1]))
		is, was = is+len(packed[len(packed)-1]), was+len(all[len(all)-1])
	}
	perKiB := func(b *testing.B, used time.Duration) {
		b.ReportMetric(float64(used.Nanoseconds())/float64(b.N)*1024/float64(was/len(all)), "cpu-ns/KiB")
		b.ReportMetric(float64(is)/float64(was), "left")
	}
	dst := make([]byte, 2*size+4096)
	b.Run(fmt.Sprintf("%s/%d/%s/encode", c.name, size, kind), func(b *testing.B) {
		before := processor(b)
		for i := range b.N {
			c.encode(dst, all[i%len(all)])
		}
		perKiB(b, processor(b)-before)
	})
	b.Run(fmt.Sprintf("%s/%d/%s/decode", c.name, size, kind), func(b *testing.B) {
		before := processor(b)
		for i := range b.N {
			if _, err := c.decode(dst, packed[i%len(packed)]); err != nil {
				b.Fatal(err)
			}
		}
		perKiB(b, processor(b)-before)
	})
}
