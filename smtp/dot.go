package smtp

import "bytes"

// dotReader is the machine that finds the end of a message inside what a
// client sends after DATA, takes the stuffing off, and mends line ends. It works
// on blocks and keeps between them nothing but its state. With raw set it does
// the line ends only, for BDAT, where the end is known otherwise.
//
// With CRLF lines only CRLF "." CRLF is the end (RFC 5321 section 4.1.1.4), and
// only a dot right after CRLF is stuffing. A CR or LF that is not part of a CRLF
// is noted in bare and comes out as CRLF; whether such a message may live is the
// caller's to decide. With bare-LF lines (lf) LF "." LF is the end, every LF
// comes out as CRLF, and a CR stops the machine for good (broken).
type dotReader struct {
	state  dotState
	lf     bool
	raw    bool
	bare   bool // a bare CR or LF was seen
	broken bool // a CR in bare-LF lines: nothing more can be trusted
}

type dotState uint8

const (
	dotStart dotState = iota // at the beginning of a line
	dotText                  // inside a line
	dotCR                    // after a CR that is held back
	dotDot                   // after a dot at the beginning of a line, held back
	dotDotCR                 // after that dot and a CR, both held back
)

var crlf = []byte("\r\n") // never written to

// next consumes a part of in; used may be 0 once in a row. It returns the part of
// the message that this stands for, a piece of in or CRLF, maybe empty, and
// whether the end was found; the rest of in is then not part of the message.
func (d *dotReader) next(in []byte) (out []byte, used int, end bool) {
	if len(in) == 0 {
		return nil, 0, false
	}
	switch d.state {
	case dotStart:
		if in[0] == '.' && !d.raw {
			d.state = dotDot
			return nil, 1, false
		}
	case dotDot:
		return d.afterDot(in[0])
	case dotDotCR:
		if in[0] == '\n' {
			return nil, 1, true
		}
		return d.bareCR()
	case dotCR:
		if in[0] == '\n' {
			d.state = dotStart
			return crlf, 1, false
		}
		return d.bareCR()
	}
	if d.lf {
		return d.textLF(in)
	}
	return d.text(in)
}

// afterDot looks at what follows a dot at the beginning of a line. Anything but
// a line end shows that it was stuffing.
func (d *dotReader) afterDot(c byte) ([]byte, int, bool) {
	switch {
	case c == '\r' && !d.lf:
		d.state = dotDotCR
		return nil, 1, false
	case c == '\n' && d.lf:
		return nil, 1, true
	}
	d.state = dotText
	return nil, 0, false
}

// bareCR gives out a CR that was held back, as a line end of its own. The next octet
// is not at the beginning of a line: only CRLF counts.
func (d *dotReader) bareCR() ([]byte, int, bool) {
	d.bare = true
	d.state = dotText
	return crlf, 0, false
}

// text passes on whole lines for as long as they need no change.
func (d *dotReader) text(in []byte) ([]byte, int, bool) {
	pos := 0
	for {
		n := bytes.IndexByte(in[pos:], '\n')
		line := in[pos:]
		if n >= 0 {
			line = line[:n]
		}
		cr := bytes.IndexByte(line, '\r')
		switch {
		case cr < 0 && n < 0: // the block ends inside a line
			d.state = dotText
			return in, len(in), false
		case cr < 0: // bare LF
			d.bare = true
			return d.repair(in, pos+n)
		case cr != len(line)-1: // bare CR
			d.bare = true
			return d.repair(in, pos+cr)
		case n < 0: // a CR ends the block
			d.state = dotCR
			return in[:pos+cr], len(in), false
		}
		pos += n + 1
		if pos == len(in) || in[pos] == '.' {
			d.state = dotStart
			return in[:pos], pos, false
		}
	}
}

// repair passes on what is in front of the bare CR or LF at i and leaves the state
// so that CRLF comes out in its place.
func (d *dotReader) repair(in []byte, i int) ([]byte, int, bool) {
	d.state = dotText
	if i > 0 {
		return in[:i], i, false
	}
	return crlf, 1, false
}

// textLF does the same for lines that end in a bare LF.
func (d *dotReader) textLF(in []byte) ([]byte, int, bool) {
	n := bytes.IndexByte(in, '\n')
	line := in
	if n >= 0 {
		line = in[:n]
	}
	if cr := bytes.IndexByte(line, '\r'); cr >= 0 {
		d.broken = true
		return nil, len(in), false
	}
	if n < 0 {
		d.state = dotText
		return in, len(in), false
	}
	if n > 0 {
		d.state = dotText
		return line, n, false
	}
	d.state = dotStart
	return crlf, 1, false
}

// flush gives out what is still held back where the end is known otherwise.
func (d *dotReader) flush() []byte {
	if d.state == dotCR {
		d.bare = true
		d.state = dotText
		return crlf
	}
	return nil
}

// dotWriter puts a message into the form that DATA wants: lines that end in
// CRLF whatever they ended in before, dots stuffed.
type dotWriter struct {
	cr   bool // the last octet was a CR, already given out as CRLF
	text bool // inside a line
}

// append appends the wire form of block to dst.
func (w *dotWriter) append(dst, block []byte) []byte {
	for len(block) > 0 {
		if w.cr {
			w.cr = false
			if block[0] == '\n' {
				block = block[1:]
				continue
			}
		}
		if !w.text && block[0] == '.' {
			dst = append(dst, '.')
		}
		n := bytes.IndexByte(block, '\n')
		line := block
		if n >= 0 {
			line = block[:n]
		}
		if cr := bytes.IndexByte(line, '\r'); cr >= 0 && cr != len(line)-1 {
			line, n = line[:cr], cr // a bare CR
		} else if cr >= 0 {
			line = line[:cr]
			w.cr = n < 0
			n = max(n, cr)
		}
		dst = append(dst, line...)
		if n < 0 {
			w.text = true
			return dst
		}
		dst = append(dst, '\r', '\n')
		w.text = false
		block = block[n+1:]
	}
	return dst
}

// end appends the end of the message.
func (w *dotWriter) end(dst []byte) []byte {
	if w.text {
		dst = append(dst, '\r', '\n')
	}
	return append(dst, '.', '\r', '\n')
}
