package doctor

import (
	"fmt"
	"math/bits"
	"strings"
	"time"
)

// span writes a span of time for people: 5s, 3m, 2h10m, 4d.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	d = d.Abs()
	switch {
	case d > 0 && d < time.Second:
		return fmt.Sprintf("%.3gms", d.Seconds()*1000)
	case d < time.Minute:
		return fmt.Sprintf("%.3gs", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 2*day:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd", d/day)
}

// octets writes a size for people, as relayctl does.
func octets(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	unit := min((bits.Len64(n)-1)/10, 4)
	f := float64(n) / float64(uint64(1)<<(10*unit))
	if f < 9.95 {
		return fmt.Sprintf("%.1f %cB", f, "BKMGT"[unit])
	}
	return fmt.Sprintf("%.0f %cB", f, "BKMGT"[unit])
}

// counted writes "1 node", "2 nodes".
func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// shown bounds how many things of a kind are named as evidence.
const shown = 10

// some calls each with the first things of a list, and notes how many more
// there are.
func some[T any](v *verdict, all []T, each func(T)) {
	for _, one := range all[:min(len(all), shown)] {
		each(one)
	}
	if more := len(all) - shown; more > 0 {
		v.note("and %d more", more)
	}
}

// list joins the first of many words.
func list(all []string) string {
	if more := len(all) - shown; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:shown], ", "), more)
	}
	return strings.Join(all, ", ")
}
