package smtp

import "sync"

// An idle connection keeps a small buffer; the large one is borrowed for as long
// as a message goes through.
const (
	smallBuffer = 2 << 10
	largeBuffer = 32 << 10
)

// bufferPool lends buffers of largeBuffer octets.
type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) init() {
	p.pool.New = func() any { return new([largeBuffer]byte) }
}

func (p *bufferPool) get() *[largeBuffer]byte  { return p.pool.Get().(*[largeBuffer]byte) }
func (p *bufferPool) put(b *[largeBuffer]byte) { p.pool.Put(b) }

// input is the reading side of a connection: buf[r:w] has arrived and is not yet
// used. It does no reading itself.
type input struct {
	pool  *bufferPool
	small []byte
	large *[largeBuffer]byte // borrowed, or nil
	buf   []byte             // one of them
	r, w  int
}

func (in *input) init(pool *bufferPool) {
	in.pool = pool
	in.small = make([]byte, smallBuffer)
	in.buf = in.small
}

func (in *input) pending() []byte { return in.buf[in.r:in.w] }

// grow swaps the large buffer in.
func (in *input) grow() {
	if in.large != nil {
		return
	}
	in.large = in.pool.get()
	in.w = copy(in.large[:], in.pending())
	in.r = 0
	in.buf = in.large[:]
}

// shrink gives the large buffer back if what is pending fits the small one.
func (in *input) shrink() {
	if in.large == nil || in.w-in.r > len(in.small) {
		return
	}
	in.w = copy(in.small, in.pending())
	in.r = 0
	in.buf = in.small
	in.pool.put(in.large)
	in.large = nil
}

// room moves what is pending to the front and returns the space behind it.
func (in *input) room() []byte {
	if in.r > 0 {
		in.w = copy(in.buf, in.pending())
		in.r = 0
	}
	return in.buf[in.w:]
}

func (in *input) discard() { in.r, in.w = 0, 0 }

// release gives the large buffer back whatever it holds.
func (in *input) release() {
	in.discard()
	in.shrink()
}
