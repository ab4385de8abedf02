package mailaddr

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// DecodeXtext undoes the +HH of RFC 3461 section 4.
func DecodeXtext(s string) (string, bool) {
	if strings.IndexByte(s, '+') < 0 {
		return s, strings.IndexByte(s, '=') < 0
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '=':
			return "", false
		case s[i] != '+':
			out = append(out, s[i])
			continue
		case i+2 >= len(s):
			return "", false
		}
		hi, lo := upperHex(s[i+1]), upperHex(s[i+2])
		if hi < 0 || lo < 0 {
			return "", false
		}
		out = append(out, byte(hi<<4|lo))
		i += 2
	}
	return string(out), true
}

func upperHex(c byte) int { return strings.IndexByte("0123456789ABCDEF", c) }

// EncodeXtext is the inverse of DecodeXtext.
func EncodeXtext(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c > ' ' && c < 0x7f && c != '+' && c != '=' {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'+', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// DecodeUnitext undoes the \x{HEX} of RFC 6533 section 3.
func DecodeUnitext(s string) (string, bool) {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, `\x{`)
		b.WriteString(before)
		if !found {
			return b.String(), true
		}
		hex, rest, closed := strings.Cut(after, "}")
		n, err := strconv.ParseUint(hex, 16, 32)
		if !closed || err != nil || n > utf8.MaxRune || !utf8.ValidRune(rune(n)) {
			return "", false
		}
		b.WriteRune(rune(n))
		s = rest
	}
}

// EncodeORCPT puts an ORCPT value into its wire form. A utf-8 address is put in
// ASCII (utf-8-addr-xtext), which every hop with DSN understands.
func EncodeORCPT(v string) string {
	kind, addr, _ := strings.Cut(v, ";")
	if !strings.EqualFold(kind, "utf-8") && IsASCII(addr) {
		return kind + ";" + EncodeXtext(addr)
	}
	var b strings.Builder
	for _, c := range addr {
		if c > ' ' && c < 0x7f && c != '+' && c != '=' && c != '\\' {
			b.WriteRune(c)
		} else {
			b.WriteString(`\x{` + strings.ToUpper(strconv.FormatInt(int64(c), 16)) + "}")
		}
	}
	return "utf-8;" + b.String()
}
