package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

func dnsConditions() []condition {
	return []condition{
		{
			"dns", "DNS answers",
			"DNS does not answer",
			"look at [delivery] dns_servers, or at /etc/resolv.conf", judgeDNS,
		},
		{
			"dns-validates", "it is known whether the resolver validates",
			"routes want DANE, and no resolver that is believed checks DNSSEC: their mail waits",
			"run a resolver that validates on this machine, such as unbound, or name one in [delivery] trust_ad",
			judgeValidates,
		},
		{
			"hostname-resolves", "the hostname has an address",
			"the hostname has no address in DNS: others distrust it, and refuse mail",
			"add an A or AAAA record for the hostname", judgeResolves,
		},
		{
			"reverse-name", "the reverse name is the hostname",
			"an address of the hostname has another reverse name: others distrust it, and refuse mail",
			"ask the provider of the address to set its PTR record to the hostname", judgeReverse,
		},
	}
}

func judgeDNS(f *Facts, v *verdict) {
	d, ok := need(v, f.DNS)
	switch {
	case !ok || d.Failure == "":
	case d.ByMX:
		v.add(Error, "%s", d.Failure)
	default:
		v.add(Warning, "%s; all mail goes by routes, so that deliveries go on", d.Failure)
	}
}

func judgeValidates(f *Facts, v *verdict) {
	d, ok := need(v, f.DNS)
	switch {
	case !ok:
	case d.Failure != "":
		v.add(Unknown, "DNS does not answer")
	case len(d.DANE) > 0 && !(d.Validates && d.Believed):
		some(v, d.DANE, func(domain string) { v.add(Warning, "the mail of %s waits", domain) })
	case d.Validates && d.Believed:
		v.note("the resolver checks DNSSEC, so that mail goes by DANE where domains have it")
	case d.Validates:
		v.note("the resolver checks DNSSEC; if nobody can change its answers on their way, name it in [delivery] trust_ad " +
			"for DANE")
	default:
		v.note("the resolver does not check DNSSEC, or does not say so")
	}
}

// invented reports whether a name is of those that are kept for tests and for
// examples (RFC 2606, RFC 6761): nobody can register it.
func invented(name string) bool {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	for _, top := range strings.Fields("test example invalid localhost example.com example.net example.org") {
		if under(name, top) {
			return true
		}
	}
	return false
}

// lacks is something that DNS does not have. That says nothing of a name that is
// kept for tests.
func (v *verdict) lacks(name, format string, args ...any) {
	if invented(name) {
		v.add(Unknown, "%s is a name for tests and examples, which DNS does not have (RFC 6761)", name)
		return
	}
	v.add(Warning, format, args...)
}

func judgeResolves(f *Facts, v *verdict) {
	n, ok := need(v, f.Names)
	if !ok {
		return
	}
	all, ok := need(v, n.Addresses)
	switch {
	case !ok:
	case len(all) == 0:
		v.lacks(f.Hostname, "%s has no address", f.Hostname)
	default:
		v.note("%s: %s", f.Hostname, addresses(all))
	}
}

func addresses[T fmt.Stringer](all []T) string {
	words := make([]string, len(all))
	for i, a := range all {
		words[i] = a.String()
	}
	return list(words)
}

func judgeReverse(f *Facts, v *verdict) {
	n, ok := need(v, f.Names)
	if !ok {
		return
	}
	all, ok := need(v, n.Addresses)
	if ok && len(all) == 0 {
		v.add(Unknown, "%s has no address", f.Hostname)
	}
	for _, r := range n.Reverse {
		names, ok := need(v, r.Names)
		switch {
		case !ok:
		case len(names) == 0:
			v.lacks(f.Hostname, "%s has no reverse name", r.Address)
		case !slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, f.Hostname) }):
			v.add(Warning, "%s is %s, and not %s", r.Address, list(names), f.Hostname)
		default:
			v.note("%s is %s", r.Address, f.Hostname)
		}
	}
}

func domainConditions() []condition {
	return []condition{
		{
			"domain-mx", "mail to local domains comes here",
			"mail to a local domain does not come here",
			"add MX records that name the nodes' hostnames", judgeMX,
		},
		{
			"domain-spf", "SPF of local domains lets the nodes send",
			"SPF of a local domain is missing, or does not let the nodes send",
			"add a TXT record to the domain, such as \"v=spf1 mx -all\" with what else sends for it", judgeSPF,
		},
		{
			"domain-dkim", "DNS has the keys that sign",
			"mail of a local domain is not signed, or its signatures can not be checked",
			"relayctl dkim ls", judgeDKIM,
		},
		{
			"dkim-waiting", "no key waits for its record",
			"a new signing key waits for its record in DNS",
			"relayctl dkim ls", judgeWaiting,
		},
		{
			"domain-dmarc", "local domains have DMARC",
			"a local domain has no DMARC policy",
			"add a TXT record at _dmarc.DOMAIN, to begin with \"v=DMARC1; p=none; rua=mailto:postmaster@DOMAIN\"", judgeDMARC,
		},
	}
}

// eachDomain judges every local domain that was asked about.
func eachDomain(f *Facts, v *verdict, judge func(d Domain)) {
	all, ok := need(v, f.Domains)
	if !ok {
		return
	}
	for _, d := range all {
		judge(d)
	}
	if f.More > 0 {
		v.add(Unknown, "%s more were not asked about", counted(f.More, "local domain"))
	}
	if len(v.Evidence) > 2*shown {
		v.Evidence = append(v.Evidence[:2*shown], fmt.Sprintf("and %d more", len(v.Evidence)-2*shown))
	}
}

func judgeMX(f *Facts, v *verdict) {
	eachDomain(f, v, func(d Domain) {
		hosts, ok := need(v, d.MX)
		ours := slices.ContainsFunc(hosts, func(m MX) bool { return m.Ours })
		names := make([]string, len(hosts))
		for i, h := range hosts {
			names[i] = h.Host
		}
		switch {
		case !ok:
		case len(hosts) == 0:
			v.lacks(d.Name, "%s has no MX", d.Name)
		case !ours:
			v.add(Warning, "%s: its MX is %s", d.Name, list(names))
		default:
			v.note("%s: its MX is %s", d.Name, list(names))
		}
	})
}

func judgeSPF(f *Facts, v *verdict) {
	eachDomain(f, v, func(d Domain) {
		s, ok := need(v, d.SPF)
		switch {
		case !ok:
		case s.Record == "":
			v.lacks(d.Name, "%s has no SPF record", d.Name)
		case len(s.Refused) > 0:
			for _, a := range slices.Sorted(maps.Keys(s.Refused)) {
				v.add(Warning, "%s: %s for %s, by %q", d.Name, s.Refused[a], a, s.Record)
			}
		case s.Passed == 0:
			v.add(Unknown, "%s: no address of the nodes is known", d.Name)
		default:
			v.note("%s: %q", d.Name, s.Record)
		}
	})
}

func judgeDKIM(f *Facts, v *verdict) {
	eachDomain(f, v, func(d Domain) {
		keys, ok := need(v, d.DKIM)
		signs := 0
		for _, k := range keys {
			if k.Retired || k.Waiting {
				continue
			}
			signs++
			switch {
			case k.Published:
				v.note("%s is there", k.Name)
			case k.Other:
				v.add(Error, "%s has another key than the one that signs", k.Name)
			default:
				v.lacks(d.Name, "%s is not there", k.Name)
			}
		}
		if ok && signs == 0 {
			v.lacks(d.Name, "%s has no signing key", d.Name)
			v.next("relayctl dkim add %s", d.Name)
		}
	})
}

func judgeWaiting(f *Facts, v *verdict) {
	eachDomain(f, v, func(d Domain) {
		keys, _ := need(v, d.DKIM)
		for _, k := range keys {
			if k.Waiting {
				v.add(Warning, "%s", k.Name)
				v.next("put the record that 'relayctl dkim ls' shows into DNS; the key signs within minutes of it")
			}
		}
	})
}

func judgeDMARC(f *Facts, v *verdict) {
	eachDomain(f, v, func(d Domain) {
		record, ok := need(v, d.DMARC)
		switch {
		case !ok:
		case record == "":
			v.lacks(d.Name, "%s has none", d.Name)
		default:
			v.note("%s: %q", d.Name, record)
		}
	})
}
