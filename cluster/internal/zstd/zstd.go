// Package zstd stands in for the C library of this name, which Pebble would
// build wherever a C compiler is at hand: half a minute of a first build, for a
// compression that no file of ours uses, and with it a binary that is not
// static. It has what Pebble calls, on the implementation in Go that Pebble
// itself takes where there is no C compiler.
package zstd

import (
	"bytes"
	"errors"

	"github.com/klauspost/compress/zstd"
)

// Ctx compresses and decompresses; one goroutine uses it at a time.
type Ctx interface {
	CompressLevel(dst, src []byte, level int) ([]byte, error)
	DecompressInto(dst, src []byte) (int, error)
}

// NewCtx returns a Ctx without state.
func NewCtx() Ctx { return ctx{} }

type ctx struct{}

// CompressBound is what src octets take at most when compressed: the bound of
// the C library, and room for what another encoder frames differently.
func CompressBound(src int) int { return src + src>>8 + 1<<10 }

// CompressLevel implements Ctx. The result stands at the beginning of dst where
// it fits.
func (ctx) CompressLevel(dst, src []byte, level int) ([]byte, error) {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return w.EncodeAll(src, dst[:0]), w.Close()
}

// DecompressInto implements Ctx.
func (ctx) DecompressInto(dst, src []byte) (int, error) {
	r, err := zstd.NewReader(bytes.NewReader(src), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return 0, err
	}
	defer r.Close()
	out, err := r.DecodeAll(src, dst[:0:len(dst)])
	if err == nil && len(out) > len(dst) {
		err = errors.New("zstd: the destination is too small")
	}
	return len(out), err
}
