package bounce

import (
	"bufio"
	"bytes"
	"io"
	"mime/quotedprintable"
	"strings"
	"unicode/utf8"
)

const (
	headersPlain  = "text/rfc822-headers"
	headersQP     = "text/rfc822-headers; charset=unknown-8bit" // quoted-printable, RFC 6522 §4
	headersGlobal = "message/global-headers"
	wholePlain    = "message/rfc822"
	wholeGlobal   = "message/global"

	maxHeader = 16 << 10
	maxLine   = 998
)

// original is the third part of a notice: the message or its header.
type original struct {
	kind, title string // kind empty: there is none
	data        []byte
	eight       bool
	messageID   string // with <>
}

// original reads the message that the notice is about, as much as is wanted
// and as fits into room.
func (w *writer) original(room int) original {
	if w.r.Open == nil {
		return original{}
	}
	rc, err := w.r.Open()
	if err != nil {
		return original{}
	}
	defer rc.Close()
	in := bufio.NewReaderSize(rc, 8<<10)
	head, whole := readHeader(in)
	id := messageID(head)
	o, ok := original{}, false
	if whole && w.wantsFull(room) {
		o, ok = w.full(head, in, room)
	}
	if !ok {
		o = w.headers(head, room)
	}
	o.messageID = id
	return o
}

func (w *writer) wantsFull(room int) bool {
	r := w.r
	if r.Binary || strings.EqualFold(r.Ret, "HDRS") || r.Ret == "" && r.Kind != Failure {
		return false
	}
	// RFC 3461 §6.2 wants the header alone where nothing has failed, even
	// for RET=FULL.
	if r.Kind != Failure {
		return false
	}
	full := r.Full
	if full == 0 {
		full = DefaultFull
	}
	return r.Size <= min(full, int64(room))
}

// readHeader reads up to and without the empty line. whole is false where the
// header is larger than we are ready to hold; it then ends at a line end.
func readHeader(in *bufio.Reader) (head []byte, whole bool) {
	for {
		line, err := in.ReadSlice('\n')
		if len(bytes.TrimRight(line, "\r\n")) == 0 && err == nil {
			return head, true
		}
		if len(head)+len(line) > maxHeader || err == bufio.ErrBufferFull {
			return cutLine(head), false
		}
		head = append(head, line...)
		if err != nil {
			return head, true
		}
	}
}

func cutLine(b []byte) []byte { return b[:bytes.LastIndexByte(b, '\n')+1] }

// full returns the whole message, or false where it can not stand in a notice.
func (w *writer) full(head []byte, in io.Reader, room int) (original, bool) {
	var b bytes.Buffer
	b.Write(head)
	if len(head) > 0 && head[len(head)-1] != '\n' {
		b.WriteString("\r\n")
	}
	b.WriteString("\r\n")
	n, err := b.ReadFrom(io.LimitReader(in, int64(room)+1))
	data := lines(b.Bytes())
	if err != nil || n > int64(room) || len(data) > room || !sendable(data) {
		return original{}, false
	}
	o := original{kind: wholePlain, title: "Undelivered message", data: data, eight: !ascii(data)}
	if !ascii(head) {
		// RFC 6532 §3.7: message/rfc822 may not hold UTF-8 headers.
		o.kind = wholeGlobal
		if !utf8.Valid(head) {
			return original{}, false
		}
	}
	return o, true
}

// headers returns the header alone.
func (w *writer) headers(head []byte, room int) original {
	data := lines(head)
	if !sendable(data) {
		data = lines(foldLong(head))
	}
	o := original{kind: headersPlain, title: "Header of the message", data: data}
	switch {
	case ascii(data):
	case w.global && utf8.Valid(data):
		o.kind, o.eight = headersGlobal, true
	default:
		o.kind, o.data = headersQP, quoted(data)
	}
	for len(o.data) > max(room, 0) {
		// Rather a short header than a notice that does not fit.
		if data = cutLine(data[:max(len(data)/2-1, 0)]); len(data) == 0 {
			return original{}
		}
		o.data = data
		if o.kind == headersQP {
			o.data = quoted(data)
		}
	}
	if len(bytes.TrimSpace(o.data)) == 0 {
		return original{}
	}
	return o
}

func quoted(data []byte) []byte {
	var b bytes.Buffer
	q := quotedprintable.NewWriter(&b)
	q.Write(data)
	q.Close()
	return b.Bytes()
}

// lines ends every line with CRLF, whatever it ended with.
func lines(b []byte) []byte {
	out := make([]byte, 0, len(b)+2)
	for i := 0; i < len(b); i++ {
		switch {
		case b[i] == '\r' && i+1 < len(b) && b[i+1] == '\n':
			out = append(out, '\r', '\n')
			i++
		case b[i] == '\r' || b[i] == '\n':
			out = append(out, '\r', '\n')
		default:
			out = append(out, b[i])
		}
	}
	if len(out) > 0 && !bytes.HasSuffix(out, []byte("\r\n")) {
		out = append(out, '\r', '\n')
	}
	return out
}

// sendable reports whether every line may be sent: no NUL, not too long.
func sendable(data []byte) bool {
	if bytes.IndexByte(data, 0) >= 0 {
		return false
	}
	for len(data) > 0 {
		n := bytes.IndexByte(data, '\n')
		if n < 0 {
			n = len(data)
		}
		if n > maxLine+1 {
			return false
		}
		data = data[min(n+1, len(data)):]
	}
	return true
}

// foldLong makes any header sendable, at the price of changing it.
func foldLong(head []byte) []byte {
	var out []byte
	for line := range bytes.Lines(bytes.ReplaceAll(head, []byte{0}, []byte("?"))) {
		for len(line) > 900 {
			out = append(out, line[:900]...)
			out = append(out, "\r\n "...)
			line = line[900:]
		}
		out = append(out, line...)
	}
	return out
}

// messageID returns the Message-ID of a header, with its brackets, if it is one
// that may be repeated. The field may be folded (RFC 5322 §2.2.3).
func messageID(head []byte) string {
	var value []byte
	found := false
	for line := range bytes.Lines(head) {
		folded := line[0] == ' ' || line[0] == '\t'
		if found && !folded {
			break
		}
		if found {
			value = append(value, line...)
			continue
		}
		name, rest, ok := bytes.Cut(line, []byte(":"))
		if found = ok && !folded && bytes.EqualFold(bytes.TrimRight(name, " \t"), []byte("message-id")); found {
			value = bytes.Clone(rest)
		}
	}
	return repeatable(string(value))
}

// repeatable is the first id in the value of a Message-ID field, without the
// blanks it is folded at; empty where it must not stand in another header.
func repeatable(value string) string {
	v := strings.NewReplacer("\r", "", "\n", "", " ", "", "\t", "").Replace(value)
	if strings.HasPrefix(v, "(") { // a comment
		_, v, _ = strings.Cut(v, ")")
	}
	if i := strings.IndexByte(v, '>'); i >= 0 {
		v = v[:i+1]
	}
	if len(v) < 3 || len(v) > 250 || v[0] != '<' || v[len(v)-1] != '>' || strings.Contains(v[1:], "<") {
		return ""
	}
	for i := range len(v) {
		if v[i] < '!' || v[i] > '~' {
			return ""
		}
	}
	return v
}
