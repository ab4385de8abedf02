package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// syntax reads a TOML document into nested maps, and notes on which line each
// key and table stands.
func syntax(data []byte) (tree map[string]any, lines map[string]int, problem *Problem) {
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
		return &Problem{Line: twice, Text: text}
	}
	line, column := d.Position()
	return &Problem{Line: line, Text: fmt.Sprintf("column %d: %s", column, text)}
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
