package replyclass

import (
	"fmt"
	"strings"
)

// Bounds of a site's own rules.
const (
	MaxRules   = 200
	MaxRuleLen = 200 // octets of one
)

// Table is a site's own rules, which come before the built-in ones. A nil Table has none.
type Table struct{ own *table }

// Parse reads a site's own rules, one text each: the class, the begin of the SMTP code and the enhanced code if they
// are to count, and the phrase that the reply must have, if any. "blocklist 554 5.7.1 listed at example.org" fits a 554
// 5.7.1 with these words next to each other. In the phrase "list*" is how a word begins, and " ... " stands for any
// words; case and punctuation do not count. No rules are a nil Table.
func Parse(rules []string) (*Table, error) {
	if len(rules) == 0 {
		return nil, nil
	}
	if len(rules) > MaxRules {
		return nil, fmt.Errorf("at most %d rules are possible", MaxRules)
	}
	t := &table{rules: make([]rule, len(rules)), phrases: map[begin][]phrase{}}
	for i, text := range rules {
		if err := t.parse(i, text); err != nil {
			return nil, fmt.Errorf("rule %d: %w", i+1, err)
		}
	}
	return &Table{own: t}, nil
}

func (t *table) parse(i int, text string) error {
	if len(text) > MaxRuleLen {
		return fmt.Errorf("it is longer than %d octets", MaxRuleLen)
	}
	fields := strings.Fields(text)
	if len(fields) == 0 {
		return fmt.Errorf("it is empty")
	}
	class, ok := ByName(fields[0])
	if !ok {
		return fmt.Errorf("its class is not one of %s", strings.Join(names[1:], ", "))
	}
	r, fields := rule{class: class}, fields[1:]
	if len(fields) > 0 && isCode(fields[0]) {
		r.code, fields = fields[0], fields[1:]
	}
	if len(fields) > 0 && isStatus(fields[0]) {
		r.status, fields = fields[0][2:], fields[1:]
	}
	if r.phrases = len(fields) > 0; r.phrases {
		plain, err := plainPhrase(fields)
		if err != nil {
			return err
		}
		t.add(i, plain)
	} else if r.code+r.status == "" {
		return fmt.Errorf("it has neither a code nor words")
	}
	t.rules[i] = r
	return nil
}

// isCode recognises a code of a failure, or its begin.
func isCode(s string) bool {
	return len(s) <= 3 && digits(s) == len(s) && (s[0] == '4' || s[0] == '5')
}

// plainPhrase brings the words of a phrase into the form that replies are brought into.
func plainPhrase(fields []string) (string, error) {
	var parts []string
	for part := range strings.SplitSeq(strings.Join(fields, " "), " ... ") {
		bare, open := strings.CutSuffix(part, "*")
		plain := strings.TrimSpace(string(words(nil, bare)))
		if len(plain) < len(begin{}) {
			return "", fmt.Errorf("%q is too short to look for", part)
		}
		if open {
			plain += "*"
		}
		parts = append(parts, plain)
	}
	return strings.Join(parts, " ... "), nil
}

// ByName finds a class by its name.
func ByName(name string) (Class, bool) {
	for c := None + 1; c < count; c++ {
		if names[c] == name {
			return c, true
		}
	}
	return None, false
}

// ByNames finds classes by their names. Other names do not count.
func ByNames(all []string) (classes []Class) {
	for _, name := range all {
		if c, ok := ByName(name); ok {
			classes = append(classes, c)
		}
	}
	return classes
}

// Of is [Of] with the site's own rules before the built-in ones.
func (t *Table) Of(reply string) Class {
	switch {
	case reply == "" || reply[0] == '2':
		return None
	case t == nil:
		return classify(nil, reply)
	}
	return classify(t.own, reply)
}
