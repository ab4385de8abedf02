package wording

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size writes octets for people: 512 B, 1.5 KB, 40 GB.
func Size(n uint64) string {
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

// ParseSize reads "1GB", "500 KB" or octets; units are powers of 1024.
func ParseSize(s string) (uint64, error) {
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

// Age writes a span of time for people, two parts at most: 5s, 3m, 2h10m, 3d4h.
func Age(d time.Duration) string {
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
