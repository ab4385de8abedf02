package mtasts

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Mode says what becomes of mail to hosts that do not meet a policy.
type Mode string

// The modes of RFC 8461 §5.
const (
	Enforce Mode = "enforce" // it is not delivered to them
	Testing Mode = "testing" // it is, and the domain is told
	None    Mode = "none"    // there is no policy, or no more
)

const (
	maxAge      = 31557600 * time.Second // RFC 8461 §3.2
	maxPatterns = 100
	// MaxText is how long the canonical text of a policy may be.
	MaxText = 4 << 10
)

// Policy is a domain's policy.
type Policy struct {
	ID     string // of the record by which it was found
	Mode   Mode
	MaxAge time.Duration
	MX     []string // patterns of the names of mail hosts, in lower case
}

// Covers reports whether a mail host is one of the policy's, RFC 8461 §4.1. The name has no dot at the end.
func (p *Policy) Covers(host string) bool {
	host = strings.ToLower(host)
	_, parent, _ := strings.Cut(host, ".")
	return slices.ContainsFunc(p.MX, func(pattern string) bool {
		if rest, wild := strings.CutPrefix(pattern, "*."); wild {
			return parent == rest
		}
		return pattern == host
	})
}

// Text is the policy as Parse reads it, without what a client has no use for.
func (p *Policy) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "version: STSv1\nmode: %s\nmax_age: %d\n", p.Mode, int64(p.MaxAge/time.Second))
	for _, mx := range p.MX {
		fmt.Fprintf(&b, "mx: %s\n", mx)
	}
	return b.String()
}

// Parse reads the text of a policy, RFC 8461 §3.2.
func Parse(text string) (*Policy, error) {
	p := &Policy{}
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if strings.TrimSpace(line) == "" {
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		key, value = strings.TrimRight(key, " \t"), strings.Trim(value, " \t")
		switch {
		case !ok || key == "":
			return nil, errors.New("a line of the policy is no key and value")
		case key == "mx":
			if err := p.addMX(value); err != nil {
				return nil, err
			}
		case seen[key]: // the first one counts
		default:
			if err := p.set(key, value); err != nil {
				return nil, err
			}
		}
		seen[key] = true
	}
	switch {
	case !seen["version"] || !seen["mode"] || !seen["max_age"]:
		return nil, errors.New("the policy lacks version, mode or max_age")
	case len(p.MX) == 0 && p.Mode != None:
		return nil, errors.New("the policy names no mail host")
	case len(p.Text()) > MaxText:
		return nil, fmt.Errorf("the policy is longer than %d octets", MaxText)
	}
	return p, nil
}

func (p *Policy) set(key, value string) error {
	switch key {
	case "version":
		if value != "STSv1" {
			return errors.New("the policy is of a version other than STSv1")
		}
	case "mode":
		p.Mode = Mode(value)
		if p.Mode != Enforce && p.Mode != Testing && p.Mode != None {
			return errors.New("the policy's mode is none of enforce, testing and none")
		}
	case "max_age":
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil || len(value) > 10 {
			return errors.New("the policy's max_age is not a number of seconds")
		}
		p.MaxAge = min(time.Duration(n)*time.Second, maxAge)
	}
	return nil
}

func (p *Policy) addMX(pattern string) error {
	pattern = strings.ToLower(strings.TrimSuffix(pattern, "."))
	if !isName(strings.TrimPrefix(pattern, "*.")) {
		return errors.New("the policy has a pattern that is no name of a mail host")
	}
	if len(p.MX) == maxPatterns {
		return fmt.Errorf("the policy has more than %d patterns", maxPatterns)
	}
	p.MX = append(p.MX, pattern)
	return nil
}

// isName: the name is of labels with nothing in them that a URL or a policy could take for something else.
func isName(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, letters) != "" {
			return false
		}
	}
	return len(name) <= 253
}

const letters = "abcdefghijklmnopqrstuvwxyz0123456789-_"

// RecordID finds the id of a domain's policy in the TXT records of _mta-sts below it, RFC 8461 §3.1. false: there is no
// policy, as also where there are two records.
func RecordID(records []string) (string, bool) {
	records = slices.DeleteFunc(slices.Clone(records), func(r string) bool {
		version, _, _ := strings.Cut(r, ";")
		return strings.TrimRight(version, " \t") != "v=STSv1"
	})
	if len(records) != 1 {
		return "", false
	}
	for field := range strings.SplitSeq(records[0], ";") {
		key, value, _ := strings.Cut(strings.Trim(field, " \t"), "=")
		if key == "id" {
			id := value != "" && len(value) <= 32 && strings.Trim(strings.ToLower(value), letters[:36]) == ""
			return value, id
		}
	}
	return "", false
}
