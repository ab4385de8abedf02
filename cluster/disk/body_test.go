package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
)

func putBody(t testing.TB, s *Store, id spool.ID, chunks ...[]byte) {
	require.NoError(t, direct{s}.Update(func(b spool.Batch) error {
		for i, c := range chunks {
			if err := b.Set(chunkKey(id, uint32(i)), c); err != nil {
				return err
			}
		}
		return nil
	}))
}

func chunkKey(id spool.ID, seq uint32) []byte {
	k := append([]byte{'b'}, id[:]...)
	return append(k, byte(seq>>24), byte(seq>>16), byte(seq>>8), byte(seq))
}

func TestBody(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "s")
	for _, sizes := range [][]int{{}, {0}, {1}, {5000}, {70000, 70000, 3}, {256 << 10, 256 << 10, 0, 17}, {300 << 10}} {
		for _, flush := range []bool{false, true} {
			t.Run(fmt.Sprint(sizes, flush), func(t *testing.T) {
				id := ulid.Make()
				want := []byte("Received: from x\r\n")
				var chunks [][]byte
				for i, n := range sizes {
					c := bodyOf(fmt.Sprint(id, i), n)
					chunks = append(chunks, c)
					want = append(want, c...)
				}
				putBody(t, s, id, chunks...)
				if flush {
					require.NoError(t, s.Flush())
				}
				for _, prefix := range []string{"Received: from x\r\n", ""} {
					open := func() io.ReadCloser {
						r, err := s.OpenBody(id, uint32(len(sizes)), []byte(prefix))
						require.NoError(t, err)
						return r
					}
					want := want[len("Received: from x\r\n")-len(prefix):]
					r := open()
					require.NoError(t, iotest.TestReader(r, want))
					require.NoError(t, r.Close())
					require.NoError(t, r.Close())
					r = open()
					var b bytes.Buffer
					n, err := io.Copy(&b, r)
					require.NoError(t, err)
					require.EqualValues(t, len(want), n)
					require.True(t, bytes.Equal(want, b.Bytes()))
					require.NoError(t, r.Close())
				}
			})
		}
	}
}

func TestBodyIsNeverShort(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "s")
	id := ulid.Make()
	for _, prefix := range []string{"", "p"} {
		_, err := s.OpenBody(id, 1, []byte(prefix))
		require.ErrorIs(t, err, ErrMissing, "before anything was said")
	}
	putBody(t, s, id, []byte("one"), []byte("two"))
	r, err := s.OpenBody(id, 3, nil)
	require.NoError(t, err)
	b, err := io.ReadAll(r)
	require.ErrorIs(t, err, ErrMissing)
	require.Equal(t, "onetwo", string(b))
	_, err = r.Read(make([]byte, 1))
	require.ErrorIs(t, err, ErrMissing, "it stays an error")
	require.NoError(t, r.Close())

	r, err = s.OpenBody(id, 3, []byte("p"))
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, r)
	require.ErrorIs(t, err, ErrMissing)
	_, err = io.Copy(io.Discard, r)
	require.ErrorIs(t, err, ErrMissing)
	require.NoError(t, r.Close())

	r, err = s.OpenBody(id, 2, nil)
	require.NoError(t, err)
	full := errors.New("peer is gone")
	_, err = io.Copy(brokenWriter{full}, r)
	require.ErrorIs(t, err, full)
	require.NoError(t, r.Close())
	_, err = io.ReadAll(r)
	require.Error(t, err)
}

type brokenWriter struct{ err error }

func (w brokenWriter) Write(p []byte) (int, error) { return 1, w.err }

func TestBodyOutlivesAnInstall(t *testing.T) {
	from, _ := source(t, 30)
	m, b := stream(t, from)
	s := openStore(t, vfs.NewMem(), "s")
	id := ulid.Make()
	putBody(t, s, id, bodyOf("1", 9000), bodyOf("2", 9000))
	r, err := s.OpenBody(id, 2, nil)
	require.NoError(t, err)
	require.NoError(t, receive(s, m, bytes.NewReader(b)))
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.True(t, bytes.Equal(append(bodyOf("1", 9000), bodyOf("2", 9000)...), got))
	require.NoError(t, r.Close())
	_, err = s.OpenBody(id, 2, nil)
	require.ErrorIs(t, err, ErrMissing)
}

func TestDeletedBodiesNeverReachTheDisk(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "s", func(o *Options) { o.MemTableSize = 16 << 20 })
	for i := range 100 {
		k := fmt.Sprintf("b/%d", i)
		apply(t, s, "body "+k+" 16000", "del "+k)
	}
	require.NoError(t, s.Flush())
	require.Less(t, s.Metrics().DiskBytes, int64(64<<10))
	require.Zero(t, s.Metrics().BodyBytes)
}
