package bounce

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"relay/smtp/printable"
)

// maxText bounds any foreign text that is put on one line.
const maxText = 512

func ascii[T ~string | ~[]byte](s T) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// clean makes foreign text fit for a line of the notice.
func (w *writer) clean(s string) string { return oneLine(s, w.global) }

// oneLine makes foreign text fit for one line: no control characters, no
// line ends, bounded, and beyond ASCII only valid UTF-8 and only where wanted.
func oneLine(s string, global bool) string {
	var b strings.Builder
	for _, r := range s {
		if b.Len() >= maxText {
			b.WriteString("...")
			break
		}
		switch {
		case r == '\r' || r == '\n' || r == '\t':
			b.WriteByte(' ')
		case !printable.Rune(r):
			b.WriteByte('?')
		case r < utf8.RuneSelf:
			b.WriteRune(r)
		case global && r != utf8.RuneError:
			b.WriteRune(r)
		default:
			b.WriteByte('?')
		}
	}
	return strings.TrimSpace(b.String())
}

// atom keeps what may stand in a Message-ID or a boundary.
func atom(s string) string {
	var b strings.Builder
	for i := 0; i < len(s) && b.Len() < 40; i++ {
		c := s[i]
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '-' {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// domainOnly returns s if it looks like a host name or an address literal, else
// nothing.
func domainOnly(s string) string {
	if len(s) > 255 {
		return ""
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		ok := c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' ||
			c == '-' || c == '.' || c == '_' || c == '[' || c == ']' || c == ':'
		if !ok {
			return ""
		}
	}
	return s
}

// smtpReply reports whether text begins with the code of an SMTP reply.
func smtpReply(s string) bool {
	return len(s) >= 3 && s[0] >= '2' && s[0] <= '5' && digit(s[1]) && digit(s[2]) && (len(s) == 3 || s[3] == ' ')
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// Enhanced returns the enhanced status code (RFC 3463) in a reply: at its
// start, or after a three-digit code of the same class. Empty: there is none.
func Enhanced(reply string) string {
	class := byte(0)
	if smtpReply(reply) {
		class = reply[0]
		reply = strings.TrimLeft(reply[3:], " ")
	}
	word, _, _ := strings.Cut(reply, " ")
	p := strings.Split(word, ".")
	if len(p) != 3 || len(p[0]) != 1 || !strings.Contains("245", p[0]) || class != 0 && p[0][0] != class {
		return ""
	}
	for _, n := range p[1:] {
		if len(n) < 1 || len(n) > 3 || strings.Trim(n, "0123456789") != "" {
			return ""
		}
	}
	return word
}

// wrap writes text in lines of about 72 octets, indented from the second on.
func wrap(out *bytes.Buffer, text string) {
	col := 0
	for _, word := range strings.Fields(text) {
		switch {
		case col == 0:
		case col+1+len(word) > 72:
			out.WriteString("\r\n    ")
			col = 4
		default:
			out.WriteByte(' ')
			col++
		}
		out.WriteString(word)
		col += len(word)
	}
	out.WriteString("\r\n")
}
