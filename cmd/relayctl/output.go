package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
	"gopkg.in/yaml.v3"

	"relay/smtp/printable"
)

// emit writes a value as JSON or YAML, or calls table.
func (a *app) emit(v any, table func()) error {
	switch a.output {
	case "json":
		return writeJSON(a.stdout, v, "")
	case "yaml":
		return writeYAML(a.stdout, v)
	}
	table()
	return nil
}

func writeJSON(w io.Writer, v any, prefix string) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent(prefix, "  ")
	return e.Encode(v)
}

// writeYAML goes by way of JSON, so that names and order are the same.
func writeYAML(w io.Writer, v any) error {
	var text bytes.Buffer
	if err := writeJSON(&text, v, ""); err != nil {
		return err
	}
	var n yaml.Node
	if err := yaml.Unmarshal(escaped(text.Bytes()), &n); err != nil {
		return err
	}
	block(&n)
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(&n); err != nil {
		return err
	}
	return e.Close()
}

// escaped writes characters that YAML wants escaped so: JSON does not.
func escaped(text []byte) []byte {
	var out []byte
	for _, r := range string(text) {
		switch {
		case r == '\n' || printable.Rune(r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			out = fmt.Appendf(out, "\\U%08x", r)
		default:
			out = fmt.Appendf(out, "\\u%04x", r)
		}
	}
	return out
}

func block(n *yaml.Node) {
	if len(n.Content) > 0 || n.Kind == yaml.ScalarNode {
		n.Style = 0
	}
	for _, c := range n.Content {
		block(c)
	}
}

// stream writes many values as one JSON or YAML list without holding them.
type stream struct {
	a *app
	n int
}

func (s *stream) add(v any) (err error) {
	s.n++
	if s.a.output == "yaml" {
		return writeYAML(s.a.stdout, []any{v})
	}
	lead := ",\n  "
	if s.n == 1 {
		lead = "[\n  "
	}
	var text bytes.Buffer
	if err := writeJSON(&text, v, "  "); err != nil {
		return err
	}
	_, err = io.WriteString(s.a.stdout, lead+strings.TrimSuffix(text.String(), "\n"))
	return err
}

func (s *stream) end() (err error) {
	switch {
	case s.n == 0:
		_, err = io.WriteString(s.a.stdout, "[]\n")
	case s.a.output == "json":
		_, err = io.WriteString(s.a.stdout, "\n]\n")
	}
	return err
}

// table aligns rows. A heading that begins with > is of a column of numbers.
// It writes in portions, so that a million rows neither wait nor stay.
type table struct {
	a      *app
	heads  []string
	right  []bool
	widths []int
	rows   [][]string
	wrote  bool
}

const portion = 500

func (a *app) table(heads ...string) *table {
	t := &table{a: a, widths: make([]int, len(heads)), right: make([]bool, len(heads))}
	for i, h := range heads {
		h, t.right[i] = strings.CutPrefix(h, ">")
		t.heads = append(t.heads, h)
		t.widths[i] = utf8.RuneCountInString(h)
	}
	return t
}

func (t *table) row(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = clean(fmt.Sprint(c))
		t.widths[i] = max(t.widths[i], utf8.RuneCountInString(row[i]))
	}
	t.rows = append(t.rows, row)
	if len(t.rows) >= portion {
		t.flush()
	}
}

func (t *table) flush() {
	var b strings.Builder
	width, colour := t.a.terminal()
	if !t.wrote {
		t.wrote = true
		line := t.line(t.heads, width)
		if colour {
			line = "\x1b[2m" + line + "\x1b[0m"
		}
		b.WriteString(line + "\n")
	}
	for _, row := range t.rows {
		line := t.line(row, width)
		if colour {
			line = paint(line, row)
		}
		b.WriteString(line + "\n")
	}
	t.rows = t.rows[:0]
	_, _ = io.WriteString(t.a.stdout, b.String())
}

// line aligns one row; on a terminal what does not fit is cut.
func (t *table) line(cells []string, width int) string {
	var b strings.Builder
	for i, c := range cells {
		pad := strings.Repeat(" ", t.widths[i]-utf8.RuneCountInString(c))
		switch {
		case t.right[i]:
			b.WriteString(pad + c)
		case i == len(cells)-1:
			b.WriteString(c)
		default:
			b.WriteString(c + pad)
		}
		if i < len(cells)-1 {
			b.WriteString("  ")
		}
	}
	line := strings.TrimRight(b.String(), " ")
	if width > 0 && utf8.RuneCountInString(line) > width {
		line = string([]rune(line)[:width-1]) + "…"
	}
	return line
}

// paint colours the first word of a row that is a state.
func paint(line string, row []string) string {
	colours := map[string]string{"alive": "32", "dead": "31", "silent": "31", "draining": "33", "drained": "33", "joining": "33",
		"deferred": "33", "held": "35", "suspended": "35", "active": "36", "delivered": "32", "bounced": "31", "expired": "31"}
	for _, cell := range row {
		if strings.HasPrefix(cell, "silent ") {
			cell = "silent"
		}
		if code, ok := colours[cell]; ok {
			return strings.Replace(line, " "+cell, " \x1b["+code+"m"+cell+"\x1b[0m", 1)
		}
	}
	return line
}

// terminal returns the width of standard output where that is a terminal, and
// whether colours are welcome there.
func (a *app) terminal() (width int, colour bool) {
	f, ok := a.stdout.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		width = 0
	}
	return width, a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb"
}
