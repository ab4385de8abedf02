package remote

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// The questions below are not delivery's: they are for those who want to know
// who sends. Their errors are of the same three kinds.

// TXT returns the text records of a name, the strings of each put together
// (RFC 7208 §3.3).
func (r *DNS) TXT(ctx context.Context, name string) ([]string, error) {
	rrs, err := r.lookup(ctx, name, dns.TypeTXT)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, rr := range rrs {
		if txt, ok := rr.(*dns.TXT); ok {
			all = append(all, unescaped(strings.Join(txt.Txt, "")))
		}
	}
	return all, nil
}

// unescaped undoes the form in which the library keeps octets that are special
// in a zone file: \DDD, and \X for X itself.
func unescaped(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b = append(b, s[i])
			continue
		}
		if n, ok := decimal(s[i+1:]); ok {
			b = append(b, n)
			i += 3
			continue
		}
		i++
		b = append(b, s[i])
	}
	return string(b)
}

func decimal(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	n := 0
	for _, c := range []byte(s[:3]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return byte(n), n <= 255
}

// Validates asks the servers in their order about a name that is signed, and
// reports whether the first answer says that its signatures were checked (RFC
// 6840 §5.7). It is not cached. An error is that of the last server; none answers.
func (r *DNS) Validates(ctx context.Context, name string) (bool, error) {
	last := fmt.Errorf("%w: no name server is named", ErrLookup)
	for _, server := range r.servers() {
		m := new(dns.Msg)
		m.RecursionDesired, m.AuthenticatedData = true, true
		m.Question = []dns.Question{{Name: dns.Fqdn(name), Qtype: dns.TypeNS, Qclass: dns.ClassINET}}
		m.SetEdns0(udpSize, false)
		tryCtx, cancel := context.WithTimeout(ctx, perTry/2)
		in, err := r.wires.udp(tryCtx, server, m)
		cancel()
		switch {
		case err != nil:
			last = fmt.Errorf("%w: %w", ErrLookup, &noAnswer{server, err})
		case !in.Response || in.Rcode == dns.RcodeServerFailure || in.Rcode == dns.RcodeRefused:
			last = fmt.Errorf("%w: %s answered %s", ErrLookup, server, dns.RcodeToString[in.Rcode])
		default:
			return in.AuthenticatedData, nil
		}
	}
	return false, last
}

// IPv4 returns the A records of a name.
func (r *DNS) IPv4(ctx context.Context, name string) ([]netip.Addr, error) {
	a, err := r.find(ctx, name, dns.TypeA)
	return a.addresses(), err
}

// Names returns the names that the PTR records of an address give, lower case,
// with no dot at the end. Nobody has checked that they are true.
func (r *DNS) Names(ctx context.Context, a netip.Addr) ([]string, error) {
	reverse, err := dns.ReverseAddr(a.Unmap().WithZone("").String())
	if err != nil {
		return nil, err
	}
	rrs, err := r.lookup(ctx, reverse, dns.TypePTR)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, rr := range rrs {
		if ptr, ok := rr.(*dns.PTR); ok {
			all = append(all, strings.ToLower(strings.TrimSuffix(ptr.Ptr, ".")))
		}
	}
	return all, nil
}
