package retry

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"relay/queue/replyclass"
)

// Bounds of a site's own rules.
const (
	MaxRules   = 500
	MaxRuleLen = 400 // octets of one
	leastWait  = time.Second
	mostTime   = 10 * 365 * 24 * time.Hour
)

// Never is the Notice of a rule that says "notice=never".
const Never = time.Duration(-1)

// Values are what rules say of a recipient. A zero field is left to the settings.
type Values struct {
	First, Max time.Duration // wait after the first attempt, and longest wait
	Factor     float64       // each wait is so much longer than the one before
	Lifetime   time.Duration // it is given up at this age
	Notice     time.Duration // its sender is told at this age that it is late; Never: not
}

// fill takes from other what v leaves open.
func (v *Values) fill(other *Values) {
	or(&v.First, other.First)
	or(&v.Max, other.Max)
	or(&v.Factor, other.Factor)
	or(&v.Lifetime, other.Lifetime)
	or(&v.Notice, other.Notice)
}

func or[T comparable](v *T, other T) {
	var none T
	if *v == none {
		*v = other
	}
}

// Table is a site's own rules, in their order. A nil Table has none.
type Table struct {
	rules   []rule
	classes bool
	ages    bool
}

type rule struct {
	domain string // empty: all; with a leading dot: all below
	class  replyclass.Class
	values Values
}

// Parse reads rules, one text each: a domain, ".example.com" for all domains below it or "*" for all, the class of the
// last reply if it is to count, and what holds then: "example.com greylist first=2m max=10m". The keys are first, max,
// factor, expire and notice, the last two without a class only; times are such as 30s, 5m, 4h or 5d, and a notice may
// be "never". No rules are a nil Table.
func Parse(rules []string) (*Table, error) {
	if len(rules) == 0 {
		return nil, nil
	}
	if len(rules) > MaxRules {
		return nil, fmt.Errorf("at most %d rules are possible", MaxRules)
	}
	t := &Table{}
	for i, text := range rules {
		r, err := parseRule(text)
		if err != nil {
			return nil, fmt.Errorf("rule %d: %w", i+1, err)
		}
		t.rules = append(t.rules, r)
		t.classes = t.classes || r.class != replyclass.None
		t.ages = t.ages || r.values.Lifetime != 0 || r.values.Notice != 0
	}
	return t, nil
}

var errEmpty = errors.New("it says nothing: give a domain or *, and values such as first=10m max=1h")

func parseRule(text string) (r rule, err error) {
	if len(text) > MaxRuleLen {
		return r, fmt.Errorf("it is longer than %d octets", MaxRuleLen)
	}
	fields := strings.Fields(text)
	if len(fields) < 2 {
		return r, errEmpty
	}
	if r.domain, err = parseDomain(fields[0]); err != nil {
		return r, err
	}
	fields = fields[1:]
	if !strings.Contains(fields[0], "=") {
		ok := false
		if r.class, ok = replyclass.ByName(fields[0]); !ok {
			return r, fmt.Errorf("%q is neither a class of replies, such as greylist, nor a value, such as first=10m", fields[0])
		}
		if fields = fields[1:]; len(fields) == 0 {
			return r, errEmpty
		}
	}
	for _, f := range fields {
		if err := r.value(f); err != nil {
			return r, err
		}
	}
	v := &r.values
	switch {
	case v.First > 0 && v.Max > 0 && v.First > v.Max:
		return r, fmt.Errorf("first=%s is longer than max=%s", Span(v.First), Span(v.Max))
	case r.class != replyclass.None && (v.Lifetime != 0 || v.Notice != 0):
		return r, fmt.Errorf("expire and notice hold for a domain and not for class %s: give them a rule without one",
			r.class)
	}
	return r, nil
}

func parseDomain(text string) (string, error) {
	if text == "*" {
		return "", nil
	}
	name := strings.ToLower(strings.TrimSuffix(text, "."))
	for _, c := range []byte(name) {
		if c >= 0x80 {
			return "", fmt.Errorf("give the domain %q as DNS has it, xn--", text)
		}
		if c != '.' && c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return "", fmt.Errorf("%q is not a domain, .example.com for all below one, or *", text)
		}
	}
	if strings.Trim(name, ".") == "" || strings.Contains(name, "..") || len(name) > 254 {
		return "", fmt.Errorf("%q is not a domain, .example.com for all below one, or *", text)
	}
	return name, nil
}

// value reads KEY=VALUE.
func (r *rule) value(text string) (err error) {
	key, value, ok := strings.Cut(text, "=")
	if !ok {
		return fmt.Errorf("%q is not a value such as first=10m", text)
	}
	v := &r.values
	into := map[string]*time.Duration{"first": &v.First, "max": &v.Max, "expire": &v.Lifetime, "notice": &v.Notice}[key]
	switch {
	case key == "factor":
		if v.Factor != 0 {
			return fmt.Errorf("factor is given twice")
		}
		v.Factor, err = strconv.ParseFloat(value, 64)
		if err != nil || math.IsNaN(v.Factor) || v.Factor < 1 || v.Factor > 100 {
			return fmt.Errorf("factor is a number from 1 to 100, not %q", value)
		}
		return nil
	case into == nil:
		return fmt.Errorf("%q is none of first, max, factor, expire and notice", key)
	case *into != 0:
		return fmt.Errorf("%s is given twice", key)
	case key == "notice" && value == "never":
		v.Notice = Never
		return nil
	}
	d, err := parseSpan(value)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	*into = d
	return nil
}

// units are those of durations, from the longest.
var units = []struct {
	name string
	is   time.Duration
}{{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}

func parseSpan(text string) (time.Duration, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(text, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 32)
		if d := time.Duration(n) * u.is; err == nil && n <= uint64(mostTime/u.is) && d >= leastWait {
			return d, nil
		}
	}
	return 0, fmt.Errorf("%q is not a time such as 30s, 5m, 4h or 5d", text)
}

// Span is a duration as rules have it.
func Span(d time.Duration) string {
	for _, u := range units {
		if d >= u.is && d%u.is == 0 {
			return fmt.Sprintf("%d%s", d/u.is, u.name)
		}
	}
	return d.String()
}

// Of returns what holds for a recipient of a domain, in lower case, whose last reply was of a class: each value is that
// of the first rule that fits and names it.
func (t *Table) Of(domain string, class replyclass.Class) (v Values) {
	if t == nil {
		return v
	}
	for i := range t.rules {
		if r := &t.rules[i]; r.fits(domain) && (r.class == replyclass.None || r.class == class) {
			v.fill(&r.values)
		}
	}
	return v
}

func (r *rule) fits(domain string) bool {
	return r.domain == "" || r.domain == domain || r.domain[0] == '.' && strings.HasSuffix(domain, r.domain)
}

// Classes reports whether a rule asks for the class of a reply.
func (t *Table) Classes() bool { return t != nil && t.classes }

// About reports whether a rule asks for a class.
func (t *Table) About(class replyclass.Class) bool {
	return t != nil && slices.ContainsFunc(t.rules, func(r rule) bool { return r.class == class })
}

// Ages reports whether a rule says when mail is given up, or when its sender is told.
func (t *Table) Ages() bool { return t != nil && t.ages }

// Least returns the shortest Lifetime and Notice of all rules; 0: none of them names one.
func (t *Table) Least() (v Values) {
	if t == nil {
		return v
	}
	least := func(into *time.Duration, d time.Duration) {
		if d > 0 && (*into == 0 || d < *into) {
			*into = d
		}
	}
	for i := range t.rules {
		least(&v.Lifetime, t.rules[i].values.Lifetime)
		least(&v.Notice, t.rules[i].values.Notice)
	}
	return v
}

// Longest returns the longest wait that any rule names, whatever the last reply was; 0: none does.
func (t *Table) Longest() (longest time.Duration) {
	if t != nil {
		for i := range t.rules {
			longest = max(longest, t.rules[i].values.First, t.rules[i].values.Max)
		}
	}
	return longest
}
