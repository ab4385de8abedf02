package wiretest

import (
	"fmt"
	"regexp"
	"strings"
)

// expand puts the values of ${name} into text.
func expand(text string, vars map[string]string, quote bool) (string, error) {
	if !strings.Contains(text, "$") {
		return text, nil
	}
	var out strings.Builder
	for {
		before, after, ok := strings.Cut(text, "$")
		out.WriteString(before)
		switch {
		case !ok:
			return out.String(), nil
		case strings.HasPrefix(after, "$"):
			out.WriteByte('$')
			text = after[1:]
		case strings.HasPrefix(after, "{"):
			name, rest, closed := strings.Cut(after[1:], "}")
			value, known := vars[name]
			if !closed || !known {
				return "", fmt.Errorf("unknown variable ${%s}", name)
			}
			if quote {
				value = regexp.QuoteMeta(value)
			}
			out.WriteString(value)
			text = rest
		default:
			out.WriteByte('$')
			text = after
		}
	}
}

// compile turns a pattern of a transcript into a regular expression.
func compile(pattern string, vars map[string]string) (*regexp.Regexp, error) {
	pattern, open := strings.CutSuffix(pattern, "...")
	var re strings.Builder
	re.WriteString(`(?s)\A`)
	for pattern != "" {
		literal, rest, found := strings.Cut(pattern, "~")
		text, err := expand(literal, vars, false)
		if err != nil {
			return nil, err
		}
		re.WriteString(regexp.QuoteMeta(text))
		if !found {
			break
		}
		if strings.HasPrefix(rest, "~") {
			re.WriteByte('~')
			pattern = rest[1:]
			continue
		}
		expr, rest, closed := strings.Cut(rest, "~")
		if !closed {
			return nil, fmt.Errorf("a tilde without its partner in %q", pattern)
		}
		if strings.Contains(expr, "${") {
			if expr, err = expand(expr, vars, true); err != nil {
				return nil, err
			}
		}
		re.WriteString("(?:" + expr + ")")
		pattern = rest
	}
	if !open {
		re.WriteString(`\z`)
	}
	return regexp.Compile(re.String())
}

// match reports whether the line matches, and remembers named groups.
func match(re *regexp.Regexp, line string, vars map[string]string) bool {
	found := re.FindStringSubmatch(line)
	if found == nil {
		return false
	}
	for i, name := range re.SubexpNames() {
		if name != "" {
			vars[name] = found[i]
		}
	}
	return true
}
