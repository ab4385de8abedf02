package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/mattn/go-runewidth"
	"golang.org/x/term"

	"relay/node/admin"
)

// table aligns rows. A heading that begins with > is of a column of numbers.
// If it has to fit a width it leaves columns out by what matters least,
// shortens ids and times, and cuts long cells; -o wide shows all.
// It writes in portions, so that a million rows neither wait nor stay.
type table struct {
	a       *app
	columns []column
	order   []int // of importance; nil: as they stand
	needed  int   // so many of order are there even where cells have to be cut
	wraps   bool
	rows    [][]cell
	width   int // 0: as wide as it gets
	colour  bool
	shown   []int // columns of a table that has been begun, in their places
	ids     int   // characters of an id that are shown
}

type column struct {
	head  string
	right bool
	fixed bool // never cut: numbers, ids, times
	width int
}

// cell is one value; brief is how it is written where room is short.
type cell struct{ text, brief string }

// ident is the id of a message: a cell that is shortened, uniquely, to its end.
type ident string

const (
	portion = 500
	// idShown is how many characters of an id are shown at least. Ids that are
	// made at one time begin alike, so the end tells them apart: of a million
	// others one has the same eight once in a million times.
	idShown  = 8
	cellCut  = 10 // a text that matters is cut to this
	cellGood = 24 // and to this before a column that matters less is shown
	lineCut  = 80
)

func (a *app) table(heads ...string) *table {
	t := &table{a: a, columns: make([]column, len(heads)), needed: len(heads), ids: idShown}
	for i, h := range heads {
		c := &t.columns[i]
		c.head, c.right = strings.CutPrefix(h, ">")
		c.fixed, c.width = c.right, cells(c.head)
	}
	t.width, t.colour = a.room()
	return t
}

// matter names the columns that are shown first where not all fit, the most
// important first; the others follow as they stand.
func (t *table) matter(heads ...string) *table {
	t.order, t.needed = nil, len(heads)
	for _, h := range heads {
		t.order = append(t.order, slices.IndexFunc(t.columns, func(c column) bool { return c.head == h }))
	}
	for i := range t.columns {
		if !slices.Contains(t.order, i) {
			t.order = append(t.order, i)
		}
	}
	return t
}

// wrap has the last column go on below, instead of being cut: for tables of one
// thing whose words are the answer.
func (t *table) wrap() *table {
	t.wraps = true
	return t
}

func (t *table) row(values ...any) {
	row := make([]cell, len(values))
	for i, v := range values {
		one := &t.columns[i]
		switch v := v.(type) {
		case ident:
			one.fixed = true
			row[i].text = clean(string(v))
		case admin.Time:
			one.fixed = true
			row[i] = cell{clock(v), t.a.briefly(v)}
		default:
			row[i].text = clean(fmt.Sprint(v))
		}
		if row[i].brief == "" {
			row[i].brief = row[i].text
		}
	}
	for i, v := range values {
		if _, id := v.(ident); id && t.width > 0 {
			t.shorten(row, i)
		}
	}
	t.rows = append(t.rows, row)
	if len(t.rows) >= portion {
		t.flush()
	}
}

// shorten cuts the id in a column so that it differs from all others of its
// portion.
func (t *table) shorten(row []cell, at int) {
	for {
		row[at].brief = ending(row[at].text, t.ids)
		same := func(other []cell) bool { return other[at].brief == row[at].brief && other[at].text != row[at].text }
		if t.ids >= len(row[at].text) || !slices.ContainsFunc(t.rows, same) {
			return
		}
		t.ids++
		for _, other := range t.rows {
			other[at].brief = ending(other[at].text, t.ids)
		}
	}
}

func ending(s string, n int) string { return s[max(0, len(s)-n):] }

func (t *table) flush() {
	begun := t.shown != nil
	t.measure()
	var b strings.Builder
	if !begun {
		t.pick()
		head := make([]cell, len(t.columns))
		for i, c := range t.columns {
			head[i] = cell{c.head, c.head}
		}
		line := strings.Join(t.lines(head), "\n")
		if t.colour {
			line = "\x1b[2m" + line + "\x1b[0m"
		}
		b.WriteString(line + "\n")
	}
	for _, row := range t.rows {
		for i, line := range t.lines(row) {
			if t.colour && i == 0 {
				line = paint(line, row)
			}
			b.WriteString(line + "\n")
		}
	}
	t.rows = t.rows[:0]
	_, _ = io.WriteString(t.a.written, b.String())
}

// measure widens the columns to what is in them. Once a table that has to fit is
// begun, only ids can.
func (t *table) measure() {
	for i := range t.columns {
		c := &t.columns[i]
		if t.width > 0 && t.shown != nil && !c.fixed {
			continue
		}
		for _, row := range t.rows {
			c.width = max(c.width, cells(t.value(row[i])))
		}
	}
}

func (t *table) value(c cell) string {
	if t.width > 0 {
		return c.brief
	}
	return c.text
}

// pick chooses the columns that are shown, and how wide they are.
func (t *table) pick() {
	if t.order == nil {
		for i := range t.columns {
			t.order = append(t.order, i)
		}
	}
	if t.width == 0 {
		t.shown = slices.Sorted(slices.Values(t.order))
		return
	}
	left, least := t.width+2, make([]int, len(t.columns))
	for rank, i := range t.order {
		least[i] = t.columns[i].least(cellCut)
		cost := least[i] + 2
		if rank >= t.needed {
			cost = t.columns[i].least(cellGood) + 2
		}
		spare := left
		if rank >= t.needed { // those that matter come to their width first
			for _, j := range t.shown {
				spare -= t.columns[j].least(cellGood) - least[j]
			}
		}
		if spare >= cost || len(t.shown) == 0 {
			t.shown = append(t.shown, i)
			left -= least[i] + 2
		}
	}
	t.widen(least, left)
	slices.Sort(t.shown)
}

// widen gives what is left of the line to the cells that were cut, to each as
// much as to the others.
func (t *table) widen(least []int, left int) {
	for more := true; more && left > 0; {
		more = false
		for _, i := range t.shown {
			if left > 0 && least[i] < t.columns[i].width {
				least[i]++
				left--
				more = true
			}
		}
	}
	for _, i := range t.shown {
		t.columns[i].width = least[i]
	}
}

// least is how narrow a column may get where texts are cut to so many cells.
func (c *column) least(text int) int {
	if c.fixed {
		return c.width
	}
	return min(c.width, text)
}

// lines writes one row: one line, or more where the last cell goes on below.
func (t *table) lines(row []cell) []string {
	var b strings.Builder
	var below []string
	before := 0
	for at, i := range t.shown {
		c, text, last := t.columns[i], t.value(row[i]), at == len(t.shown)-1
		if t.width > 0 && cells(text) > c.width && !c.fixed {
			if last && t.wraps {
				parts := fold(text, max(c.width, t.width-before))
				text, below = parts[0], parts[1:]
			} else {
				text = cut(text, c.width)
			}
		}
		pad := strings.Repeat(" ", max(0, c.width-cells(text)))
		switch {
		case c.right:
			text = pad + text
		case !last:
			text += pad
		}
		b.WriteString(text)
		if !last {
			b.WriteString("  ")
			before += cells(text) + 2
		}
	}
	all := []string{strings.TrimRight(b.String(), " ")}
	for _, more := range below {
		all = append(all, strings.Repeat(" ", before)+more)
	}
	return all
}

// cellWidth counts as terminals do where the locale is not an East Asian one.
func cellWidth() *runewidth.Condition { return &runewidth.Condition{StrictEmojiNeutral: true} }

// cells is the width of a text on a terminal: of most signs 1, of Chinese,
// Japanese and Korean ones 2.
func cells(s string) int { return cellWidth().StringWidth(s) }

// cut shortens a text to a width.
func cut(s string, width int) string { return cellWidth().Truncate(s, width, "…") }

// fold breaks a text into lines of a width, at blanks where there are any.
func fold(s string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(s) {
		for {
			next := strings.TrimPrefix(line+" "+word, " ")
			if cells(next) <= width {
				line = next
				break
			}
			if line != "" {
				lines, line = append(lines, line), ""
				continue
			}
			head := cellWidth().Truncate(word, width, "")
			if head == "" {
				head = word
			}
			lines, word = append(lines, head), word[len(head):]
		}
	}
	return append(lines, line)
}

// paint colours the first word of a row that is a state.
func paint(line string, row []cell) string {
	colours := map[string]string{"alive": "32", "dead": "31", "silent": "31", "draining": "33",
		"drained": "33", "joining": "33",
		"deferred": "33", "held": "35", "suspended": "35", "active": "36", "delivered": "32",
		"bounced": "31", "expired": "31"}
	for _, c := range row {
		word := c.text
		if strings.HasPrefix(word, "silent ") {
			word = "silent"
		}
		if code, ok := colours[word]; ok {
			return strings.Replace(line, " "+word, " \x1b["+code+"m"+word+"\x1b[0m", 1)
		}
	}
	return line
}

// briefly writes an instant where room is short: of this year without the year.
func (a *app) briefly(t admin.Time) string {
	switch {
	case t.IsZero():
		return "-"
	case t.UTC().Year() == a.now().UTC().Year():
		return t.UTC().Format("01-02 15:04:05Z")
	}
	return t.UTC().Format("2006-01-02 15:04Z")
}

// room returns the width that tables have to fit, 0 for any, and whether colours
// are welcome. Output to a file or a program is whole, unless a table is asked
// for by name.
func (a *app) room() (width int, colour bool) {
	f, ok := a.stdout.(*os.File)
	terminal := ok && term.IsTerminal(int(f.Fd()))
	colour = terminal && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb"
	if a.wide || !terminal && !a.fitted {
		return 0, colour
	}
	if n, err := strconv.Atoi(a.getenv("COLUMNS")); err == nil && n > 0 {
		return n, colour
	}
	if terminal {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			return width, colour
		}
	}
	return lineCut, colour
}
