package pop3_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/pop3"
)

// shelf is a maildrop of one body under many numbers.
type shelf struct {
	n    int
	body []byte
}

func (s *shelf) Login(context.Context, *pop3.Peer, string, string) (pop3.Maildrop, error) {
	return s, nil
}
func (s *shelf) SameAccount(_ context.Context, one, other string) bool { return one == other }
func (s *shelf) Info() pop3.Info                                       { return pop3.Info{} }
func (s *shelf) List() pop3.List                                       { return s }
func (s *shelf) Len() int                                              { return s.n }
func (s *shelf) Size(int) int64                                        { return int64(len(s.body)) }
func (s *shelf) Close() error                                          { return nil }
func (s *shelf) OnLost(func(string))                                   {}

func (s *shelf) AppendUID(dst []byte, i int) []byte {
	return strconv.AppendUint(append(dst, "01J8Z0"...), uint64(i), 16)
}

func (s *shelf) Open(context.Context, int) (io.ReadCloser, error) {
	return book{bytes.NewReader(s.body)}, nil
}

func (s *shelf) Commit(context.Context, []int, bool) error   { return nil }
func (s *shelf) Wake(context.Context) (pop3.Maildrop, error) { return s, nil }

type book struct{ *bytes.Reader }

func (book) Close() error { return nil }

func bench(b *testing.B, n, size int) *pop3.Client {
	line := strings.Repeat("x", 70) + "\r\n"
	body := "Subject: bench\r\n\r\n" + strings.Repeat(line, size/len(line))
	s := serve(b, config(&shelf{n: n, body: []byte(body)}), false)
	c := dial(b, s)
	require.NoError(b, c.Login(b.Context(), "u", "s"))
	return c
}

func BenchmarkRetr(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			c := bench(b, 1, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				_, err := c.Retr(context.Background(), 1, io.Discard)
				require.NoError(b, err)
			}
		})
	}
}

func BenchmarkRetrPipelined(b *testing.B) {
	const n = 1000
	c := bench(b, n, 4<<10)
	b.ReportAllocs()
	for b.Loop() {
		err := c.RetrPipelined(context.Background(), 1, n, 64, func(int) io.Writer { return io.Discard })
		require.NoError(b, err)
	}
	b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "messages/s")
}

func BenchmarkUIDL(b *testing.B) {
	const n = 100_000
	c := bench(b, n, 100)
	b.ReportAllocs()
	for b.Loop() {
		lines := 0
		require.NoError(b, c.UIDL(context.Background(), func(int, []byte) { lines++ }))
		require.Equal(b, n, lines)
	}
	b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "lines/s")
}

func BenchmarkList(b *testing.B) {
	const n = 100_000
	c := bench(b, n, 100)
	for b.Loop() {
		require.NoError(b, c.List(context.Background(), func(int, int64) {}))
	}
	b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "lines/s")
}

func BenchmarkSession(b *testing.B) {
	line := []byte("Subject: x\r\n\r\n")
	s := serve(b, config(&shelf{n: 100, body: line}), false)
	for b.Loop() {
		c, err := pop3.Dial(context.Background(), s.addr, nil)
		require.NoError(b, err)
		require.NoError(b, c.Login(context.Background(), "u", "s"))
		_, _, err = c.Stat(context.Background())
		require.NoError(b, err)
		require.NoError(b, c.UIDL(context.Background(), func(int, []byte) {}))
		require.NoError(b, c.Quit(context.Background()))
	}
}
