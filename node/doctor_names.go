package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"relay/cluster/spool"
	"relay/node/admin"
	"relay/node/dkimkey"
	"relay/node/doctor"
	"relay/node/operator"
	"relay/node/verify"
	"relay/queue/remote"
	"relay/smtp/printable"
)

// Bounds of what is asked in DNS and tried.
const (
	domainsAsked = 50
	askedAtOnce  = 16
	reachedMost  = 3 // mail hosts
)

// names are the questions of one examination, with a cache of its own: a record put
// into DNS a moment ago is seen.
type names struct {
	dns senderDNS
	spf *verify.Verifier
	// Of the nodes: what they are called, and where that leads.
	hosts     []string
	addresses map[netip.Addr]bool
	sources   []netip.Addr // that mail is sent from
}

// askNames fills in what DNS has to be asked about, and with outward tries to reach
// those that mail waits for. It returns by the end of ctx; an answer that has not come
// by then is not known.
func (e *examiner) askNames(ctx context.Context, f *doctor.Facts, outward bool) {
	dns, err := remote.NewDNS(e.n.conf.Delivery.DNSServers)
	if err != nil {
		f.DNS = doctor.Not[doctor.DNS](err.Error())
		return
	}
	defer func() { _ = dns.Close() }()
	dns.Believe(e.n.conf.Delivery.TrustAD)
	validates, err := dns.Validates(ctx, ".")
	d := doctor.DNS{Validates: validates, Believed: dns.Believed(), ByMX: e.byMX(), DANE: e.wantDANE()}
	if err != nil {
		d.Failure = printable.Text(err.Error(), 200)
		const why = "DNS does not answer"
		f.DNS = doctor.Is(d)
		f.Names, f.Domains = doctor.Not[doctor.Names](why), doctor.Not[[]doctor.Domain](why)
		return
	}
	f.DNS = doctor.Is(d)
	s := names{dns: senderDNS{dns}, addresses: map[netip.Addr]bool{}}
	s.spf = &verify.Verifier{Resolver: s.dns, Timeout: examineWithin}
	f.Names = doctor.Is(s.host(ctx, f.Hostname))
	e.findNodes(ctx, &s)
	f.Domains, f.More = e.domains(ctx, &s)
	if outward {
		f.Outward = e.reach(ctx, &s)
	}
}

// byMX reports whether mail leaves by MX look-up where no other route is set.
func (e *examiner) byMX() bool {
	hop := "mx"
	_ = e.n.cluster.View(func(v spool.View) (err error) { hop, err = operator.HopOf(v, "*"); return err })
	return hop == "mx"
}

// wantDANE lists the domains of routes whose mail waits where DNSSEC is not checked.
func (e *examiner) wantDANE() (domains []string) {
	_ = e.n.cluster.View(func(v spool.View) error {
		all, err := v.Routes()
		for _, r := range all {
			if r.Tls == "dane" {
				domains = append(domains, r.Domain)
			}
		}
		return err
	})
	return domains
}

// none turns "there is none" into an empty answer.
func none[T any](all []T, err error) ([]T, error) {
	if errors.Is(err, verify.ErrNotFound) {
		return nil, nil
	}
	return all, err
}

// host asks about a hostname and the way back.
func (s *names) host(ctx context.Context, name string) doctor.Names {
	addrs, err := none(s.dns.Addresses(ctx, name))
	all := doctor.Names{Addresses: doctor.Of(addrs, err)}
	for _, a := range addrs {
		back, err := none(s.dns.Names(ctx, a))
		all.Reverse = append(all.Reverse, doctor.Reverse{Address: a, Names: doctor.Of(back, err)})
	}
	return all
}

// findNodes finds out by which names and addresses the nodes are known. A mail
// host may be a balancer before them, which certificates name.
func (e *examiner) findNodes(ctx context.Context, s *names) {
	_ = e.n.cluster.View(func(v spool.View) error {
		all, err := v.Members()
		for _, m := range all {
			s.hosts = append(s.hosts, strings.ToLower(m.Hostname))
		}
		return err
	})
	for _, host := range s.hosts {
		addrs, _ := s.dns.Addresses(ctx, host)
		for _, a := range addrs {
			s.addresses[a.Unmap()] = true
		}
	}
	s.sources = e.n.conf.Delivery.SourceAddresses
	if len(s.sources) == 0 {
		s.sources = slices.SortedFunc(maps.Keys(s.addresses), netip.Addr.Compare)
	}
	s.sources = slices.DeleteFunc(slices.Clone(s.sources), func(a netip.Addr) bool {
		return a.IsPrivate() || a.IsLoopback() || a.IsUnspecified()
	})
	s.hosts = append(s.hosts, e.n.conf.ACME.Hosts...)
	for _, c := range e.n.certs.InUse() {
		s.hosts = append(s.hosts, c.Leaf.DNSNames...)
	}
}

// domains asks about the first local domains, several at once.
func (e *examiner) domains(ctx context.Context, s *names) (doctor.Fact[[]doctor.Domain], int) {
	var local []string
	err := e.n.cluster.View(func(v spool.View) error {
		all, err := v.Domains()
		for _, d := range all {
			local = append(local, d.Name)
		}
		return err
	})
	signers, serr := e.n.operator.Signers(ctx)
	if err = cmp.Or(err, serr); err != nil {
		return doctor.Not[[]doctor.Domain](err.Error()), 0
	}
	more := max(0, len(local)-domainsAsked)
	all := make([]doctor.Domain, len(local)-more)
	var g errgroup.Group
	g.SetLimit(askedAtOnce)
	for i := range all {
		g.Go(func() error {
			all[i] = s.domain(ctx, local[i], signers)
			return nil
		})
	}
	return doctor.Of(all, g.Wait()), more
}

// domain asks about one local domain.
func (s *names) domain(ctx context.Context, name string, signers []admin.Signer) doctor.Domain {
	d := doctor.Domain{Name: name}
	d.MX = s.mx(ctx, name)
	d.SPF = s.senders(ctx, name)
	d.DKIM = s.keys(ctx, name, signers)
	d.DMARC = doctor.Of(verify.PolicyText(ctx, s.dns, name))
	return d
}

func (s *names) mx(ctx context.Context, domain string) doctor.Fact[[]doctor.MX] {
	hosts, err := none(s.dns.Hosts(ctx, domain))
	var all []doctor.MX
	for _, host := range hosts {
		own := slices.ContainsFunc(s.hosts, func(own string) bool { return strings.EqualFold(own, host) })
		m := doctor.MX{Host: cmp.Or(host, "."), Ours: own}
		if !m.Ours && host != "" {
			addrs, _ := s.dns.Addresses(ctx, host)
			m.Ours = slices.ContainsFunc(addrs, func(a netip.Addr) bool { return s.addresses[a.Unmap()] })
		}
		all = append(all, m)
	}
	return doctor.Of(all, err)
}

// senders asks whether the nodes may send for a domain.
func (s *names) senders(ctx context.Context, domain string) doctor.Fact[doctor.SPF] {
	p := doctor.SPF{Refused: map[string]string{}}
	texts, err := none(s.dns.TXT(ctx, domain))
	if err != nil {
		return doctor.Not[doctor.SPF](printable.Text(err.Error(), 200))
	}
	for _, text := range texts {
		if strings.HasPrefix(strings.ToLower(text)+" ", "v=spf1 ") {
			p.Record = printable.Text(text, 200)
		}
	}
	if p.Record == "" {
		return doctor.Is(p)
	}
	for _, a := range s.sources {
		switch out := s.spf.SPF(ctx, verify.Client{Address: a, Helo: domain, Sender: "postmaster@" + domain}).Outcome; out {
		case verify.Pass:
			p.Passed++
		case verify.TempError:
			return doctor.Not[doctor.SPF](fmt.Sprintf("%s: DNS did not answer all that SPF asks for", domain))
		default:
			p.Refused[a.String()] = string(out)
		}
	}
	return doctor.Is(p)
}

// keys compares the records of a domain's keys with those keys.
func (s *names) keys(ctx context.Context, domain string, signers []admin.Signer) doctor.Fact[[]doctor.Key] {
	var all []doctor.Key
	for _, k := range signers {
		if k.Domain != domain {
			continue
		}
		one := doctor.Key{Name: k.Name, Domain: domain, Selector: k.Selector, Waiting: k.Waiting, Retired: k.Retired}
		if !k.Retired {
			texts, err := none(s.dns.TXT(ctx, k.Name))
			if err != nil {
				return doctor.Not[[]doctor.Key](printable.Text(err.Error(), 200))
			}
			for _, text := range texts {
				p := dkimkey.PublicKey(text)
				one.Published = one.Published || p != "" && p == dkimkey.PublicKey(k.Record)
				one.Other = one.Other || p != dkimkey.PublicKey(k.Record)
			}
		}
		all = append(all, one)
	}
	return doctor.Is(all)
}

// reach tries the mail hosts of the destinations that most waits for.
func (e *examiner) reach(ctx context.Context, s *names) doctor.Fact[[]doctor.Reach] {
	var domains []string
	err := e.n.cluster.View(func(v spool.View) error {
		counts := map[string]int64{}
		all, err := v.Destinations()
		for _, d := range all {
			if hop, err := operator.HopOf(v, d.Domain); err == nil && hop == "mx" && d.Count > 0 {
				counts[d.Domain] += d.Count
			}
		}
		domains = slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
			return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
		})
		return err
	})
	if err != nil {
		return doctor.Not[[]doctor.Reach](err.Error())
	}
	if len(domains) == 0 {
		return doctor.Not[[]doctor.Reach]("no mail waits that leaves by MX, so that there is nobody to try")
	}
	all := make([]doctor.Reach, min(len(domains), reachedMost))
	var g errgroup.Group
	for i := range all {
		g.Go(func() error {
			all[i] = s.tryHost(ctx, domains[i], e.n.conf.Delivery.Port)
			return nil
		})
	}
	return doctor.Of(all, g.Wait())
}

// tryHost connects to the first mail host of a domain, and says nothing to it.
func (s *names) tryHost(ctx context.Context, domain string, port int) doctor.Reach {
	hosts, err := none(s.dns.Hosts(ctx, domain))
	if len(hosts) == 0 {
		hosts = []string{domain}
	}
	r := doctor.Reach{Host: hosts[0]}
	addrs, aerr := s.dns.Addresses(ctx, hosts[0])
	if err = cmp.Or(err, aerr); err == nil && len(addrs) > 0 {
		var conn net.Conn
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(addrs[0].String(), strconv.Itoa(port)))
		if err == nil {
			_ = conn.Close()
		}
	}
	if err != nil {
		r.Error = printable.Text(err.Error(), 200)
	}
	return r
}
