package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"relay/cmd/internal/timespan"
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

// parseAge reads a span of time.
func parseAge(s string) (time.Duration, error) { return timespan.Parse(s) }

// parseSince reads the value of --since.
func (a *app) parseSince(s string) (admin.Time, error) { return a.parseTime("--since", s, false) }

// parseTime reads an instant before now, or a day: of that it is the beginning, or with end the end.
func (a *app) parseTime(flag, s string, end bool) (admin.Time, error) {
	t, err := timespan.Instant(a.now(), s, end)
	if err != nil {
		return admin.Time{}, usagef("%s %w", flag, err)
	}
	if t.IsZero() {
		return admin.Time{}, nil
	}
	return admin.At(t), nil
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
