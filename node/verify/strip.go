package verify

import (
	"bytes"
	"strings"

	"relay/node/mailheader"
)

const resultsField = "Authentication-Results"

// Strip takes out of a header section those Authentication-Results fields that
// claim to be ours: a stranger can not have them from us (RFC 8601 §5). ids are
// the names we write into such fields; they are asked for where there is such a
// field. The section is changed in place; the result is its beginning if anything
// went.
func Strip(section []byte, ids func() []string) []byte {
	if !mayContain(section) {
		return section
	}
	ours := ids()
	kept := section[:0]
	for rest := section; len(rest) > 0; {
		end := fieldEnd(rest)
		field := rest[:end]
		rest = rest[end:]
		name, v, ok := bytes.Cut(field, []byte(":"))
		if ok && strings.EqualFold(string(bytes.TrimRight(name, " \t")), resultsField) && claims(string(v), ours) {
			continue
		}
		kept = append(kept, field...)
	}
	return kept
}

// mayContain is a quick look: most mail has no such field.
func mayContain(section []byte) bool {
	for pos := 0; pos < len(section); {
		line := section[pos:]
		if len(line) >= len(resultsField) && strings.EqualFold(string(line[:len(resultsField)]), resultsField) {
			return true
		}
		i := bytes.IndexByte(line, '\n')
		if i < 0 {
			return false
		}
		pos += i + 1
	}
	return false
}

// claims reports whether a field bears one of our names. One that can not be
// read does if one of them stands anywhere before its first semicolon: others
// may read it more generously.
func claims(v string, ids []string) bool {
	id, ok := serviceID(v)
	head, _, _ := strings.Cut(v, ";")
	for _, one := range ids {
		if strings.EqualFold(id, one) || !ok && strings.Contains(strings.ToLower(head), strings.ToLower(one)) {
			return true
		}
	}
	return false
}

// serviceID reads the authserv-id (RFC 8601 §2.2): a token or a quoted string
// behind blanks and comments. An octet that is no part of a name ends it.
func serviceID(v string) (id string, ok bool) {
	v, ok = mailheader.SkipComments(v)
	if !ok || v == "" {
		return "", false
	}
	if v[0] == '"' {
		return quotedString(v[1:])
	}
	end := strings.IndexFunc(v, func(c rune) bool {
		return c < 0x80 && (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && !strings.ContainsRune(".-_@+", c)
	})
	if end >= 0 {
		v = v[:end]
	}
	return strings.TrimRight(v, "."), v != ""
}

func quotedString(v string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(v); i++ {
		switch v[i] {
		case '"':
			return strings.TrimRight(strings.TrimSpace(b.String()), "."), true
		case '\\':
			if i++; i == len(v) {
				return "", false
			}
		}
		b.WriteByte(v[i])
	}
	return "", false
}
