package verify

import (
	"context"
	"net"
	"net/netip"
	"strings"

	"blitiri.com.ar/go/spf"
)

// SPF is what the domain of the reverse-path says of the client.
type SPF struct {
	Outcome Outcome
	Domain  string // that was asked; empty: there is none to ask
	Sender  string // the identity: an address, or with Helo a name
	Helo    bool   // the reverse-path is null: the name of HELO stands for it
}

// spf asks about the reverse-path, and where that is null about
// postmaster@HELO (RFC 7208 §2.4). HELO is not asked about beside it: most of
// what would come of that is more questions.
func (v *Verifier) spf(ctx context.Context, c Client) SPF {
	local, domain, found := cutAddress(c.Sender)
	r := SPF{Outcome: None, Sender: c.Sender}
	if !found {
		local, domain = "postmaster", c.Helo
		r.Helo, r.Sender = true, c.Helo
	}
	// RFC 7208 §4.3: a name of one label, or an address literal, is no domain.
	if r.Domain = asciiDomain(domain); r.Domain == "" {
		return r
	}
	// The library cuts at the first @.
	sender := strings.ReplaceAll(local, "@", "_") + "@" + r.Domain
	got, _ := spf.CheckHostWithSender(net.IP(c.Address.Unmap().AsSlice()), c.Helo, sender,
		spf.WithContext(ctx), spf.WithResolver(spfResolver{v.Resolver}))
	r.Outcome = Outcome(got)
	return r
}

// SPF asks whether a client may send for the domain of its sender, now and without
// a message; ctx bounds it.
func (v *Verifier) SPF(ctx context.Context, c Client) SPF { return v.spf(ctx, c) }

func cutAddress(address string) (local, domain string, ok bool) {
	i := strings.LastIndexByte(address, '@')
	if i < 0 {
		return address, "", false
	}
	return address[:i], address[i+1:], true
}

// spfResolver is a Resolver as the library wants it.
type spfResolver struct{ r Resolver }

func (s spfResolver) LookupTXT(ctx context.Context, name string) ([]string, error) {
	all, err := s.r.TXT(ctx, name)
	return all, dnsError(name, err)
}

func (s spfResolver) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	hosts, err := s.r.Hosts(ctx, name)
	all := make([]*net.MX, 0, len(hosts))
	for i, h := range hosts {
		if h != "" { // the null MX of RFC 7505 names no host
			all = append(all, &net.MX{Host: h, Pref: uint16(i)})
		}
	}
	return all, dnsError(name, err)
}

func (s spfResolver) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	addrs, err := s.r.Addresses(ctx, host)
	all := make([]net.IPAddr, 0, len(addrs))
	for _, a := range addrs {
		all = append(all, net.IPAddr{IP: a.AsSlice()})
	}
	return all, dnsError(host, err)
}

func (s spfResolver) LookupAddr(ctx context.Context, address string) ([]string, error) {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return nil, dnsError(address, ErrNotFound)
	}
	names, err := s.r.Names(ctx, a)
	return names, dnsError(address, err)
}
