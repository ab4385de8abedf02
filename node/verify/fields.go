package verify

import (
	"bytes"
	"iter"
	"net/mail"
	"slices"
	"strings"
)

// fields goes through a header section: the name of each field, and all its
// lines as they are. Lines that are no field are passed over.
func fields(section []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for len(section) > 0 {
			end := fieldEnd(section)
			field := section[:end]
			section = section[end:]
			name, _, ok := bytes.Cut(field, []byte(":"))
			if ok && !yield(string(bytes.TrimRight(name, " \t")), field) {
				return
			}
		}
	}
}

// fieldEnd finds the first line end that no folded line follows.
func fieldEnd(b []byte) int {
	for pos := 0; ; {
		i := bytes.IndexByte(b[pos:], '\n')
		if i < 0 || pos+i+1 == len(b) {
			return len(b)
		}
		if pos += i + 1; b[pos] != ' ' && b[pos] != '\t' {
			return pos
		}
	}
}

// value is what stands behind the colon, in one line.
func value(field []byte) string {
	_, v, _ := bytes.Cut(field, []byte(":"))
	return strings.TrimSpace(strings.NewReplacer("\r\n", "", "\n", "").Replace(string(v)))
}

// maxAuthors bounds the domains of one From field that are asked about.
const maxAuthors = 8

// authorDomains are the domains that the message claims to come from: most
// often one. RFC 7489 §6.6.1 leaves it open what a message with several From
// fields or authors deserves; each counts here, so that nobody hides behind
// another. A field that can not be read counts with every domain in it. One more
// than maxAuthors says that there are too many.
func authorDomains(section []byte) []string {
	var all []string
	for name, field := range fields(section) {
		if !strings.EqualFold(name, "From") {
			continue
		}
		for _, d := range addressDomains(value(field)) {
			if d = asciiDomain(d); d != "" && !slices.Contains(all, d) && len(all) <= maxAuthors {
				all = append(all, d)
			}
		}
	}
	return all
}

func addressDomains(text string) []string {
	var all []string
	if list, err := mail.ParseAddressList(text); err == nil {
		for _, a := range list {
			_, domain, _ := cutAddress(a.Address)
			all = append(all, domain)
		}
		return all
	}
	seen := map[string]bool{}
	for i, c := range []byte(text) {
		if c != '@' {
			continue
		}
		if d := domainAt(text[i+1:]); strings.Contains(d, ".") && !seen[d] {
			seen[d] = true
			all = append(all, d)
		}
	}
	return all
}

// domainAt is the longest beginning of a text that may be a domain.
func domainAt(s string) string {
	end := strings.IndexFunc(s, func(c rune) bool {
		return c < 0x80 && (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_'
	})
	if end >= 0 {
		s = s[:end]
	}
	return strings.TrimRight(s, ".")
}
