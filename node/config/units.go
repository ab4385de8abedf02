package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of octets, written "50MB". KB, MB, GB and TB are powers of
// 1024, as are KiB and so on.
type Size int64

// Units of Size.
const (
	KB Size = 1 << 10
	MB Size = 1 << 20
	GB Size = 1 << 30
	TB Size = 1 << 40
)

type unit struct {
	name   string
	octets Size
}

func units() []unit {
	return []unit{{"TB", TB}, {"GB", GB}, {"MB", MB}, {"KB", KB}, {"B", 1}}
}

// ParseSize reads a Size. A bare number counts octets.
func ParseSize(s string) (Size, error) {
	text := strings.ToUpper(strings.TrimSpace(s))
	text = strings.Replace(text, "IB", "B", 1)
	factor := Size(1)
	for _, u := range units() {
		if number, ok := strings.CutSuffix(text, u.name); ok {
			text, factor = strings.TrimSpace(number), u.octets
			break
		}
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || n < 0 || math.IsInf(n, 0) || math.IsNaN(n) || n*float64(factor) > 1<<60 {
		return 0, fmt.Errorf(`%q is not a size such as "50MB"`, s)
	}
	return Size(n * float64(factor)), nil
}

// String writes the size with the largest unit that divides it.
func (s Size) String() string {
	for _, u := range units() {
		if s >= u.octets && s%u.octets == 0 {
			return strconv.FormatInt(int64(s/u.octets), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// MarshalText implements encoding.TextMarshaler.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(b []byte) (err error) {
	*s, err = ParseSize(string(b))
	return err
}

// AutoSize is a Size, or what the program finds right for the machine, written "auto".
type AutoSize Size

// AutoCache is the AutoSize that is written "auto".
const AutoCache AutoSize = 0

// MarshalText implements encoding.TextMarshaler.
func (s AutoSize) MarshalText() ([]byte, error) {
	if s == AutoCache {
		return []byte("auto"), nil
	}
	return Size(s).MarshalText()
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *AutoSize) UnmarshalText(b []byte) error {
	if strings.EqualFold(strings.TrimSpace(string(b)), "auto") {
		*s = AutoCache
		return nil
	}
	n, err := ParseSize(string(b))
	if err != nil || n == 0 {
		return fmt.Errorf(`%q is neither "auto" nor a size such as "64MB"`, b)
	}
	*s = AutoSize(n)
	return nil
}

// Duration is a time.Duration, written "5m" or "2d12h".
type Duration time.Duration

// ParseDuration reads a Duration. A bare number other than 0 is refused,
// because it does not say of what.
func ParseDuration(s string) (Duration, error) {
	bad := fmt.Errorf(`%q is not a duration such as "5m"`, s)
	text, days := strings.TrimSpace(s), time.Duration(0)
	if before, after, ok := strings.Cut(text, "d"); ok {
		n, err := strconv.ParseUint(before, 10, 16)
		if err != nil {
			return 0, bad
		}
		days, text = time.Duration(n)*24*time.Hour, after
		if text == "" {
			return Duration(days), nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || days+d < 0 {
		return 0, bad
	}
	return Duration(days + d), nil
}

// D returns the time.Duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

// String writes the duration without empty parts: "5m", not "5m0s".
func (d Duration) String() string {
	const day = 24 * time.Hour
	if d == 0 {
		return "0s"
	}
	text, rest := "", time.Duration(d)
	if rest >= day {
		text = strconv.FormatInt(int64(rest/day), 10) + "d"
		rest %= day
	}
	if rest == 0 {
		return text
	}
	part := rest.String()
	if strings.HasSuffix(part, "m0s") {
		part = strings.TrimSuffix(part, "0s")
	}
	if strings.HasSuffix(part, "h0m") {
		part = strings.TrimSuffix(part, "0m")
	}
	return text + part
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDuration(string(b))
	return err
}
