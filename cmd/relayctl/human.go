package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"relay/cmd/internal/timespan"
	"relay/cmd/internal/wording"
	"relay/cmd/relayctl/table"
	"relay/node/admin"
)

// size writes octets for people: 512 B, 1.5 KB, 40 GB.
func size(n uint64) string { return wording.Size(n) }

// parseSize reads "1GB", "500 KB" or octets.
func parseSize(s string) (uint64, error) { return wording.ParseSize(s) }

// age writes a span of time for people.
func age(d time.Duration) string { return wording.Age(d) }

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

// clock writes an instant in UTC, to the second.
func clock(t admin.Time) string { return table.Clock(t) }

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

// clean takes out what could steer a terminal: senders choose much of what is shown here.
func clean(s string) string { return table.Clean(s) }

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
