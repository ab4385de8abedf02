package verify

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"relay/smtp/printable"
)

// maxValue bounds what a stranger may have written into a field of ours.
const maxValue = 255

// Field writes an Authentication-Results field (RFC 8601 §2.2), a line for each
// result.
func Field(id string, results []string) []byte {
	b := append([]byte("Authentication-Results: "), quoted(id)...)
	for _, r := range results {
		b = append(append(b, ";\r\n\t"...), r...)
	}
	return append(b, "\r\n"...)
}

// Results are the methods and their results, as they stand in the field.
func (r *Result) Results() []string {
	all := []string{r.SPF.String()}
	if len(r.DKIM) == 0 {
		all = append(all, "dkim=none")
	}
	for i := range r.DKIM {
		all = append(all, r.DKIM[i].String())
	}
	if len(r.DMARC) == 0 {
		all = append(all, "dmarc=permerror "+pair("reason", "no author's domain"))
	}
	for i := range r.DMARC {
		all = append(all, r.DMARC[i].String())
	}
	if r.Crowd {
		all = append(all, "dmarc=permerror "+pair("reason", "too many authors"))
	}
	return all
}

// Summary says the same in few words, for people.
func (r *Result) Summary() string {
	words := []string{"spf=" + string(r.SPF.Outcome)}
	for _, s := range r.DKIM {
		words = append(words, fmt.Sprintf("dkim=%s (%s)", s.Outcome, printable.Text(s.Domain, maxValue)))
	}
	if len(r.DKIM) == 0 {
		words = append(words, "dkim=none")
	}
	for _, d := range r.DMARC {
		policy := ""
		if d.Policy != "" {
			policy = " p=" + string(d.Policy)
		}
		words = append(words, fmt.Sprintf("dmarc=%s (%s%s)", d.Outcome, d.Domain, policy))
	}
	if r.Crowd {
		words = append(words, "dmarc=permerror (too many authors)")
	}
	return strings.Join(words, " ")
}

func (s SPF) String() string {
	if s.Helo {
		return "spf=" + string(s.Outcome) + pair(" smtp.helo", s.Sender)
	}
	return "spf=" + string(s.Outcome) + pair(" smtp.mailfrom", s.Sender)
}

func (s Signature) String() string {
	return "dkim=" + string(s.Outcome) + pair(" reason", s.Reason) + pair(" header.d", s.Domain) +
		pair(" header.s", s.Selector) + pair(" header.b", s.Tag)
}

func (d DMARC) String() string {
	text := "dmarc=" + string(d.Outcome)
	if d.Policy != "" {
		text += fmt.Sprintf(" (p=%s dis=%s)", d.Policy, d.Wanted)
	}
	return text + pair(" header.from", d.Domain)
}

// pair is a property, or nothing where it has no value.
func pair(name, value string) string {
	if value == "" {
		return ""
	}
	if strings.HasSuffix(name, "reason") {
		return name + `="` + escaped(value) + `"`
	}
	return name + "=" + quoted(value)
}

// quoted is a value as it may stand in the field: bare where it is an address,
// a name or a token, else a quoted string.
func quoted(s string) string {
	bare := s != ""
	for _, c := range s {
		if c >= 0x80 && (c == utf8.RuneError || !printable.Rune(c)) {
			bare = false
		}
		if c < 0x80 && !strings.ContainsRune("!#$%&'*+-./@^_`{|}~", c) &&
			(c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') {
			bare = false
		}
	}
	if bare && len(s) <= maxValue {
		return s
	}
	return `"` + escaped(s) + `"`
}

func escaped(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(printable.Text(s, maxValue))
}
