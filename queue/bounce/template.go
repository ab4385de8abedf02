package bounce

import (
	"bytes"
	"fmt"
	"mime"
	"slices"
	"strings"
	"unicode/utf8"

	"relay/smtp/printable"
)

// Bounds of a template.
const (
	MaxTemplate    = 16 << 10 // octets of all
	maxTemplateRow = 500      // octets of a line
	maxSubject     = 200
	longLine       = 900 // a line that got longer by what was filled in is wrapped
)

// Template is an operator's own text of the part of notices that people read. A nil Template, or one without a section
// for a kind, leaves the built-in text. The parts for programs are never of a template.
type Template struct{ sections [3]*section }

type section struct {
	subject string
	lines   []string
}

var kindNames = [3]string{Failure: "failure", Delay: "delay", Success: "success"}

// Names of what is filled in.
var (
	fillers        = []string{"host", "id", "date", "until", "count", "sender", "recipients"}
	subjectFillers = []string{"host", "id"}
)

const allRecipients = "{recipients}"

// ParseTemplate reads a template; an error names the line. A template has sections, "[failure]", "[delay]" and
// "[success]", each with a line "Subject: …" if it likes, an empty line, and text, which has a line "{recipients}"
// where the recipients are listed. {host}, {id}, {date}, {until}, {count} and {sender} are filled in, a subject takes
// the first two, and "{{" is a brace. Lines before the first section begin with #. An empty text is a nil Template.
func ParseTemplate(text string) (*Template, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	if len(text) > MaxTemplate {
		return nil, fmt.Errorf("the template has %d octets: at most %d are possible", len(text), MaxTemplate)
	}
	p := &templateParser{made: &Template{}}
	lines := strings.Split(strings.TrimPrefix(text, "\ufeff"), "\n")
	for n, line := range lines {
		if err := p.line(strings.TrimRight(line, " \t\r"), n+1); err != nil {
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		}
	}
	if err := p.end(); err != nil {
		return nil, fmt.Errorf("line %d: %w", p.began, err)
	}
	if p.in == nil {
		return nil, fmt.Errorf("line 1: there is no section: begin one with [failure], [delay] or [success]")
	}
	return p.made, nil
}

type templateParser struct {
	made  *Template
	in    *section
	name  string
	began int
	lists bool // its {recipients} has come
}

func (p *templateParser) line(line string, n int) error {
	if err := plainLine(line); err != nil {
		return err
	}
	if name, ok := sectionName(line); ok {
		return p.begin(name, n)
	}
	switch {
	case p.in == nil && (line == "" || line[0] == '#'):
		return nil
	case p.in == nil:
		return fmt.Errorf("a section comes first: [failure], [delay] or [success]")
	case n == p.began+1 && hasPrefixFold(line, "subject:"):
		p.in.subject = strings.TrimSpace(line[len("subject:"):])
		return checkSubject(p.in.subject)
	case line == "" && len(p.in.lines) == 0:
		return nil
	case strings.TrimSpace(line) == allRecipients:
		if p.lists {
			return fmt.Errorf("%s stands in the section twice", allRecipients)
		}
		p.lists, line = true, allRecipients
	default:
		if err := checkFillers(line, fillers); err != nil {
			return err
		}
		if _, err := fill(line, func(name string) string { return name }); err == nil && namesRecipients(line) {
			return fmt.Errorf("%s needs a line of its own", allRecipients)
		}
	}
	p.in.lines = append(p.in.lines, line)
	return nil
}

// plainLine refuses what may stand in no line.
func plainLine(line string) error {
	if len(line) > maxTemplateRow {
		return fmt.Errorf("it has %d octets: at most %d are possible", len(line), maxTemplateRow)
	}
	if !utf8.ValidString(line) {
		return fmt.Errorf("it is not UTF-8")
	}
	for _, r := range line {
		if r != '\t' && !printable.Rune(r) {
			return fmt.Errorf("it has the control character %U", r)
		}
	}
	return nil
}

func sectionName(line string) (string, bool) {
	name, ok := strings.CutPrefix(line, "[")
	if !ok {
		return "", false
	}
	name, ok = strings.CutSuffix(name, "]")
	return name, ok && !strings.ContainsAny(name, " []")
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

func (p *templateParser) begin(name string, n int) error {
	if err := p.end(); err != nil {
		return fmt.Errorf("before it: %w", err)
	}
	kind := slices.Index(kindNames[:], name)
	switch {
	case kind < 0:
		return fmt.Errorf("there is no section [%s]: there are [failure], [delay] and [success]", name)
	case p.made.sections[kind] != nil:
		return fmt.Errorf("section [%s] is there twice", name)
	}
	p.in, p.name, p.began, p.lists = &section{}, name, n, false
	p.made.sections[kind] = p.in
	return nil
}

// end checks a section that is whole.
func (p *templateParser) end() error {
	if p.in == nil {
		return nil
	}
	for len(p.in.lines) > 0 && p.in.lines[len(p.in.lines)-1] == "" {
		p.in.lines = p.in.lines[:len(p.in.lines)-1]
	}
	if !p.lists {
		return fmt.Errorf("section [%s] has no line %s: a notice says whom it is about", p.name, allRecipients)
	}
	return nil
}

func checkSubject(text string) error {
	switch {
	case text == "":
		return fmt.Errorf("the subject is empty: leave the line out for the built-in one")
	case len(text) > maxSubject:
		return fmt.Errorf("the subject has %d octets: at most %d are possible", len(text), maxSubject)
	}
	return checkFillers(text, subjectFillers)
}

func checkFillers(text string, known []string) error {
	_, err := fill(text, func(name string) string {
		if slices.Contains(known, name) {
			return name
		}
		return ""
	})
	if err != nil {
		return fmt.Errorf("%w: there are {%s} here, and {{ is a brace", err, strings.Join(known, "}, {"))
	}
	return nil
}

func namesRecipients(line string) bool {
	return strings.Contains(strings.ReplaceAll(line, "{{", ""), allRecipients)
}

// fill replaces {name} by what is known under it, and {{ by a brace. An error names what nothing is known under.
func fill(text string, known func(name string) string) (string, error) {
	var out strings.Builder
	for {
		before, rest, ok := strings.Cut(text, "{")
		out.WriteString(before)
		if !ok {
			return out.String(), nil
		}
		if strings.HasPrefix(rest, "{") {
			out.WriteByte('{')
			text = rest[1:]
			continue
		}
		name, after, closed := strings.Cut(rest, "}")
		value := known(name)
		if !closed || value == "" {
			return "", fmt.Errorf("{%s is not known", printable.Text(rest[:min(len(rest), 20)], 20))
		}
		out.WriteString(value)
		text = after
	}
}

// of is the section for a kind of notice; nil: the built-in text.
func (t *Template) of(kind Kind) *section {
	if t == nil || int(kind) >= len(t.sections) {
		return nil
	}
	return t.sections[kind]
}

// value is what stands for a name in the text.
func (w *writer) value(name string) string {
	r := w.r
	switch name {
	case "host":
		return w.host()
	case "id":
		return orUnknown(atom(r.ID))
	case "date":
		return dateOr(r.Arrived.IsZero(), r.Arrived.Format(dateLayout))
	case "until":
		return dateOr(r.Until.IsZero(), r.Until.Format(dateLayout))
	case "count":
		return fmt.Sprint(len(r.Recipients))
	case "sender":
		return orUnknown(w.clean(r.To))
	}
	return ""
}

func orUnknown(s string) string {
	if s == "" {
		return "(unknown)"
	}
	return s
}

func dateOr(none bool, date string) string {
	if none {
		return "(not known)"
	}
	return date
}

// own writes the part for people by a template.
func (w *writer) own(s *section) []byte {
	var out bytes.Buffer
	for _, line := range s.lines {
		if line == allRecipients {
			w.persons(&out)
			continue
		}
		text, err := fill(line, w.value)
		if err != nil { // no template that was parsed has such a line
			text = line
		}
		if len(text) > longLine {
			wrap(&out, text)
			continue
		}
		out.WriteString(text + "\r\n")
	}
	return out.Bytes()
}

// ownSubject is the subject by a template; empty: the built-in one.
func (w *writer) ownSubject() string {
	s := w.r.Template.of(w.r.Kind)
	if s == nil || s.subject == "" {
		return ""
	}
	text, err := fill(s.subject, w.value)
	if err != nil {
		return ""
	}
	return mime.QEncoding.Encode("utf-8", oneLine(text, true))
}
