package main

import (
	"os"
	"strconv"

	"golang.org/x/term"

	"relay/cmd/relayctl/table"
)

// lineCut is the width of a table that has to fit where no width is known.
const lineCut = 80

// table begins a table that fits the output.
func (a *app) table(heads ...string) *table.Table {
	width, colour := a.room()
	return table.New(table.Room{Out: a.written, Width: width, Colour: colour, Now: a.now}, heads...)
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
