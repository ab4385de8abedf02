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
	s := &fieldList{all: make([]*field, 0, len(fields)+len(v.edits))}
	size := 0
	for _, f := range fields {
		s.all = append(s.all, &field{text: f})
		size += len(f)
	}
	if n := len(fields); n > 0 && !bytes.HasSuffix(fields[n-1], []byte("\n")) {
		// BDAT may end anywhere; an added field is a line of its own
		s.all[n-1].text = slices.Concat(fields[n-1], []byte("\r\n"))
	}
	var top []byte
	for _, e := range v.edits {
		switch {
		case e.what == add:
			s.insert(len(s.all), e)
		case e.what == insert && e.at == 0:
			top = append(e.line(), top...)
		case e.what == insert:
			s.insert(s.place(e.at-1), e)
		default:
			s.change(e)
		}
	}
	out := make([]byte, 0, len(top)+len(trace)+len(section)+v.added)
	out = append(append(out, top...), trace...)
	for _, f := range s.all {
		out = append(out, f.text...)
	}
	return append(out, section[size:]...) // what is no field stays behind the others
}

// fieldList is a header section that is being changed. A message may have a
// hundred thousand fields, and a filter may want every one of them removed.
type fieldList struct {
	all    []*field            // those that were removed keep their places
	gone   int                 // of them
	byName map[string][]*field // the others, in order; nil: nobody has asked yet
}

type field struct {
	text []byte // empty: removed
}

// name is that of a field, in lower case.
func (f *field) name() string {
	name, _, _ := bytes.Cut(f.text, []byte(":"))
	return strings.ToLower(string(bytes.TrimRight(name, " \t")))
}

// place is where the n-th field that was not removed is, from 0, or the end.
func (s *fieldList) place(n int) int {
	if s.gone == 0 {
		return min(n, len(s.all))
	}
	for i, f := range s.all {
		if len(f.text) == 0 {
			continue
		}
		if n == 0 {
			return i
		}
		n--
	}
	return len(s.all)
}

func (s *fieldList) insert(at int, e edit) {
	f := &field{text: e.line()}
	if s.byName != nil {
		name, before := f.name(), 0
		list := s.byName[name]
		if at < len(s.all) && len(list) > 0 {
			for _, other := range s.all[:at] {
				if before < len(list) && other == list[before] {
					before++
				}
			}
		} else {
			before = len(list)
		}
		s.byName[name] = slices.Insert(list, before, f)
	}
	s.all = slices.Insert(s.all, at, f)
}

// change replaces or removes one of the fields of a name. One that is not there
// is added, as Sendmail does.
func (s *fieldList) change(e edit) {
	if s.byName == nil {
		s.byName = map[string][]*field{}
		for _, f := range s.all {
			s.byName[f.name()] = append(s.byName[f.name()], f)
		}
	}
	name := strings.ToLower(e.name)
	list := s.byName[name]
	switch {
	case e.at > len(list):
		if e.value != "" {
			s.insert(len(s.all), e)
		}
	case e.value != "":
		list[e.at-1].text = e.line()
	default:
		list[e.at-1].text = nil
		s.gone++
		s.byName[name] = slices.Delete(list, e.at-1, e.at)
	}
}
