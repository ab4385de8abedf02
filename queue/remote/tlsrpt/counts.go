package tlsrpt

import "slices"

// Kinds of policies (RFC 8460 §4.4).
const (
	STS  = "sts"
	TLSA = "tlsa"
)

// Result types of failed sessions (RFC 8460 §4.3).
const (
	NoSTARTTLS   = "starttls-not-supported"
	HostMismatch = "certificate-host-mismatch"
	Expired      = "certificate-expired"
	NotTrusted   = "certificate-not-trusted"
	Invalid      = "validation-failure"
	DNSSEC       = "dnssec-invalid"
)

// Bounds of what is counted of a domain: hosts and policies are what strangers say.
const (
	maxPolicies = 8
	maxFailures = 50
	maxReason   = 200 // octets
	maxStrings  = 20  // lines of a policy
	maxString   = 300 // octets of one
)

// Session is one session with a host of a domain that publishes a policy.
type Session struct {
	Domain  string   // the recipients', in lower case and ASCII
	Kind    string   // of the policy
	Strings []string // the policy
	MX      []string // its hosts, of STS
	Host    string
	IP      string
	Failure string // a result type; empty: it met the policy
	Reason  string
}

// Counts are the sessions of a day with the hosts of a domain, in the form of a report's policies.
type Counts []Result

// Result is what became of sessions under one policy.
type Result struct {
	Policy   Policy    `json:"policy"`
	Summary  Summary   `json:"summary"`
	Failures []Failure `json:"failure-details,omitempty"`
}

// Policy is a policy as it was applied.
type Policy struct {
	Type    string   `json:"policy-type"`
	Strings []string `json:"policy-string,omitempty"`
	Domain  string   `json:"policy-domain"`
	MX      []string `json:"mx-host,omitempty"`
}

// Summary counts the sessions.
type Summary struct {
	Successes uint64 `json:"total-successful-session-count"`
	Failures  uint64 `json:"total-failure-session-count"`
}

// Failure counts failed sessions of one kind.
type Failure struct {
	Type   string `json:"result-type"`
	IP     string `json:"receiving-ip,omitempty"`
	Host   string `json:"receiving-mx-hostname,omitempty"`
	Reason string `json:"failure-reason-code,omitempty"`
	Count  uint64 `json:"failed-session-count"`
}

// Add counts a session. Kinds of failures beyond a bound stand in the summary alone; so do policies.
func (c Counts) Add(s *Session) Counts {
	r := Result{Policy: Policy{s.Kind, bounded(s.Strings), s.Domain, bounded(s.MX)}, Summary: Summary{Successes: 1}}
	if s.Failure != "" {
		r.Summary = Summary{Failures: 1}
		r.Failures = []Failure{{s.Failure, s.IP, s.Host, s.Reason[:min(len(s.Reason), maxReason)], 1}}
	}
	return c.Merge(Counts{r})
}

func bounded(all []string) []string {
	all = slices.Clone(all[:min(len(all), maxStrings)])
	for i, s := range all {
		all[i] = s[:min(len(s), maxString)]
	}
	return all
}

// Merge puts counts together, for example those of two nodes. It changes c and leaves o as it is.
func (c Counts) Merge(o Counts) Counts {
	for _, r := range o {
		i := slices.IndexFunc(c, func(had Result) bool { return had.Policy.equal(r.Policy) })
		if i < 0 && len(c) < maxPolicies {
			c, i = append(c, Result{Policy: r.Policy}), len(c)
		} else if i < 0 {
			i = len(c) - 1
		}
		c[i].Summary.Successes += r.Summary.Successes
		c[i].Summary.Failures += r.Summary.Failures
		for _, f := range r.Failures {
			c[i].fail(f)
		}
	}
	return c
}

func (p Policy) equal(o Policy) bool {
	return p.Type == o.Type && p.Domain == o.Domain && slices.Equal(p.Strings, o.Strings) && slices.Equal(p.MX, o.MX)
}

func (r *Result) fail(f Failure) {
	i := slices.IndexFunc(r.Failures, func(had Failure) bool {
		return had.Type == f.Type && had.IP == f.IP && had.Host == f.Host && had.Reason == f.Reason
	})
	switch {
	case i >= 0:
		r.Failures[i].Count += f.Count
	case len(r.Failures) < maxFailures:
		r.Failures = append(r.Failures, f)
	}
}
