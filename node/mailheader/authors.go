package mailheader

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/mail"
	"strings"

	"relay/node/directory"
	"relay/smtp/printable"
)

// ErrNoAuthor says that the From fields of a message name nobody for certain:
// there is none, or more than one, or it can't be read.
var ErrNoAuthor = errors.New("there is not one From field that can be read")

// Fields yields the header fields of b up to the end of its header section:
// names as they stand, without the blanks behind them, and values with all
// their lines.
func Fields(b []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for len(b) > 0 {
			end := 0
			for {
				i := bytes.IndexByte(b[end:], '\n')
				if i < 0 {
					end = len(b)
					break
				}
				if end += i + 1; end == len(b) || b[end] != ' ' && b[end] != '\t' {
					break
				}
			}
			name, value, ok := bytes.Cut(b[:end], []byte(":"))
			if !ok || !IsFieldName(name) {
				return // the empty line, or text without one
			}
			if !yield(bytes.TrimRight(name, " \t"), value) {
				return
			}
			b = b[end:]
		}
	}
}

// Authors are the addresses in the From field of a header section: mailboxes,
// and members of groups (RFC 6854). absent says that there is no such field. An
// error wraps ErrNoAuthor: recipients' programs may show whom they like then.
func Authors(header []byte) (addresses []string, absent bool, err error) {
	var value []byte
	count := 0
	for name, v := range Fields(header) {
		if bytes.EqualFold(name, []byte("From")) {
			value, count = v, count+1
		}
	}
	if count != 1 {
		return nil, count == 0, fmt.Errorf("%w: there are %d", ErrNoAuthor, count)
	}
	if lone(header) {
		return nil, false, fmt.Errorf("%w: the header has a bare CR or a NUL", ErrNoAuthor)
	}
	text := strings.ToValidUTF8(uncommented(strings.TrimSpace(Unfold(value))), "?") // net/mail reads no comment in front
	list, err := addressParser().ParseList(text)
	if err != nil || len(list) == 0 {
		return nil, false, fmt.Errorf("%w: %w", ErrNoAuthor, cmp.Or(err, errors.New("it names nobody")))
	}
	for _, a := range list {
		if local, domain := directory.SplitAddress(a.Address); local == "" || domain == "" {
			return nil, false, fmt.Errorf("%w: %q is no address", ErrNoAuthor, printable.Text(a.Address, 100))
		}
		addresses = append(addresses, a.Address)
	}
	return addresses, false, nil
}

// addressParser takes encoded words of any character set: names do not matter.
func addressParser() *mail.AddressParser {
	return &mail.AddressParser{WordDecoder: &mime.WordDecoder{
		CharsetReader: func(_ string, r io.Reader) (io.Reader, error) { return r, nil },
	}}
}

// lone reports whether octets that some programs take for a line end stand
// alone in a header section: they would read other fields in it.
func lone(header []byte) bool {
	for i, c := range header {
		if c == 0 || c == '\r' && (i+1 == len(header) || header[i+1] != '\n') {
			return true
		}
	}
	return false
}
