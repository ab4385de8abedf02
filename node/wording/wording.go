// Package wording says numbers, times and lists in the words of the operator's messages.
package wording

import (
	"fmt"
	"strings"
	"time"
)

// Counted says how many of a thing there are.
func Counted(n uint64, thing string) string {
	switch {
	case n == 1:
		return "1 " + thing
	case strings.HasSuffix(thing, "s"), strings.HasSuffix(thing, "x"):
		return fmt.Sprintf("%d %ses", n, thing)
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// Some lists at most max names.
func Some(names []string, max int) string {
	if len(names) <= max {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:max], ", "), len(names)-max)
}

// Span says how long a time is, to the precision a person wants.
func Span(d time.Duration) string {
	switch d = d.Abs(); {
	case d < time.Second:
		return "less than a second"
	case d < 2*time.Minute:
		return Counted(uint64(d/time.Second), "second")
	case d < 2*time.Hour:
		return Counted(uint64(d/time.Minute), "minute")
	case d < 48*time.Hour:
		return Counted(uint64(d/time.Hour), "hour")
	}
	return Counted(uint64(d/(24*time.Hour)), "day")
}

// Instant says when something is or was, absolutely and from now.
func Instant(at, now time.Time) string {
	text := at.UTC().Format("2006-01-02 15:04:05Z")
	if at.After(now) {
		return fmt.Sprintf("%s (in %s)", text, Span(at.Sub(now)))
	}
	return fmt.Sprintf("%s (%s ago)", text, Span(now.Sub(at)))
}
