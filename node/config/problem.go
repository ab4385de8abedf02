package config

import (
	"fmt"
	"sort"
	"strings"
)

// Problem is one mistake.
type Problem struct {
	Line int    // in the file, from 1; 0 where no line is to blame
	Key  string // "smtp[0].listen"; empty for syntax errors
	Text string // what is wrong and what would be right
}

func (p Problem) String() string {
	text := p.Text
	if p.Key != "" {
		text = p.Key + ": " + text
	}
	if p.Line > 0 {
		text = fmt.Sprintf("line %d: %s", p.Line, text)
	}
	return text
}

// Invalid is the error of Load: all mistakes of a file.
type Invalid struct {
	Path     string
	Problems []Problem
}

func (e *Invalid) Error() string {
	first := e.Problems[0].String()
	if len(e.Problems) == 1 {
		return fmt.Sprintf("%s, %s", e.Path, first)
	}
	more := "1 more mistake"
	if n := len(e.Problems) - 1; n > 1 {
		more = fmt.Sprintf("%d more mistakes", n)
	}
	return fmt.Sprintf("%s, %s; and %s, 'relayd config check %s' names them all", e.Path, first, more, e.Path)
}

// report collects problems and finds their lines.
type report struct {
	lines    map[string]int    // key → line
	env      map[string]string // key → variable that set it
	bad      map[string]bool   // keys that could not be read: not judged again
	problems []Problem
}

// decoded ends the reading: keys with problems so far have no value of their
// own, and what check says of them would only confuse.
func (r *report) decoded() {
	for _, p := range r.problems {
		r.bad[p.Key] = true
	}
}

func (r *report) add(key, format string, args ...any) {
	if r.bad[key] {
		return
	}
	p := Problem{Line: r.line(key), Key: key, Text: fmt.Sprintf(format, args...)}
	if name, ok := r.env[key]; ok {
		p.Line, p.Text = 0, p.Text+" (set by "+name+")"
	}
	r.problems = append(r.problems, p)
}

// line finds the line of a key, or of the nearest table around it.
func (r *report) line(key string) int {
	for key != "" {
		if n, ok := r.lines[key]; ok {
			return n
		}
		cut := strings.LastIndexAny(key, ".[")
		if cut < 0 {
			return 0
		}
		key = key[:cut]
	}
	return 0
}

func (r *report) sorted() []Problem {
	sort.SliceStable(r.problems, func(i, j int) bool { return r.problems[i].Line < r.problems[j].Line })
	return r.problems
}

// nearest returns the candidate that word is most likely a slip of, or "".
func nearest(word string, candidates []string) string {
	best, least := "", 3
	for _, c := range candidates {
		if d := distance(word, c); d < least && d < len(c) {
			best, least = c, d
		}
	}
	return best
}

// distance is the number of edits between two short words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			corner, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, corner+cost)
		}
	}
	return row[len(b)]
}
