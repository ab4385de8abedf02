// Package mailheader reads the header section of a message as far as a relay needs it.
package mailheader

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	"relay/node/directory"
	"relay/smtp/printable"
)

// Header is what the relay reads in a message's header section.
type Header struct {
	MessageID string
	Hops      int      // Received fields
	Delivered []string // Delivered-To fields
	From      bool     // there is a From field
	Date      bool
	ID        bool // there is a Message-ID field, be it empty
	End       int  // offset of the first octet after the header's empty line, or of the body
	Fields    int  // offset of the first octet after the last field
	Whole     bool // the end of the header section was found
	NoGap     bool // the header runs straight into text: an empty line is missing at end
}

// Parse scans the beginning of a message, CRLF line ends, as far as it
// is at hand. A field counts with all its lines (RFC 5322 §2.2.3). It never
// allocates more than the fields it returns.
func Parse(b []byte) Header {
	var h Header
	begun := -1 // offset of the field that is being read
	for pos := 0; ; {
		i := bytes.IndexByte(b[pos:], '\n')
		if i < 0 {
			if rest := b[pos:]; namesField(rest) && rest[0] != ' ' && rest[0] != '\t' {
				h.field(b, begun, pos)
				begun = pos
			}
			h.field(b, begun, len(b))
			h.End, h.Fields = len(b), len(b)
			return h
		}
		line := bytes.TrimSuffix(b[pos:pos+i], []byte("\r"))
		if len(line) == 0 || line[0] != ' ' && line[0] != '\t' {
			h.field(b, begun, pos)
			begun = pos
		}
		switch {
		case len(line) == 0:
			h.End, h.Fields, h.Whole = pos+i+1, pos, true
			return h
		case begun < 0: // a folded line in front of all fields
			h.NoGap, h.Whole = true, true
			return h
		case begun == pos && !namesField(line):
			h.End, h.Fields, h.NoGap, h.Whole = pos, pos, true, true
			return h
		}
		pos += i + 1
	}
}

func namesField(line []byte) bool {
	name, _, ok := bytes.Cut(line, []byte(":"))
	return ok && IsFieldName(name)
}

// NameMailboxLine makes a field of a line "From sender date" in front of a
// message at an offset of b: programs that read from an mbox file send it along,
// and it would turn the header section into text.
func NameMailboxLine(b []byte, at int) []byte {
	if bytes.HasPrefix(bytes.TrimLeft(b[at:], ">"), []byte("From ")) {
		return slices.Insert(b, at, []byte("X-Mailbox-Line: ")...)
	}
	return b
}

// IsFieldName reports whether b may name a header field (RFC 5322 §2.2);
// trailing blanks are an obsolete form that is still seen.
func IsFieldName(b []byte) bool {
	b = bytes.TrimRight(b, " \t")
	if len(b) == 0 {
		return false
	}
	for _, c := range b {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}

// field takes in the field between two offsets; none where it begins before 0.
func (h *Header) field(b []byte, from, to int) {
	if from < 0 {
		return
	}
	name, value, ok := bytes.Cut(b[from:to], []byte(":"))
	if !ok {
		return
	}
	name = bytes.TrimRight(name, " \t")
	switch len(name) {
	case len("From"):
		h.From = h.From || bytes.EqualFold(name, []byte("From"))
		h.Date = h.Date || bytes.EqualFold(name, []byte("Date"))
	case len("Received"):
		if bytes.EqualFold(name, []byte("Received")) {
			h.Hops++
		}
	case len("Message-ID"):
		if bytes.EqualFold(name, []byte("Message-ID")) {
			h.ID = true
			h.MessageID = cmp.Or(h.MessageID, identifier(value))
		}
	case len("Delivered-To"):
		if bytes.EqualFold(name, []byte("Delivered-To")) {
			h.Delivered = append(h.Delivered, mailbox(value))
		}
	}
}

// Unfold is the value of a field in one line.
func Unfold(value []byte) string {
	value = bytes.TrimSpace(value)
	if bytes.IndexByte(value, '\n') < 0 {
		return string(value)
	}
	return unfolder.Replace(string(value))
}

var (
	unfolder = strings.NewReplacer("\r\n", "", "\n", "")
	joiner   = strings.NewReplacer(" ", "", "\t", "")
)

// mailbox is the address in a Delivered-To field, wherever that is folded, and whatever
// comments stand beside it.
func mailbox(value []byte) string {
	text := uncommented(Unfold(value))
	if !strings.Contains(text, `"`) {
		text, _, _ = strings.Cut(text, "(")
		text = joiner.Replace(text)
	}
	return directory.Canonical(strings.Trim(text, "<> \t"))
}

// SkipComments is a value behind blanks, line ends and comments (CFWS of RFC 5322 §3.2.2).
// It is not ok where a comment has no end.
func SkipComments(v string) (rest string, ok bool) {
	depth := 0
	for i := 0; i < len(v); i++ {
		switch c := v[i]; {
		case c == '(':
			depth++
		case depth > 0 && c == ')':
			depth--
		case depth > 0 && c == '\\':
			i++
		case depth == 0 && c != ' ' && c != '\t' && c != '\r' && c != '\n':
			return v[i:], true
		}
	}
	return "", depth == 0
}

// uncommented is a value without the comments in front of it, or the whole of one that is
// nothing else.
func uncommented(text string) string {
	if rest, _ := SkipComments(text); rest != "" {
		return rest
	}
	return text
}

// identifier is the id in a Message-ID field: the text in its first brackets, without
// the blanks that old programs fold it at, or all of a field that has none.
func identifier(value []byte) string {
	text := uncommented(Unfold(value))
	if _, behind, ok := strings.Cut(text, "<"); ok {
		inside, _, _ := strings.Cut(behind, ">")
		text = joiner.Replace(inside)
	}
	return printable.Text(strings.Trim(text, "<>"), 255)
}
