// Package printable makes strangers' text safe to show, in one place for all
// protocols: text that it lets pass can neither steer a terminal, nor end a line of a
// log or a reply, nor show itself in another order than it is in.
package printable

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Rune reports whether a rune may stand in a line that people or programs read:
// no control character (C0, DEL, C1), no line or paragraph separator, nothing
// that changes the direction of text, no byte order mark, annotation or tag, and
// no noncharacter. Characters that join letters may stand there: scripts need them.
func Rune(r rune) bool {
	switch {
	case r < utf8.RuneSelf:
		return r >= ' ' && r != 0x7f
	case r < 0xa0:
		return false
	case r == 0x061c, r == 0x200e, r == 0x200f, r >= 0x2028 && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
		return false
	case r == 0xfeff, r >= 0xfff9 && r <= 0xfffb, r >= 0xe0000 && r <= 0xe007f, r&0xfffe == 0xfffe:
		return false
	}
	return !unicode.IsControl(r)
}

// Text is s as one line of at most most octets of valid UTF-8: '?' stands for
// everything else. A text that is fit already is not copied.
func Text(s string, most int) string {
	if len(s) > most {
		s = s[:most]
		for n := len(s); n > 0 && n > len(s)-utf8.UTFMax; n-- { // not half a rune
			if utf8.RuneStart(s[n-1]) {
				if !utf8.FullRuneInString(s[n-1:]) {
					s = s[:n-1]
				}
				break
			}
		}
	}
	for i, r := range s {
		if !Rune(r) || r == utf8.RuneError && !strings.HasPrefix(s[i:], "\ufffd") {
			return replaced(s)
		}
	}
	return s
}

func replaced(s string) string {
	return strings.Map(func(r rune) rune {
		if !Rune(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}
