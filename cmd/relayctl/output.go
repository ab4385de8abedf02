package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"relay/smtp/printable"
)

// emit writes a value as JSON or YAML, or calls table.
func (a *app) emit(v any, table func()) error {
	switch a.output {
	case "json":
		return writeJSON(a.written, v, "")
	case "yaml":
		return writeYAML(a.written, v)
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

// writeLine writes JSON as one line.
func writeLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
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
		return writeYAML(s.a.written, []any{v})
	}
	lead := ",\n  "
	if s.n == 1 {
		lead = "[\n  "
	}
	var text bytes.Buffer
	if err := writeJSON(&text, v, "  "); err != nil {
		return err
	}
	_, err = io.WriteString(s.a.written, lead+strings.TrimSuffix(text.String(), "\n"))
	return err
}

func (s *stream) end() (err error) {
	switch {
	case s.n == 0:
		_, err = io.WriteString(s.a.written, "[]\n")
	case s.a.output == "json":
		_, err = io.WriteString(s.a.written, "\n]\n")
	}
	return err
}

// warn writes warnings beside the output.
func (a *app) warn(words []string) {
	for _, text := range words {
		a.note("warning: %s", clean(text))
	}
}
