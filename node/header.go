package node

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	"relay/smtp/printable"
)

// header is what the relay reads in a message's header section.
type header struct {
	messageID string
	hops      int      // Received fields
	delivered []string // Delivered-To fields
	from      bool     // there is a From field
	date      bool
	id        bool // there is a Message-ID field, be it empty
	end       int  // offset of the first octet after the header's empty line, or of the body
	fields    int  // offset of the first octet after the last field
	whole     bool // the end of the header section was found
	noGap     bool // the header runs straight into text: an empty line is missing at end
}

// parseHeader scans the beginning of a message, CRLF line ends, as far as it
// is at hand. A field counts with all its lines (RFC 5322 §2.2.3). It never
// allocates more than the fields it returns.
func parseHeader(b []byte) header {
	var h header
	begun := -1 // offset of the field that is being read
	for pos := 0; ; {
		i := bytes.IndexByte(b[pos:], '\n')
		if i < 0 {
			if rest := b[pos:]; namesField(rest) && rest[0] != ' ' && rest[0] != '\t' {
				h.field(b, begun, pos)
				begun = pos
			}
			h.field(b, begun, len(b))
			h.end, h.fields = len(b), len(b)
			return h
		}
		line := bytes.TrimSuffix(b[pos:pos+i], []byte("\r"))
		if len(line) == 0 || line[0] != ' ' && line[0] != '\t' {
			h.field(b, begun, pos)
			begun = pos
		}
		switch {
		case len(line) == 0:
			h.end, h.fields, h.whole = pos+i+1, pos, true
			return h
		case begun < 0: // a folded line in front of all fields
			h.noGap, h.whole = true, true
			return h
		case begun == pos && !namesField(line):
			h.end, h.fields, h.noGap, h.whole = pos, pos, true, true
			return h
		}
		pos += i + 1
	}
}

func namesField(line []byte) bool {
	name, _, ok := bytes.Cut(line, []byte(":"))
	return ok && fieldName(name)
}

// nameMailboxLine makes a field of a line "From sender date" in front of a
// message at an offset of b: programs that read from an mbox file send it along,
// and it would turn the header section into text.
func nameMailboxLine(b []byte, at int) []byte {
	if bytes.HasPrefix(bytes.TrimLeft(b[at:], ">"), []byte("From ")) {
		return slices.Insert(b, at, []byte("X-Mailbox-Line: ")...)
	}
	return b
}

// fieldName reports whether b may name a header field (RFC 5322 §2.2);
// trailing blanks are an obsolete form that is still seen.
func fieldName(b []byte) bool {
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
func (h *header) field(b []byte, from, to int) {
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
		h.from = h.from || bytes.EqualFold(name, []byte("From"))
		h.date = h.date || bytes.EqualFold(name, []byte("Date"))
	case len("Received"):
		if bytes.EqualFold(name, []byte("Received")) {
			h.hops++
		}
	case len("Message-ID"):
		if bytes.EqualFold(name, []byte("Message-ID")) {
			h.id = true
			h.messageID = cmp.Or(h.messageID, identifier(value))
		}
	case len("Delivered-To"):
		if bytes.EqualFold(name, []byte("Delivered-To")) {
			h.delivered = append(h.delivered, canonical(strings.Trim(unfolded(value), "<> \t")))
		}
	}
}

// unfolded is the value of a field in one line.
func unfolded(value []byte) string {
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

// identifier is the id in a Message-ID field: what stands in its first brackets,
// without the blanks that old programs fold it at, or all of a field that has none.
func identifier(value []byte) string {
	text := unfolded(value)
	if _, behind, ok := strings.Cut(text, "<"); ok {
		inside, _, _ := strings.Cut(behind, ">")
		text = joiner.Replace(inside)
	}
	return clean(strings.Trim(text, "<>"), 255)
}

// clean makes a foreign string safe for a header, a log or a reply: one line of
// at most max octets.
func clean(s string, max int) string { return printable.Text(s, max) }
