package folder

import (
	"bufio"
	"errors"
	"io"
)

// lines hands a text on with CRLF line ends, also at its end. A CR that stands
// alone is left as it is. It is read either by Read or by WriteTo.
type lines struct {
	in   *bufio.Reader
	rest []byte // of the last piece, for Read
	next []byte // follows rest
	last byte   // handed out; a line end before anything was
	end  bool
}

func newLines(r io.Reader) *lines {
	return &lines{in: bufio.NewReaderSize(r, 32<<10), last: '\n'}
}

var crlf = []byte("\r\n")

// piece returns the next run of text and the line end that follows it, both valid
// until the next call; io.EOF at the end.
func (l *lines) piece() (text, end []byte, err error) {
	if l.end {
		return nil, nil, io.EOF
	}
	text, err = l.in.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		l.last = text[len(text)-1]
		return text, nil, nil
	case errors.Is(err, io.EOF):
		l.end = true
		return l.finish(text)
	case err != nil:
		return nil, nil, err
	}
	text = text[:len(text)-1]
	if len(text) > 0 {
		l.last = text[len(text)-1]
	}
	if l.last == '\r' {
		end = crlf[1:]
	} else {
		end = crlf
	}
	l.last = '\n'
	return text, end, nil
}

// finish ends a last line that had no end.
func (l *lines) finish(text []byte) (last, end []byte, err error) {
	if len(text) > 0 {
		l.last = text[len(text)-1]
	}
	switch l.last {
	case '\n':
		return nil, nil, io.EOF
	case '\r':
		return text, crlf[1:], nil
	}
	return text, crlf, nil
}

// Read implements io.Reader.
func (l *lines) Read(p []byte) (int, error) {
	for len(l.rest) == 0 {
		if l.rest, l.next = l.next, nil; len(l.rest) > 0 {
			break
		}
		var err error
		if l.rest, l.next, err = l.piece(); err != nil {
			return 0, err
		}
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

// WriteTo implements io.WriterTo.
func (l *lines) WriteTo(w io.Writer) (n int64, err error) {
	out := bufio.NewWriterSize(w, 32<<10)
	for {
		text, end, err := l.piece()
		if errors.Is(err, io.EOF) {
			return n, out.Flush()
		}
		if err != nil {
			return n, err
		}
		n += int64(len(text) + len(end))
		if _, err := out.Write(text); err != nil {
			return n, err
		}
		if _, err := out.Write(end); err != nil {
			return n, err
		}
	}
}
