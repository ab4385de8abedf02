package verify

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// Disposition is what an author's domain wants done with a message that fails.
type Disposition string

// The dispositions of RFC 7489 §6.3.
const (
	Deliver    Disposition = "none"
	Quarantine Disposition = "quarantine"
	Reject     Disposition = "reject"
)

// DMARC is what one domain in the From field says of the message.
type DMARC struct {
	Outcome Outcome
	Domain  string
	// Policy is what the domain publishes for messages that fail; empty where
	// it publishes nothing, or that is not known.
	Policy Disposition
	// Wanted is the Policy, or less where the domain wants it for some
	// messages only and this one is not among them; Deliver unless Outcome is
	// Fail.
	Wanted Disposition
	// aligned: a signature of the domain passed, or may have, whether or not
	// the domain publishes a policy.
	aligned Outcome
}

// author is one domain of the From field on its way to a DMARC result.
type author struct {
	domain string
	record *record // nil: none
	above  bool    // the record is that of the organizational domain
	err    error   // the policy is not known
}

// record is a DMARC policy record (RFC 7489 §6.3).
type record struct {
	policy, below         Disposition // below: of subdomains
	strictDKIM, strictSPF bool
	percent               int
}

// organization is the domain below which all belongs to one owner (RFC 7489
// §3.2).
func organization(domain string) string {
	if org, err := publicsuffix.EffectiveTLDPlusOne(domain); err == nil {
		return org
	}
	return domain
}

// findRecord discovers the policy of a domain (RFC 7489 §6.6.3). above: it is
// that of the organizational domain.
func findRecord(ctx context.Context, r Resolver, domain string) (rec *record, above bool, err error) {
	rec, found, err := recordOf(ctx, r, domain)
	if found || err != nil {
		return rec, false, err
	}
	org := organization(domain)
	if org == domain {
		return nil, false, nil
	}
	rec, _, err = recordOf(ctx, r, org)
	return rec, true, err
}

// PolicyText is the DMARC record that counts for a domain as it stands in DNS;
// empty: there is none, or none that is of use.
func PolicyText(ctx context.Context, r Resolver, domain string) (string, error) {
	for _, name := range []string{domain, organization(domain)} {
		texts, err := r.TXT(ctx, "_dmarc."+name)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return "", temporary("DMARC policy of "+name, err)
		}
		texts = slices.DeleteFunc(texts, func(text string) bool { return !isRecord(text) })
		switch {
		case len(texts) == 1 && parseRecord(texts[0]) != nil:
			return texts[0], nil
		case len(texts) > 0: // RFC 7489 §6.6.3: several are none
			return "", nil
		}
	}
	return "", nil
}

// recordOf asks one domain. found: there is something that ends the search,
// even where it is of no use.
func recordOf(ctx context.Context, r Resolver, domain string) (rec *record, found bool, err error) {
	texts, err := r.TXT(ctx, "_dmarc."+domain)
	if errors.Is(err, ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, temporary("DMARC policy of "+domain, err)
	}
	var records []string
	for _, text := range texts {
		if isRecord(text) {
			records = append(records, text)
		}
	}
	if len(records) != 1 { // RFC 7489 §6.6.3: several are none
		return nil, len(records) > 1, nil
	}
	return parseRecord(records[0]), true, nil
}

func isRecord(text string) bool {
	name, v, ok := strings.Cut(text, "=")
	v, _, _ = strings.Cut(v, ";")
	return ok && strings.TrimSpace(name) == "v" && strings.TrimSpace(v) == "DMARC1"
}

// parseRecord reads a record; nil: it is of no use. Faults in tags that do not
// matter here are passed over, as RFC 7489 §6.3 asks for.
func parseRecord(text string) *record {
	rec := &record{percent: 100}
	bad, reports := false, false
	for tag := range strings.SplitSeq(text, ";") {
		name, v, _ := strings.Cut(tag, "=")
		v = strings.ToLower(strings.TrimSpace(v))
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "p":
			rec.policy = disposition(v)
		case "sp":
			rec.below = disposition(v)
			bad = bad || rec.below == ""
		case "adkim":
			rec.strictDKIM = v == "s"
		case "aspf":
			rec.strictSPF = v == "s"
		case "pct":
			if n, err := strconv.Atoi(v); err == nil && n >= 0 && n <= 100 {
				rec.percent = n
			}
		case "rua":
			reports = reports || strings.Contains(v, ":")
		}
	}
	if rec.policy == "" || bad {
		// RFC 7489 §6.6.3 step 6: without a valid policy, but with somebody who
		// wants reports, it is a record that asks for nothing.
		if !reports {
			return nil
		}
		rec.policy, rec.below = Deliver, Deliver
	}
	if rec.below == "" {
		rec.below = rec.policy
	}
	return rec
}

func disposition(v string) Disposition {
	switch d := Disposition(v); d {
	case Deliver, Quarantine, Reject:
		return d
	}
	return ""
}

// evaluate puts the pieces together (RFC 7489 §6.6.2).
func (a *author) evaluate(spf SPF, signatures []Signature, draw func(int) int) DMARC {
	rec := a.record
	r := DMARC{Domain: a.domain, Outcome: None, Wanted: Deliver}
	strict := record{}
	if rec != nil {
		strict = *rec
		if r.Policy = rec.policy; a.above {
			r.Policy = rec.below
		}
	}
	r.aligned = signed(a.domain, signatures, strict.strictDKIM)
	got := r.aligned
	said := spf.Outcome == Pass || spf.Outcome == TempError
	if got != Pass && said && aligned(spf.Domain, a.domain, strict.strictSPF) {
		got = spf.Outcome
	}
	switch {
	case a.err != nil:
		r.Outcome = TempError
	case rec == nil:
	case got == Pass || got == TempError:
		r.Outcome = got
	default:
		r.Outcome = Fail
		r.Wanted = sampled(r.Policy, rec.percent, draw)
	}
	return r
}

// signed: Pass where a signature of the domain is good, TempError where one may
// be, else None.
func signed(domain string, signatures []Signature, strict bool) Outcome {
	found := None
	for _, s := range signatures {
		switch {
		case !aligned(s.Domain, domain, strict):
		case s.Outcome == Pass:
			return Pass
		case s.Outcome == TempError:
			found = TempError
		}
	}
	return found
}

// aligned compares domains as RFC 7489 §3.1 does.
func aligned(a, b string, strict bool) bool {
	if strict || a == "" || b == "" {
		return a == b && a != ""
	}
	return organization(a) == organization(b)
}

// sampled takes the policy down a step for messages that are not among the
// percentage it is for (RFC 7489 §6.6.4).
func sampled(p Disposition, percent int, draw func(int) int) Disposition {
	if percent >= 100 || draw(100) < percent {
		return p
	}
	if p == Reject {
		return Quarantine
	}
	return Deliver
}
