package mailfile

import (
	"bytes"
	"cmp"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// source is the text of one file at hand: unpacked, without a byte order mark,
// and with LF or CRLF line ends.
type source struct {
	name    string
	changed time.Time // zero: unknown
	at      io.ReaderAt
	size    int64
	cr      bool // the file ends its lines with CR alone
	layers  int  // how many times it was packed
	file    *os.File
}

// maxLayers bounds files that are packed in one another: a few octets may be made
// to fill any disk.
const maxLayers = 3

// byteOrderMark is what some editors put in front of UTF-8.
const byteOrderMark = "\ufeff"

// packed lists how files begin that are no text, and what to do about them.
var packed = []struct{ magic, what string }{
	{"\x28\xb5\x2f\xfd", "is compressed with zstd: unpack it with 'zstd -d' first"},
	{"\xfd7zXZ\x00", "is compressed with xz: unpack it with 'xz -d' first"},
	{"\x04\x22\x4d\x18", "is compressed with lz4: unpack it with 'lz4 -d' first"},
	{"PK\x03\x04", "is a zip archive: unpack it first"},
	{"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive: unpack it first"},
	{"Rar!\x1a\x07", "is a RAR archive: unpack it first"},
	{"BEGIN:VCARD", "is a vCard, which holds no mail: leave it out"},
	{"BEGIN:VCALENDAR", "is a calendar, which holds no mail: leave it out"},
	{"\x01\x01\x01\x01\n", "is an MMDF mailbox: convert it to mbox first, with 'formail' or s-nail"},
	{"*mbx*", "is an MBX mailbox: convert it to mbox with 'mailutil' first"},
	{"\x00\x05\x16\x07", "is an AppleDouble file, which holds no mail: leave it out"},
	{"\x00\x05\x16\x00", "is an AppleSingle file, which holds no mail: leave it out"},
	{"\xff\xfe", "is UTF-16 text: convert it to UTF-8 first"},
	{"\xfe\xff", "is UTF-16 text: convert it to UTF-8 first"},
	{"!BDN", "is an Outlook .pst file: convert it to mbox with 'readpst' first"},
	{"\xd0\xcf\x11\xe0", "is an Outlook .msg file: export the message as .eml first"},
}

// refusal says in one sentence why a file is not read.
type refusal struct{ name, why string }

func (r *refusal) Error() string { return r.name + " " + r.why }

// Unwrap lets callers find out that the format is at fault.
func (r *refusal) Unwrap() error { return ErrFormat }

// openFile opens a regular file or a pipe; the caller closes the source.
func openFile(ctx context.Context, path string) (*source, error) {
	f, err := openSoon(ctx, path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !st.Mode().IsRegular() {
		defer f.Close()
		return openStream(ctx, path, f, 0)
	}
	s := &source{name: path, changed: st.ModTime(), at: f, size: st.Size(), file: f}
	return s.prepare(ctx)
}

// openSoon opens a file, but for a named pipe waits for its writer no longer than
// ctx lasts.
func openSoon(ctx context.Context, path string) (*os.File, error) {
	if st, err := os.Stat(path); err != nil || st.Mode()&fs.ModeNamedPipe == 0 {
		return os.Open(path)
	}
	type opened struct {
		f   *os.File
		err error
	}
	done := make(chan opened, 1)
	go func() {
		f, err := os.Open(path)
		done <- opened{f, err}
	}()
	select {
	case o := <-done:
		return o.f, o.err
	case <-ctx.Done():
		return nil, ctx.Err() // the opening ends with the process, or when a writer comes
	}
}

// openStream keeps what comes from a pipe in a file of its own, because an mbox
// is read with looks ahead. It returns when ctx ends, though the pipe is silent.
func openStream(ctx context.Context, name string, r io.Reader, layers int) (*source, error) {
	f, err := keep(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	s := &source{name: name, at: f, size: st.Size(), layers: layers, file: f}
	return s.prepare(ctx)
}

// keep copies a stream to a file that has no name any more.
func keep(ctx context.Context, r io.Reader) (*os.File, error) {
	f, err := os.CreateTemp("", "relay-import-*")
	if err != nil {
		return nil, err
	}
	_ = os.Remove(f.Name())
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(f, r)
		done <- err
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err() // the copy ends with the process, or when the pipe does
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// prepare unpacks the file and finds out what its lines end with. It closes the
// file where it fails.
func (s *source) prepare(ctx context.Context) (*source, error) {
	head := s.head(512)
	if why := noMail(head); why != "" {
		return nil, errors.Join(&refusal{s.name, why}, s.Close())
	}
	if unpack := unpacker(head); unpack != nil {
		if s.layers == maxLayers {
			return nil, errors.Join(&refusal{s.name, "is packed many times in itself: unpack it first"}, s.Close())
		}
		return s.unpacked(ctx, unpack)
	}
	if bytes.IndexByte(headerOf(head), 0) >= 0 {
		return nil, errors.Join(&refusal{s.name, "is no text: NUL stands where mail has its header"}, s.Close())
	}
	if bytes.HasPrefix(head, []byte(byteOrderMark)) {
		s.at, s.size = io.NewSectionReader(s.at, 3, s.size-3), s.size-3
	}
	top := s.head(64 << 10)
	s.cr = bytes.IndexByte(top, '\r') >= 0 && bytes.IndexByte(top, '\n') < 0
	return s, nil
}

// noMail says why what begins so is no mail; empty: it may be some.
func noMail(head []byte) string {
	for _, p := range packed {
		if bytes.HasPrefix(head, []byte(p.magic)) {
			return p.what
		}
	}
	if len(head) > 262 && string(head[257:262]) == "ustar" {
		return "is a tar archive: unpack it first"
	}
	return ""
}

// unpacker returns the decoder of what begins so, or nil.
func unpacker(head []byte) func(io.Reader) (io.Reader, error) {
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		return func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }
	case bytes.HasPrefix(head, []byte("BZh")):
		return func(r io.Reader) (io.Reader, error) { return bzip2.NewReader(r), nil }
	}
	return nil
}

func (s *source) unpacked(ctx context.Context, unpack func(io.Reader) (io.Reader, error)) (*source, error) {
	defer s.Close()
	r, err := unpack(io.NewSectionReader(s.at, 0, s.size))
	if err != nil {
		return nil, &refusal{s.name, "is damaged: " + err.Error()}
	}
	out, err := openStream(ctx, s.name, r, s.layers+1)
	if err != nil {
		var no *refusal
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.As(err, &no) {
			return nil, err
		}
		return nil, &refusal{s.name, "can't be unpacked: " + cmp.Or(errors.Unwrap(err), err).Error()}
	}
	out.changed = s.changed
	return out, nil
}

// head returns the first octets, fewer where there are not so many.
func (s *source) head(n int) []byte {
	b := make([]byte, min(int64(n), s.size))
	n, _ = s.ReadAt(b, 0)
	return b[:n]
}

// ReadAt reads the text with the line ends mended.
func (s *source) ReadAt(b []byte, off int64) (int, error) {
	n, err := s.at.ReadAt(b, off)
	if s.cr {
		for i, c := range b[:n] {
			if c == '\r' {
				b[i] = '\n'
			}
		}
	}
	return n, err
}

// reader reads the text from the beginning.
func (s *source) reader() io.Reader { return io.NewSectionReader(s, 0, s.size) }

// Close releases the file.
func (s *source) Close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// firstLine returns the first line that is not empty, with its end; s then
// begins with it. It is cut where it is longer than 64 KiB.
func (s *source) firstLine() []byte {
	head := s.head(64 << 10)
	skip := len(head) - len(bytes.TrimLeft(head, "\r\n"))
	if skip > 0 {
		s.at, s.size = io.NewSectionReader(s.at, int64(skip), s.size-int64(skip)), s.size-int64(skip)
	}
	line, _, _ := bytes.Cut(head[skip:], []byte("\n"))
	return head[skip : skip+min(len(line)+1, len(head)-skip)]
}

// all reads the whole text.
func (s *source) all() ([]byte, error) {
	if s.size > MaxMessage {
		return nil, &refusal{s.name, fmt.Sprintf("is too large for a message: %d octets", s.size)}
	}
	content := make([]byte, s.size)
	n, err := s.ReadAt(content, 0)
	if n == len(content) || errors.Is(err, io.EOF) {
		err = nil
	}
	return content[:n], err
}
