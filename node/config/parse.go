package config

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// syntax reads a TOML document into nested maps, and notes on which line each
// key and table stands.
func syntax(data []byte) (tree map[string]any, lines map[string]int, problem *Problem) {
	if !utf8.Valid(data) {
		return nil, nil, &Problem{Line: 1 + bytes.Count(data[:invalid(data)], []byte("\n")),
			Text: "the file is not UTF-8 text: save it as such"}
	}
	if err := toml.Unmarshal(data, &tree); err != nil {
		return nil, nil, syntaxProblem(data, err)
	}
	lines, _ = index(data)
	return tree, lines, nil
}

func syntaxProblem(data []byte, err error) *Problem {
	text := strings.TrimPrefix(err.Error(), "toml: ")
	var d *toml.DecodeError
	if !errors.As(err, &d) {
		// The library does not say where a key is set for the second time.
		_, twice := index(data)
		return &Problem{Line: twice, Text: text + standsTwice(text)}
	}
	line, column := d.Position()
	if hint := unquoted(data, line); hint != "" {
		return &Problem{Line: line, Text: hint}
	}
	return &Problem{Line: line, Text: fmt.Sprintf("column %d: %s", column, text)}
}

// invalid is the offset of the first octet that is not UTF-8.
func invalid(data []byte) int {
	at := 0
	for at < len(data) {
		r, n := utf8.DecodeRune(data[at:])
		if r == utf8.RuneError && n < 2 {
			break
		}
		at += n
	}
	return at
}

// standsTwice says what to do about a table or key that is there already.
func standsTwice(text string) string {
	name, table := strings.CutPrefix(text, "table ")
	name, twice := strings.CutSuffix(name, " already exists")
	switch i, there := fields(reflect.TypeFor[Config]())[name]; {
	case !table || !twice:
		return ""
	case there && reflect.TypeFor[Config]().Field(i).Type.Kind() == reflect.Slice:
		return fmt.Sprintf(": write [[%s]] at each", name)
	}
	return ": keep its keys together under one"
}

// unquoted finds the commonest mistake of people who do not know TOML on a line that
// can't be read: a text without its quotes, or with one of them.
func unquoted(data []byte, line int) string {
	key, value, ok := strings.Cut(strings.Split(string(data), "\n")[line-1], "=")
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	switch {
	case !ok || value == "" || strings.HasPrefix(key, "#"):
		return ""
	case value[0] == '"' && strings.Count(value, `"`) == 1:
		return key + ": the quote at the end of the text is missing"
	case strings.ContainsAny(value[:1], `"'[{#`):
		return ""
	}
	value, _, _ = strings.Cut(value, "#")
	return fmt.Sprintf("%s: a text stands in quotes: %[1]s = %q", key, strings.TrimSpace(value))
}

// index maps "node", "node.id", "smtp[1]", "smtp[1].listen" to lines. The
// second result is the line on which a key or table stands for the second
// time, or 0.
func index(data []byte) (lines map[string]int, twice int) {
	lines, counts := map[string]int{}, map[string]int{}
	at := lineCounter(data)
	var p unstable.Parser
	p.Reset(data)
	again := func(key string, line int) {
		if _, ok := lines[key]; ok && twice == 0 {
			twice = line
		}
		lines[key] = line
	}
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table:
			table = join("", e.Key(), counts)
			again(table, at(e.Child().Raw.Offset))
		case unstable.ArrayTable:
			name := join("", e.Key(), counts)
			table = fmt.Sprintf("%s[%d]", name, counts[name])
			counts[name]++
			lines[table] = at(e.Child().Raw.Offset)
		case unstable.KeyValue:
			indexValue(again, table, e, at, counts)
		}
	}
	return lines, twice
}

func indexValue(again func(string, int), table string, e *unstable.Node, at func(uint32) int, counts map[string]int) {
	keys := e.Key()
	line := 0
	if keys.Next() {
		line = at(keys.Node().Raw.Offset)
	}
	key := join(table, e.Key(), counts)
	again(key, line)
	if e.Value().Kind == unstable.InlineTable {
		for it := e.Value().Children(); it.Next(); {
			indexValue(again, key, it.Node(), at, counts)
		}
	}
}

// join appends a dotted key to a path. A part that is an array of tables means
// its last element, as in TOML.
func join(path string, keys unstable.Iterator, counts map[string]int) string {
	for keys.Next() {
		if n := counts[path]; n > 0 {
			path = fmt.Sprintf("%s[%d]", path, n-1)
		}
		if path != "" {
			path += "."
		}
		path += string(keys.Node().Data)
	}
	return path
}

// lineCounter returns a function from offset to line. Offsets mostly ascend,
// so that a document is counted once.
func lineCounter(data []byte) func(uint32) int {
	offset, line := uint32(0), 1
	return func(to uint32) int {
		if to < offset {
			offset, line = 0, 1
		}
		for ; offset < to; offset++ {
			if data[offset] == '\n' {
				line++
			}
		}
		return line
	}
}
