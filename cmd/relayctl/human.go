package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"relay/node/admin"
)

// size writes octets for people: 512 B, 1.5 KB, 40 GB.
func size(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10) + " B"
	}
	f, unit := float64(n), 0
	for f >= 1024 && unit < 4 {
		f /= 1024
		unit++
	}
	if f < 9.95 {
		return fmt.Sprintf("%.1f %cB", f, "BKMGT"[unit])
	}
	return fmt.Sprintf("%.0f %cB", f, "BKMGT"[unit])
}

// parseSize reads "1GB", "500 KB" or octets; units are powers of 1024.
func parseSize(s string) (uint64, error) {
	text := strings.Replace(strings.ToUpper(strings.TrimSpace(s)), "IB", "B", 1)
	factor := 1.0
	for i, unit := range []string{"TB", "GB", "MB", "KB", "B"} {
		if number, ok := strings.CutSuffix(text, unit); ok {
			text, factor = strings.TrimSpace(number), math.Pow(1024, float64(4-i))
			break
		}
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || !(n >= 0) || n*factor > 1<<60 {
		return 0, fmt.Errorf(`%q is not a size such as "1GB"`, s)
	}
	return uint64(n * factor), nil
}

// age writes a span of time for people, two parts at most: 5s, 3m, 2h10m, 3d4h.
func age(d time.Duration) string {
	d = d.Abs()
	part := func(whole, rest time.Duration, a, b string) string {
		if rest == 0 {
			return fmt.Sprintf("%d%s", whole, a)
		}
		return fmt.Sprintf("%d%s%d%s", whole, a, rest, b)
	}
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < day:
		return part(d/time.Hour, d%time.Hour/time.Minute, "h", "m")
	case d < 10*day:
		return part(d/day, d%day/time.Hour, "d", "h")
	}
	return fmt.Sprintf("%dd", d/day)
}

func seconds(n int64) string { return age(time.Duration(n) * time.Second) }

// next says when a coming instant is.
func (a *app) next(t admin.Time) string {
	if t.IsZero() {
		return "-"
	}
	if d := t.Sub(a.now()); d > 0 {
		return "in " + age(d)
	}
	return "now"
}

// clock writes an instant in the local zone of nobody: UTC, to the second.
func clock(t admin.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// spanUnits are the units of a span, in the order in which they stand.
var spanUnits = map[string]time.Duration{
	"ms": time.Millisecond,
	"s":  time.Second, "sec": time.Second, "secs": time.Second, "second": time.Second, "seconds": time.Second,
	"m": time.Minute, "min": time.Minute, "mins": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour, "days": 24 * time.Hour,
	"w": 7 * 24 * time.Hour, "week": 7 * 24 * time.Hour, "weeks": 7 * 24 * time.Hour,
}

const longestSpan = 100 * 365 * 24 * time.Hour

// parseAge reads a span: "2h", "1d", "1w", "1d12h", "2 hours", "1 day 12 hours", or
// seconds. An M is refused: months of mail must not become minutes.
func parseAge(s string) (time.Duration, error) {
	bad := fmt.Errorf(`%q is not a time span such as "2h", "3d" or "1w"`, clean(s))
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
		of := spanUnits[strings.ToLower(unit)]
		if err != nil || of == 0 || n*float64(of) > float64(longestSpan-total) {
			return 0, bad
		}
		total += time.Duration(n * float64(of))
	}
	return total, nil
}

// parseSince reads the value of --since.
func (a *app) parseSince(s string) (admin.Time, error) { return a.parseTime("--since", s, false) }

// timeForms are what parseTime reads, for the help.
const timeForms = `Times are UTC:
  2h, 90m, 1d12h, 1w, "2 hours ago"    so long before now; a bare number is seconds
  now, today, yesterday, 2026-11-28    a day counts whole, also as --until
  10:00, yesterday 14:00, 2026-11-28 14:00[:05]
                                       a time of day alone is today's
  2026-11-28T14:00:05+02:00, 2026-11-28 14:00:05Z, 11-28 14:00:05Z
                                       with a zone, and as the tables show them`

// parseTime reads a span before now, a day, or an instant; all are UTC, as they
// are shown, unless they name a zone. Of a day it is the beginning, or with end the
// end.
func (a *app) parseTime(flag, s string, end bool) (admin.Time, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return admin.Time{}, nil
	}
	if timeOfDay(s) {
		s = "today " + s
	}
	word, clock, _ := strings.Cut(strings.ToLower(s), " ")
	day, ok := a.day(word)
	switch {
	case !ok:
		return a.parseInstant(flag, s)
	case clock == "" && end:
		return admin.At(day.AddDate(0, 0, 1)), nil
	case clock == "":
		return admin.At(day), nil
	}
	t, err := a.parseInstant(flag, day.Format(time.DateOnly)+" "+clock)
	if err != nil {
		return t, notATime(flag, s)
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

func notATime(flag, s string) error {
	return usagef(`%s %q is neither a span such as "2h", a day such as "yesterday" or "2026-01-31", nor a time such as `+
		`"2026-01-31 12:00"`, flag, s)
}

// day is the beginning of a day that is named by a word or its date.
func (a *app) day(word string) (time.Time, bool) {
	today := a.now().UTC().Truncate(24 * time.Hour)
	switch word {
	case "today":
		return today, true
	case "yesterday":
		return today.AddDate(0, 0, -1), true
	}
	t, err := time.Parse(time.DateOnly, word)
	return t, err == nil
}

func (a *app) parseInstant(flag, s string) (admin.Time, error) {
	now := a.now().UTC()
	if strings.EqualFold(s, "now") {
		return admin.At(now), nil
	}
	if d, err := parseAge(strings.TrimSuffix(strings.ToLower(s), " ago")); err == nil {
		return admin.At(now.Add(-d)), nil
	}
	text := strings.ToUpper(s)
	for _, layout := range []string{
		time.RFC3339, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05", "2006-01-02T15:04",
		"2006-01-02 15:04:05Z07:00", "2006-01-02 15:04Z07:00", "2006-01-02 15:04:05", "2006-01-02 15:04",
	} {
		for _, t := range []string{text, now.Format("2006-") + text} { // tables leave this year out
			if t, err := time.Parse(layout, t); err == nil {
				return admin.At(t), nil
			}
		}
	}
	return admin.Time{}, notATime(flag, s)
}

// count writes "1 message", "2 messages".
func count[N int | int64 | uint64](n N, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// grouped writes a number in groups of three digits: 12,345.
func grouped(n uint64) string {
	digits := strconv.FormatUint(n, 10)
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}

// clean takes out what could steer a terminal: senders choose much of what is
// shown here.
func clean(s string) string {
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

// sentence makes a sentence of a clause. A first word that is a name, with a
// digit or a sign in it, stays as it is.
func sentence(s string) string {
	s = strings.TrimSuffix(clean(s), ".") + "."
	word, _, _ := strings.Cut(s, " ")
	if r := []rune(s); !strings.ContainsFunc(word, func(r rune) bool { return !unicode.IsLetter(r) }) {
		r[0] = unicode.ToUpper(r[0])
		return string(r)
	}
	return s
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// path writes a reverse-path.
func path(sender string) string {
	if sender == "" {
		return "<>"
	}
	return sender
}
