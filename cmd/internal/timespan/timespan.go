// Package timespan reads spans and instants of time as people write them.
package timespan

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// units are the units of a span, in the order in which they stand.
var units = map[string]time.Duration{
	"ms": time.Millisecond,
	"s":  time.Second, "sec": time.Second, "secs": time.Second, "second": time.Second, "seconds": time.Second,
	"m": time.Minute, "min": time.Minute, "mins": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour, "days": 24 * time.Hour,
	"w": 7 * 24 * time.Hour, "week": 7 * 24 * time.Hour, "weeks": 7 * 24 * time.Hour,
}

const longest = 100 * 365 * 24 * time.Hour

// Parse reads a span: "2h", "1d", "1w", "1d12h", "2 hours", "1 day 12 hours", or
// seconds. An M is refused: months of mail must not become minutes.
func Parse(s string) (time.Duration, error) {
	bad := fmt.Errorf(`%q is not a time span such as "2h", "3d" or "1w"`, s)
	text := strings.TrimSpace(s)
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second, nil
	}
	if text == "" {
		return 0, bad
	}
	total := time.Duration(0)
	for text != "" {
		number := text[:len(text)-len(strings.TrimLeft(text, "0123456789."))]
		text = strings.TrimLeft(text[len(number):], " ")
		unit := text[:len(text)-len(strings.TrimLeftFunc(text, unicode.IsLetter))]
		text = strings.TrimLeft(text[len(unit):], " ")
		if unit == "M" {
			return 0, fmt.Errorf(`%w: m is minutes, and there are no months: give days ("30d") or weeks`, bad)
		}
		n, err := strconv.ParseFloat(number, 64)
		of := units[strings.ToLower(unit)]
		if err != nil || of == 0 || n*float64(of) > float64(longest-total) {
			return 0, bad
		}
		total += time.Duration(n * float64(of))
	}
	return total, nil
}

// Forms are what Instant reads, for the help.
const Forms = `Times are UTC:
  2h, 90m, 1d12h, 1w, "2 hours ago"    so long before now; a bare number is seconds
  now, today, yesterday, 2026-11-28    a day counts whole, also as --until
  10:00, yesterday 14:00, 2026-11-28 14:00[:05]
                                       a time of day alone is today's
  2026-11-28T14:00:05+02:00, 2026-11-28 14:00:05Z, 11-28 14:00:05Z
                                       with a zone, and as the tables show them`

// Instant reads a span before now, a day, or an instant; all are UTC, as they
// are shown, unless they name a zone. Of a day it is the beginning, or with end the
// end. Nothing is the zero Time.
func Instant(now time.Time, s string, end bool) (time.Time, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return time.Time{}, nil
	}
	if timeOfDay(s) {
		s = "today " + s
	}
	word, clock, _ := strings.Cut(strings.ToLower(s), " ")
	day, ok := dayOf(now, word)
	switch {
	case !ok:
		return instant(now, s)
	case clock == "" && end:
		return day.AddDate(0, 0, 1), nil
	case clock == "":
		return day, nil
	}
	t, err := instant(now, day.Format(time.DateOnly)+" "+clock)
	if err != nil {
		return t, notATime(s)
	}
	return t, nil
}

// timeOfDay reports whether s is a time of day alone, such as 9:30 or 14:00:05.
func timeOfDay(s string) bool {
	for _, layout := range []string{"15:04", "15:04:05"} {
		if _, err := time.Parse(layout, s); err == nil {
			return true
		}
	}
	return false
}

func notATime(s string) error {
	return fmt.Errorf(`%q is neither a span such as "2h", a day such as "yesterday" or "2026-01-31", nor a time such as `+
		`"2026-01-31 12:00"`, s)
}

// dayOf is the beginning of a day that is named by a word or its date.
func dayOf(now time.Time, word string) (time.Time, bool) {
	today := now.UTC().Truncate(24 * time.Hour)
	switch word {
	case "today":
		return today, true
	case "yesterday":
		return today.AddDate(0, 0, -1), true
	}
	t, err := time.Parse(time.DateOnly, word)
	return t, err == nil
}

func instant(now time.Time, s string) (time.Time, error) {
	now = now.UTC()
	if strings.EqualFold(s, "now") {
		return now, nil
	}
	if d, err := Parse(strings.TrimSuffix(strings.ToLower(s), " ago")); err == nil {
		return now.Add(-d), nil
	}
	text := strings.ToUpper(s)
	for _, layout := range []string{
		time.RFC3339, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05", "2006-01-02T15:04",
		"2006-01-02 15:04:05Z07:00", "2006-01-02 15:04Z07:00", "2006-01-02 15:04:05", "2006-01-02 15:04",
	} {
		for _, t := range []string{text, now.Format("2006-") + text} { // tables leave this year out
			if t, err := time.Parse(layout, t); err == nil {
				return t, nil
			}
		}
	}
	return time.Time{}, notATime(s)
}
