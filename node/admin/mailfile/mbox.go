package mailfile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// errLarge says that a message does not fit.
var errLarge = errors.New("a message is too large")

// Mbox reads an mbox of size octets: messages that begin with a "From " line.
// received is the time of that line, zero where it can not be read.
//
// A line with a full date (weekday, month, day, time, year) begins a message where a
// header field follows, and behind an empty line also without one if it has the form that
// programs write. "From " and "From -" alone, and a full date with more words behind it,
// begin one behind an empty line before a header field. A line with less of a
// date does so only in a file whose first line has no more. All else is text.
// Content-Length is believed where a "From " line or the end of the file is
// found behind it. Of ">From " and ">>From " lines one > is taken off, but in a
// message that holds a "From " line inside its Content-Length: nothing is quoted
// there.
func Mbox(r io.ReaderAt, size int64, fn func(n int, received time.Time, content []byte) error) error {
	m := mboxReader{
		at: r, size: size, in: bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 64<<10), fn: fn, gap: true, length: -1,
	}
	for {
		line, err := m.line()
		if len(line) > 0 {
			if err := m.take(line); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return m.emit()
		}
		if err != nil {
			return err
		}
	}
}

// mboxReader is an mbox that is being read.
type mboxReader struct {
	at   io.ReaderAt
	size int64
	in   *bufio.Reader
	pos  int64 // behind the last line
	fn   func(n int, received time.Time, content []byte) error

	first    style // of the file's first "From " line
	n        int   // messages begun
	content  []byte
	received time.Time
	header   bool  // the line to come is of the header
	length   int64 // Content-Length of this message; -1: none
	gap      bool  // the line before was empty
	whole    bool  // Content-Length said where the message ends
}

func (m *mboxReader) line() ([]byte, error) {
	var line []byte
	for {
		part, err := m.in.ReadSlice('\n')
		m.pos += int64(len(part))
		if line = append(line, part...); !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
		if len(line) > MaxMessage {
			return nil, errLarge
		}
	}
}

func (m *mboxReader) take(line []byte) error {
	next, _ := m.in.Peek(1024)
	line = unmarked(line, next)
	empty := len(trimEnd(line)) == 0
	switch {
	case m.begins(line, next):
		if err := m.emit(); err != nil {
			return err
		}
		m.begin(line)
	case m.n == 0 && !empty:
		return errors.New("this is no mbox: it does not begin with a From line")
	case m.n == 0 || m.whole && empty:
		m.gap = true
	case len(m.content)+len(line) > MaxMessage:
		return errLarge
	case m.header:
		return m.field(line, empty)
	default:
		m.gap, m.whole = empty, false
		m.content = append(m.content, unquoted(line)...)
	}
	return nil
}

// unmarked drops a byte order mark where another file was put behind one, or was made
// a message: in front of a separator, or of a header.
func unmarked(line, next []byte) []byte {
	if rest, ok := bytes.CutPrefix(line, []byte(byteOrderMark)); ok && styleOf(rest) == fullFrom && beginsHeader(next) {
		return rest
	}
	return line
}

// beginsHeader reports whether the header of a message may begin so.
func beginsHeader(next []byte) bool {
	next = bytes.TrimPrefix(next, []byte(byteOrderMark))
	return isField(next) || bytes.HasPrefix(next, []byte(">From "))
}

// begins reports whether a line begins a message; next is what follows it.
func (m *mboxReader) begins(line, next []byte) bool {
	if line[0] != 'F' {
		return false
	}
	s := styleOf(line)
	switch field := beginsHeader(next); {
	case s == notFrom:
		return false
	case m.n == 0:
		return true
	case s >= bareFrom:
		return separates(s, line, m.gap || m.whole, field)
	default:
		return m.gap && field && m.first <= s
	}
}

// separates reports whether a line of a style stands between two messages; gap: an empty
// line is before it, field: a header begins behind it.
func separates(s style, line []byte, gap, field bool) bool {
	return field && (gap || s == fullFrom) || gap && s == fullFrom && usual.Match(trimEnd(line))
}

func (m *mboxReader) begin(line []byte) {
	if m.n == 0 {
		m.first = styleOf(line)
	}
	m.n++
	m.content, m.received, m.length = nil, fromTime(line), -1
	m.header, m.gap, m.whole = true, false, false
}

// field takes a line of the header. UUCP's ">From " lines at the top belong to
// the envelope.
func (m *mboxReader) field(line []byte, empty bool) error {
	if len(m.content) == 0 && line[0] == '>' && styleOf(line[1:]) == fullFrom {
		return nil
	}
	if len(m.content) == 0 {
		line = bytes.TrimPrefix(line, []byte(byteOrderMark))
	}
	m.content = append(m.content, unquoted(line)...)
	m.gap = empty
	if v, ok := cutField(line, "Content-Length:"); ok {
		if n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64); err == nil && n >= 0 {
			m.length = n
		}
	}
	if !empty {
		return nil
	}
	m.header = false
	if m.length >= 0 && m.fits(m.pos+m.length) {
		return m.body()
	}
	return nil
}

// cutField returns what stands behind a field's name on its line.
func cutField(line []byte, name string) (string, bool) {
	if len(line) < len(name) || !strings.EqualFold(string(line[:len(name)]), name) {
		return "", false
	}
	return string(trimEnd(line[len(name):])), true
}

// fits reports whether a message may end at an offset: the end of the file or a
// "From " line is there, behind empty lines perhaps.
func (m *mboxReader) fits(end int64) bool {
	if end < m.pos || end > m.size || end-m.pos > MaxMessage {
		return false
	}
	// The octet before must end a line, or one that ends it must follow.
	around := make([]byte, 1025)
	n, _ := m.at.ReadAt(around, max(end-1, 0))
	around = around[:n]
	if n == 0 {
		return end == m.size
	}
	rest := bytes.TrimLeft(around[1:], "\r\n")
	ended := end == m.pos || around[0] == '\n' || len(rest) < n-1
	if len(rest) == 0 {
		return (ended || end == m.size) && max(end-1, 0)+int64(n) == m.size
	}
	line, next, _ := bytes.Cut(rest, []byte("\n"))
	s := styleOf(line)
	return ended && s >= bareFrom && separates(s, line, true, beginsHeader(next))
}

// body reads as many octets as Content-Length says.
func (m *mboxReader) body() error {
	body := make([]byte, m.length)
	if _, err := io.ReadFull(m.in, body); err != nil {
		return fmt.Errorf("the file changed while it was read: %w", err)
	}
	m.pos += m.length
	if m.length > 0 && body[m.length-1] != '\n' {
		end, err := m.line()
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		body = append(body, end...)
	}
	quoted := !bytes.HasPrefix(body, []byte("From ")) && !bytes.Contains(body, []byte("\nFrom "))
	if quoted && bytes.Contains(body, []byte(">From ")) {
		var plain []byte
		for line := range bytes.Lines(body) {
			plain = append(plain, unquoted(line)...)
		}
		body = plain
	}
	m.content, m.whole = append(m.content, body...), true
	return nil
}

// unquoted takes one > off ">From ", ">>From " and so on.
func unquoted(line []byte) []byte {
	if line[0] == '>' && bytes.HasPrefix(bytes.TrimLeft(line, ">"), []byte("From ")) {
		return line[1:]
	}
	return line
}

// emit hands out the message that was read.
func (m *mboxReader) emit() error {
	if m.n == 0 {
		return nil
	}
	// The empty line before "From " belongs to the format.
	if m.gap && !m.whole && !m.header {
		m.content = m.content[:lastLine(m.content)]
	}
	return m.fn(m.n, m.received, m.content)
}

// lastLine is where the last line of content begins.
func lastLine(content []byte) int {
	return bytes.LastIndexByte(bytes.TrimSuffix(content, []byte("\n")), '\n') + 1
}
