// Package table writes aligned tables that fit a terminal.
package table

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/mattn/go-runewidth"

	"relay/node/admin"
)

// Room is the place that tables are written to.
type Room struct {
	Out    io.Writer
	Width  int // in cells, 0: as wide as a table gets
	Colour bool
	Now    func() time.Time
}

// Table aligns rows. A heading that begins with > is of a column of numbers.
// If it has to fit a width it leaves columns out by what matters least,
// shortens ids and times, and cuts long cells; -o wide shows all.
// It writes in portions, so that a million rows neither wait nor stay.
type Table struct {
	room    Room
	columns []column
	order   []int // of importance; nil: as they stand
	needed  int   // so many of order are there even where cells have to be cut
	wraps   bool
	rows    [][]cell
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

// Ident is the id of a message: a cell that is shortened, uniquely, to its end.
type Ident string

const (
	portion = 500
	// idShown is how many characters of an id are shown at least. Ids that are
	// made at one time begin alike, so the end tells them apart: of a million
	// others one has the same eight once in a million times.
	idShown  = 8
	cellCut  = 10 // a text that matters is cut to this
	cellGood = 24 // and to this before a column that matters less is shown
)

// New begins a table with these headings. One goroutine uses it.
func New(room Room, heads ...string) *Table {
	t := &Table{room: room, columns: make([]column, len(heads)), needed: len(heads), ids: idShown}
	for i, h := range heads {
		c := &t.columns[i]
		c.head, c.right = strings.CutPrefix(h, ">")
		c.fixed, c.width = c.right, cells(c.head)
	}
	return t
}

// Matter names the columns that are shown first where not all fit, the most
// important first; the others follow as they stand.
func (t *Table) Matter(heads ...string) *Table {
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

// Wrap has the last column go on below, instead of being cut: for tables of one
// thing whose words are the answer.
func (t *Table) Wrap() *Table {
	t.wraps = true
	return t
}

// Row adds a row, a value for each heading. A portion that is full is written.
func (t *Table) Row(values ...any) {
	row := make([]cell, len(values))
	for i, v := range values {
		one := &t.columns[i]
		switch v := v.(type) {
		case Ident:
			one.fixed = true
			row[i].text = Clean(string(v))
		case admin.Time:
			one.fixed = true
			row[i] = cell{Clock(v), t.briefly(v)}
		default:
			row[i].text = Clean(fmt.Sprint(v))
		}
		if row[i].brief == "" {
			row[i].brief = row[i].text
		}
	}
	for i, v := range values {
		if _, id := v.(Ident); id && t.room.Width > 0 {
			t.shorten(row, i)
		}
	}
	t.rows = append(t.rows, row)
	if len(t.rows) >= portion {
		t.Flush()
	}
}

// shorten cuts the id in a column so that it differs from all others of its
// portion.
func (t *Table) shorten(row []cell, at int) {
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

// Flush writes the rows that are not written yet, at first the headings.
func (t *Table) Flush() {
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
		if t.room.Colour {
			line = "\x1b[2m" + line + "\x1b[0m"
		}
		b.WriteString(line + "\n")
	}
	for _, row := range t.rows {
		for i, line := range t.lines(row) {
			if t.room.Colour && i == 0 {
				line = paint(line, row)
			}
			b.WriteString(line + "\n")
		}
	}
	t.rows = t.rows[:0]
	_, _ = io.WriteString(t.room.Out, b.String())
}

// measure widens the columns to what is in them. Once a table that has to fit is
// begun, only ids can.
func (t *Table) measure() {
	for i := range t.columns {
		c := &t.columns[i]
		if t.room.Width > 0 && t.shown != nil && !c.fixed {
			continue
		}
		for _, row := range t.rows {
			c.width = max(c.width, cells(t.value(row[i])))
		}
	}
}

func (t *Table) value(c cell) string {
	if t.room.Width > 0 {
		return c.brief
	}
	return c.text
}

// pick chooses the columns that are shown, and how wide they are.
func (t *Table) pick() {
	if t.order == nil {
		for i := range t.columns {
			t.order = append(t.order, i)
		}
	}
	if t.room.Width == 0 {
		t.shown = slices.Sorted(slices.Values(t.order))
		return
	}
	left, least := t.room.Width+2, make([]int, len(t.columns))
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
func (t *Table) widen(least []int, left int) {
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
func (t *Table) lines(row []cell) []string {
	var b strings.Builder
	var below []string
	before := 0
	for at, i := range t.shown {
		c, text, last := t.columns[i], t.value(row[i]), at == len(t.shown)-1
		if t.room.Width > 0 && cells(text) > c.width && !c.fixed {
			if last && t.wraps {
				parts := Fold(text, max(c.width, t.room.Width-before))
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

// Fold breaks a text into lines of a width, at blanks where there are any.
func Fold(s string, width int) (lines []string) {
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
func (t *Table) briefly(at admin.Time) string {
	switch {
	case at.IsZero():
		return "-"
	case at.UTC().Year() == t.room.Now().UTC().Year():
		return at.UTC().Format("01-02 15:04:05Z")
	}
	return at.UTC().Format("2006-01-02 15:04Z")
}

// Clock writes an instant in UTC, to the second.
func Clock(t admin.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// Clean takes out what could steer a terminal: senders choose much of what is
// shown here.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\r' || r == '\t':
			return ' '
		case unicode.IsControl(r) || unicode.In(r, unicode.Cf):
			return '·'
		}
		return r
	}, s)
}
