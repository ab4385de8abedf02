package remote

import (
	"context"
	"encoding/hex"
	"net/netip"
	"slices"

	"github.com/miekg/dns"

	"relay/queue/remote/dane"
)

// Secured is what a Resolver implements besides where it knows what DNSSEC says. Without it no mail goes by DANE.
type Secured interface {
	// SecureMX is Resolver.MX; the second result says that DNSSEC secured the answer, a no included.
	SecureMX(ctx context.Context, domain string) ([]Record, bool, error)
	// Find returns the addresses of a host, and who has secured them.
	Find(ctx context.Context, host string) (Found, error)
	// SecureAlias reports whether a name is an alias, and DNSSEC secured that much.
	SecureAlias(ctx context.Context, name string) (bool, error)
	// TLSA returns records that DNSSEC secured. Errors: ErrNoName and ErrNoData where there are none, or none that
	// are secured; any other says that it is not known.
	TLSA(ctx context.Context, name string) ([]dane.Record, error)
}

// Believe names servers, besides those on loopback, whose word counts that an answer is secured by DNSSEC (the AD bit).
// The way to them must be one on which nobody changes answers. It is called before the first question.
func (r *DNS) Believe(servers []netip.Addr) {
	for _, a := range servers {
		r.believe = append(r.believe, a.Unmap().WithZone(""))
	}
}

// believes reports whether the AD bit of a server's answer means anything.
func (r *DNS) believes(server string) bool {
	to, err := netip.ParseAddrPort(server)
	if err != nil {
		return false
	}
	a := to.Addr().Unmap().WithZone("")
	return a.IsLoopback() || slices.Contains(r.believe, a)
}

// Believed reports whether the AD bit of some server's answers counts.
func (r *DNS) Believed() bool { return slices.ContainsFunc(r.servers(), r.believes) }

// SecureAlias implements Secured.
func (r *DNS) SecureAlias(ctx context.Context, name string) (bool, error) {
	a, err := r.find(ctx, name, dns.TypeCNAME)
	if err != nil && !settled(err) {
		return false, err
	}
	return err == nil && a.secure && len(a.rrs) > 0, nil
}

// TLSA implements Secured.
func (r *DNS) TLSA(ctx context.Context, name string) ([]dane.Record, error) {
	a, err := r.find(ctx, name, dns.TypeTLSA)
	if err != nil {
		return nil, err
	}
	if !a.secure {
		return nil, ErrNoData // as if there were none (RFC 7672 §2.1.3)
	}
	var all []dane.Record
	for _, rr := range a.rrs {
		t, ok := rr.(*dns.TLSA)
		if !ok {
			continue
		}
		data, err := hex.DecodeString(t.Certificate)
		if err != nil {
			data = nil // an unusable record
		}
		all = append(all, dane.Record{Usage: t.Usage, Selector: t.Selector, Matching: t.MatchingType, Data: data})
	}
	return all, nil
}
