package doctor

import (
	"fmt"
	"slices"
)

// Severity says how a condition stands.
type Severity string

// The severities, from the best to the worst. Unknown is a condition that can't
// be judged.
const (
	OK      Severity = "ok"
	Unknown Severity = "unknown"
	Warning Severity = "warning"
	Error   Severity = "error"
)

// rank orders severities.
func (s Severity) rank() int { return slices.Index([]Severity{OK, Unknown, Warning, Error}, s) }

// Wrong reports whether somebody should do something.
func (s Severity) Wrong() bool { return s.rank() >= Warning.rank() }

// Finding is how one condition stands.
type Finding struct {
	Condition string   // its name, the same for ever
	Severity  Severity // the worst of what was found
	Summary   string   // one sentence
	Evidence  []string // figures and names, one thing each
	Next      string   // what to do; empty where nothing is wrong
}

// Fact is something that is known, or the reason why it is not. The zero Fact is
// not known.
type Fact[T any] struct {
	value T
	known bool
	why   string
}

// Is is a fact that is known.
func Is[T any](v T) Fact[T] { return Fact[T]{value: v, known: true} }

// Not is a fact that is not known, and why.
func Not[T any](why string) Fact[T] { return Fact[T]{why: why} }

// Of is v where err is nil, else not known.
func Of[T any](v T, err error) Fact[T] {
	if err != nil {
		return Not[T](err.Error())
	}
	return Is(v)
}

// verdict collects what a condition is judged by.
type verdict struct{ Finding }

// add is something that is wrong.
func (v *verdict) add(s Severity, format string, args ...any) {
	if s.rank() > v.Severity.rank() {
		v.Severity = s
	}
	v.note(format, args...)
}

// note is evidence that makes nothing worse.
func (v *verdict) note(format string, args ...any) {
	v.Evidence = append(v.Evidence, fmt.Sprintf(format, args...))
}

// next names the next step, unless one is named already.
func (v *verdict) next(format string, args ...any) {
	if v.Next == "" {
		v.Next = fmt.Sprintf(format, args...)
	}
}

// need is a fact's value; a condition whose fact is missing can't be judged.
func need[T any](v *verdict, f Fact[T]) (value T, ok bool) {
	if !f.known {
		why := f.why
		if why == "" {
			why = "it was not looked at"
		}
		v.add(Unknown, "%s", why)
	}
	return f.value, f.known
}

// condition is one thing that can be wrong.
type condition struct {
	name  string
	well  string // the summary where all is well
	wrong string // the summary where it is not
	next  string // what to do then, unless the judge names something better
	judge func(f *Facts, v *verdict)
}

// find judges one condition.
func (c *condition) find(f *Facts) Finding {
	v := &verdict{Finding{Condition: c.name, Severity: OK, Evidence: []string{}}}
	c.judge(f, v)
	switch v.Severity {
	case OK:
		v.Summary, v.Next = c.well, ""
	case Unknown:
		v.Summary, v.Next = "can not be judged", ""
	default:
		v.Summary = c.wrong
		v.next("%s", c.next)
	}
	return v.Finding
}

// Judge says how each condition stands, in a fixed order.
func Judge(f *Facts) []Finding {
	var all []Finding
	for _, c := range conditions() {
		all = append(all, c.find(f))
	}
	return all
}

// conditions are all there are.
func conditions() []condition {
	return slices.Concat(clusterConditions(), agreementConditions(), diskConditions(), certificateConditions(),
		mailConditions(), accessConditions(), systemConditions(), dnsConditions(), domainConditions())
}
