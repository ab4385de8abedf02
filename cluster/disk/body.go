package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"relay/cluster/spool"
)

// ErrMissing says that a chunk of a body is not in the store.
var ErrMissing = errors.New("disk: a part of the body is missing")

// OpenBody returns a body: prefix, and behind it the chunks 0 to chunks-1 in
// order. A chunk that is missing or can not be read is an error of Read and
// WriteTo, of OpenBody for the first one, so that of a message of one chunk all is
// there before anybody is told so; never an early end. The reader
// holds one chunk, in a buffer of its own: the store's memory must not depend
// on how fast a client reads. It reads on from the same database where a
// snapshot is installed meanwhile. One goroutine may use it, and must close it.
func (s *Store) OpenBody(id spool.ID, chunks uint32, prefix []byte) (io.ReadCloser, error) {
	h, err := s.acquire()
	if err != nil {
		return nil, err
	}
	b := &body{h: h, chunks: chunks, rest: prefix}
	b.key[0] = 'b'
	copy(b.key[1:], id[:])
	if chunks > 0 {
		if err := b.load(); err != nil {
			b.Close()
			return nil, err
		}
		if len(prefix) > 0 {
			b.ahead, b.rest = b.rest, prefix
		}
	}
	return b, nil
}

type body struct {
	h            *handle
	key          [21]byte // b<id><seq>
	next, chunks uint32
	rest         []byte // of the prefix or of the chunk in buf
	ahead        []byte // the first chunk, while the prefix is read
	buf          *[]byte
	err          error
}

// load reads the next chunk into the buffer.
func (b *body) load() error {
	if b.err != nil {
		return b.err
	}
	if b.h == nil {
		return ErrClosed
	}
	if b.ahead != nil {
		b.rest, b.ahead = b.ahead, nil
		return nil
	}
	if b.err = b.read(); b.err == nil {
		b.next++
	}
	return b.err
}

func (b *body) read() error {
	if err := b.h.s.broke(); err != nil {
		return err
	}
	binary.BigEndian.PutUint32(b.key[17:], b.next)
	v, c, err := b.h.db.Get(b.key[:])
	if errors.Is(err, pebble.ErrNotFound) {
		return fmt.Errorf("%w: %s, chunk %d of %d", ErrMissing, spool.ID(b.key[1:17]), b.next, b.chunks)
	}
	if err != nil {
		return b.h.s.checked(err)
	}
	b.grow(len(v))
	b.rest = append((*b.buf)[:0], v...)
	return c.Close()
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if b.next == b.chunks && b.ahead == nil && b.err == nil {
			return 0, io.EOF
		}
		if err := b.load(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// WriteTo implements io.WriterTo.
func (b *body) WriteTo(w io.Writer) (n int64, err error) {
	for {
		if len(b.rest) > 0 {
			m, err := w.Write(b.rest)
			n += int64(m)
			b.rest = b.rest[m:]
			if err != nil {
				return n, err
			}
		}
		if b.next == b.chunks && b.ahead == nil && b.err == nil {
			return n, nil
		}
		if err := b.load(); err != nil {
			return n, err
		}
	}
}

// Close implements io.Closer. It may be called more than once.
func (b *body) Close() error {
	if b.h == nil {
		return nil
	}
	b.release()
	b.rest, b.ahead = nil, nil
	b.h.release()
	b.h = nil
	return nil
}

// buffers are kept by size: most bodies are small, and 10,000 sessions must
// not hold a quarter of a megabyte each.
type buffers [len(bufferSizes)]sync.Pool

var bufferSizes = [...]int{8 << 10, 64 << 10, spool.MaxFrame}

func (b *body) grow(n int) {
	if b.buf != nil && cap(*b.buf) >= n {
		return
	}
	b.release()
	for i, size := range bufferSizes {
		if n <= size {
			if p, ok := b.h.s.buffers[i].Get().(*[]byte); ok {
				b.buf = p
				return
			}
			fresh := make([]byte, 0, size)
			b.buf = &fresh
			return
		}
	}
	fresh := make([]byte, 0, n)
	b.buf = &fresh
}

func (b *body) release() {
	if b.buf == nil {
		return
	}
	for i, size := range bufferSizes {
		if cap(*b.buf) == size {
			b.h.s.buffers[i].Put(b.buf)
		}
	}
	b.buf = nil
}
