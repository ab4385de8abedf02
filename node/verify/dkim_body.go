package verify

import (
	"crypto/sha256"
	"hash"
)

// bodyHash is the hash of a body by one canonicalization (RFC 6376 §3.4.3,
// §3.4.4) while it goes by, for all signatures that want it. It holds no part of
// the body, however many empty lines that has.
type bodyHash struct {
	relaxed bool
	sum     hash.Hash
	out     []byte
	ends    int  // line ends that only count if something follows
	space   bool // the same for blanks within a line (relaxed)
	cr      bool // the last octet was a CR
	any     bool
}

const hashBuffer = 4 << 10

func newBodyHash(relaxed bool) *bodyHash {
	return &bodyHash{relaxed: relaxed, sum: sha256.New(), out: make([]byte, 0, hashBuffer)}
}

func (h *bodyHash) write(p []byte) {
	for len(p) > 0 {
		n := 0
		for n < len(p) && p[n] != '\r' && p[n] != '\n' && !(h.relaxed && (p[n] == ' ' || p[n] == '\t')) {
			n++
		}
		if n > 0 {
			h.text(p[:n])
			p = p[n:]
			continue
		}
		switch c := p[0]; c {
		case '\n': // a bare one ends a line as well
			h.cr, h.space = false, false
			h.ends++
		case '\r':
			h.lone()
			h.cr = true
		default:
			h.lone()
			h.space = true
		}
		p = p[1:]
	}
}

// lone writes a CR that ended no line.
func (h *bodyHash) lone() {
	if h.cr {
		h.cr = false
		h.text([]byte{'\r'})
	}
}

// text takes octets that are part of the hash in any case, and with them what is
// before them.
func (h *bodyHash) text(p []byte) {
	h.lone()
	for ; h.ends > 0; h.ends-- {
		h.put("\r\n")
	}
	if h.space {
		h.space = false
		h.put(" ")
	}
	h.any = true
	if len(h.out)+len(p) > hashBuffer {
		h.flush()
	}
	if len(p) > hashBuffer {
		h.sum.Write(p)
		return
	}
	h.out = append(h.out, p...)
}

func (h *bodyHash) put(s string) {
	if len(h.out)+len(s) > hashBuffer {
		h.flush()
	}
	h.out = append(h.out, s...)
}

func (h *bodyHash) flush() {
	h.sum.Write(h.out)
	h.out = h.out[:0]
}

// end returns the hash of the whole body.
func (h *bodyHash) end() []byte {
	h.lone()
	if h.any || !h.relaxed { // an empty body has a line end in simple form only
		h.put("\r\n")
	}
	h.flush()
	return h.sum.Sum(nil)
}
