package node

import (
	"bytes"
	"slices"
	"strings"
)

// header is what the relay reads in a message's header section.
type header struct {
	messageID string
	hops      int      // Received fields
	delivered []string // Delivered-To fields
	from      bool     // there is a From field
	date      bool
	end       int  // offset of the first octet after the header's empty line, or of the body
	fields    int  // offset of the first octet after the last field
	whole     bool // the end of the header section was found
	noGap     bool // the header runs straight into text: an empty line is missing at end
}

// parseHeader scans the beginning of a message, CRLF line ends, as far as it
// is at hand. It never allocates more than the fields it returns.
func parseHeader(b []byte) header {
	var h header
	for pos := 0; ; {
		i := bytes.IndexByte(b[pos:], '\n')
		if i < 0 {
			h.end, h.fields = len(b), len(b)
			return h
		}
		line := bytes.TrimSuffix(b[pos:pos+i], []byte("\r"))
		switch {
		case len(line) == 0:
			h.end, h.fields, h.whole = pos+i+1, pos, true
			return h
		case line[0] == ' ' || line[0] == '\t':
			if pos == 0 {
				h.noGap, h.whole = true, true
				return h
			}
		default:
			name, value, ok := bytes.Cut(line, []byte(":"))
			if !ok || !fieldName(name) {
				h.end, h.fields, h.noGap, h.whole = pos, pos, true, true
				return h
			}
			h.field(name, value)
		}
		pos += i + 1
	}
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

func (h *header) field(name, value []byte) {
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
		if h.messageID == "" && bytes.EqualFold(name, []byte("Message-ID")) {
			h.messageID = clean(strings.Trim(string(bytes.TrimSpace(value)), "<>"), 255)
		}
	case len("Delivered-To"):
		if bytes.EqualFold(name, []byte("Delivered-To")) {
			h.delivered = append(h.delivered, strings.ToLower(strings.TrimSpace(string(value))))
		}
	}
}

// clean makes a foreign string safe for a header, a log or a reply: printable
// octets only, at most max of them.
func clean(s string, max int) string {
	if len(s) > max {
		s = s[:max]
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return strings.Map(func(r rune) rune {
				if r < ' ' || r == 0x7f {
					return '?'
				}
				return r
			}, s)
		}
	}
	return strings.ToValidUTF8(s, "?")
}
