package limit

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/idna"
)

// Limit bounds what the whole cluster sends to one thing. A zero field bounds nothing.
type Limit struct {
	Key           string // site:NAME, domain:NAME or route:TARGET; NAME * is each one without a limit of its own
	Connections   int    // open at a time, idle ones too
	PerConnection int    // messages over one connection
	Rate          Rate   // messages
	Recipients    Rate   // their recipients
	Burst         int    // messages or recipients at once; 0: what a quarter of a second brings, at least 2
}

// Rate is so many in a time. The zero Rate is none.
type Rate struct {
	N   int
	Per time.Duration
}

// Bounds of what a Limit may say.
const (
	maxConnections = 100_000
	maxRate        = 10_000 // a second
	maxBurst       = 10_000
	maxName        = 300
	MaxLimits      = 1000 // in a Set
)

var units = [...]struct {
	name string
	per  time.Duration
}{{"s", time.Second}, {"m", time.Minute}, {"h", time.Hour}, {"d", 24 * time.Hour}}

// ParseRate reads N/s, N/m, N/h or N/d.
func ParseRate(text string) (r Rate, err error) {
	number, unit, _ := strings.Cut(text, "/")
	r.N, err = strconv.Atoi(number)
	for _, u := range units {
		if u.name == unit {
			r.Per = u.per
		}
	}
	switch {
	case err != nil || r.N < 1 || r.Per == 0:
		return Rate{}, fmt.Errorf("%q is not a rate such as 50/s, 600/m, 1000/h or 5000/d", text)
	case float64(r.N)/r.Per.Seconds() > maxRate:
		return Rate{}, fmt.Errorf("%s is too fast for a limit: at most %d a second", text, maxRate)
	}
	return r, nil
}

// String writes a rate as ParseRate reads it; the zero Rate is empty.
func (r Rate) String() string {
	for _, u := range units {
		if u.per == r.Per {
			return fmt.Sprintf("%d/%s", r.N, u.name)
		}
	}
	return ""
}

// every is the time between two of a rate.
func (r Rate) every() time.Duration { return max(r.Per/time.Duration(r.N), 1) }

// life is for how long one of a rate may still be used after its time, so that no span of any length has more than a
// burst and what the rate brings in it.
func (r Rate) life(burst int) time.Duration {
	if burst == 0 {
		burst = max(2, int(time.Second/4/r.every()))
	}
	return time.Duration(burst-1) * r.every()
}

// Parse reads what String writes: KEY and words such as connections=10, per-connection=50, rate=50/s,
// recipients=1000/m and burst=20.
func Parse(text string) (l Limit, err error) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return l, errors.New("it names nothing: begin with site:NAME, domain:NAME or route:TARGET")
	}
	if l.Key, err = key(words[0]); err != nil {
		return l, err
	}
	for _, word := range words[1:] {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "connections":
			l.Connections, err = number(name, value, 1, maxConnections)
		case "per-connection":
			l.PerConnection, err = number(name, value, 1, maxConnections)
		case "burst":
			l.Burst, err = number(name, value, 2, maxBurst)
		case "rate":
			l.Rate, err = ParseRate(value)
		case "recipients":
			l.Recipients, err = ParseRate(value)
		default:
			err = fmt.Errorf("%q is none of connections=, per-connection=, rate=, recipients= and burst=", word)
		}
		if err != nil {
			return Limit{}, err
		}
	}
	switch {
	case l.Burst != 0 && l.Rate.N == 0 && l.Recipients.N == 0:
		err = errors.New("a burst needs a rate or recipients beside it")
	case l == Limit{Key: l.Key}:
		err = errors.New("it limits nothing: give connections, per-connection, rate or recipients")
	}
	return l, err
}

// key checks what a limit is for, and brings it in one form.
func key(text string) (string, error) {
	kind, name, _ := strings.Cut(text, ":")
	if name == "" || !slices.Contains([]string{"site", "domain", "route"}, kind) || len(text) > maxName {
		return "", fmt.Errorf("%q is not site:NAME, domain:NAME or route:TARGET", text)
	}
	switch {
	case name == "*":
		return text, nil
	case kind == "domain":
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		ascii, err := idna.Lookup.ToASCII(name)
		if err != nil && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789.-_") == "" {
			ascii, err = name, nil // DNS knows names with an underscore, though they are none of hosts
		}
		if err != nil {
			return "", fmt.Errorf("%q is not a domain: name one, or * for each that has no limit of its own", name)
		}
		return kind + ":" + ascii, nil
	case kind == "site" && strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return "", fmt.Errorf("%q is not the name of a site: 'relayctl site ls' and 'queue stats' have them", name)
	case kind == "site":
		return strings.ToLower(text), nil
	case !strings.HasPrefix(name, "smtp:") && !strings.HasPrefix(name, "lmtp:"):
		return "", fmt.Errorf("%q is not the target of a route as 'relayctl route ls' shows it, such as smtp:HOST:PORT", name)
	}
	return text, nil
}

func number(name, value string, least, most int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%s is %q: give %d to %d", name, value, least, most)
	}
	return n, nil
}

// String writes a limit as Parse reads it.
func (l Limit) String() string {
	words := []string{l.Key}
	for _, w := range []struct {
		name string
		n    int
	}{{"connections", l.Connections}, {"per-connection", l.PerConnection}} {
		if w.n > 0 {
			words = append(words, fmt.Sprintf("%s=%d", w.name, w.n))
		}
	}
	if l.Rate.N > 0 {
		words = append(words, "rate="+l.Rate.String())
	}
	if l.Recipients.N > 0 {
		words = append(words, "recipients="+l.Recipients.String())
	}
	if l.Burst > 0 {
		words = append(words, fmt.Sprintf("burst=%d", l.Burst))
	}
	return strings.Join(words, " ")
}

// shared reports whether the nodes of the cluster have to share something.
func (l Limit) shared() bool { return l.Connections > 0 || l.Rate.N > 0 || l.Recipients.N > 0 }

// rates are those of messages and of recipients.
func (l Limit) rates() [2]Rate { return [2]Rate{l.Rate, l.Recipients} }

// Set is the limits of a cluster, by key. A nil Set has none.
type Set map[string]Limit

// ParseSet reads limits, one a text. A key may stand there once.
func ParseSet(texts []string) (Set, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	if len(texts) > MaxLimits {
		return nil, fmt.Errorf("%d limits are too many: at most %d", len(texts), MaxLimits)
	}
	s := make(Set, len(texts))
	for i, text := range texts {
		l, err := Parse(text)
		if err != nil {
			return nil, fmt.Errorf("limit %d: %w", i+1, err)
		}
		if _, ok := s[l.Key]; ok {
			return nil, fmt.Errorf("limit %d: %s has one already", i+1, l.Key)
		}
		s[l.Key] = l
	}
	return s, nil
}

// Of returns the limit of a key: its own, or that of each one of its kind.
func (s Set) Of(key string) (Limit, bool) {
	l, ok := s[key]
	if !ok {
		kind, _, _ := strings.Cut(key, ":")
		l, ok = s[kind+":*"]
	}
	l.Key = key
	return l, ok
}
