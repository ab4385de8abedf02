package milter

import (
	"bytes"
	"slices"
	"strings"
)

// Kinds of edit.
type kind uint8

const (
	add    kind = iota // at the end of the header section
	insert             // at a place: 0 is above our own trace field, 1 below it
	change             // the at-th field of that name; an empty value removes it
)

type edit struct {
	what  kind
	at    int
	name  string
	value string
}

// line is the field as it stands in a message.
func (e edit) line() []byte {
	value := strings.ReplaceAll(strings.ReplaceAll(e.value, "\r\n", "\n"), "\r", "\n")
	lines := strings.Split(strings.TrimRight(value, "\n"), "\n")
	for i, l := range lines {
		l = strings.ReplaceAll(l, "\x00", "?")
		if i > 0 && !strings.HasPrefix(l, " ") && !strings.HasPrefix(l, "\t") {
			l = "\t" + l // a line of its own would be another field, or the end of the section
		}
		lines[i] = l
	}
	sep := " "
	if strings.HasPrefix(lines[0], " ") || strings.HasPrefix(lines[0], "\t") || lines[0] == "" {
		sep = ""
	}
	return []byte(e.name + ":" + sep + strings.Join(lines, "\r\n") + "\r\n")
}

// Edit carries the verdict out on a header section: our own trace field in
// front, which filters do not see, and the message's fields.
func (v *Verdict) Edit(trace, section []byte) []byte {
	fields := Fields(section)
	rest := section[len(bytes.Join(fields, nil)):] // what is no field stays behind the others
	var top [][]byte
	for _, e := range v.edits {
		switch {
		case e.what == add:
			fields = append(fields, e.line())
		case e.what == insert && e.at == 0:
			top = slices.Insert(top, 0, e.line())
		case e.what == insert:
			fields = slices.Insert(fields, min(e.at-1, len(fields)), e.line())
		default:
			fields = e.change(fields)
		}
	}
	return slices.Concat(bytes.Join(top, nil), trace, bytes.Join(fields, nil), rest)
}

// change replaces or removes one of the fields of a name. One that is not there
// is added, as Sendmail does.
func (e edit) change(fields [][]byte) [][]byte {
	n := 0
	for i, f := range fields {
		name, _ := split(f, false)
		if !strings.EqualFold(name, e.name) {
			continue
		}
		if n++; n < e.at {
			continue
		}
		if e.value == "" {
			return slices.Delete(fields, i, i+1)
		}
		fields[i] = e.line()
		return fields
	}
	if e.value != "" {
		fields = append(fields, e.line())
	}
	return fields
}
