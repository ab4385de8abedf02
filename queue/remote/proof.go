package remote

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/idna"

	"relay/queue"
	"relay/queue/remote/dane"
	"relay/queue/remote/mtasts"
	"relay/queue/remote/tlsrpt"
)

// proof is what a host has to show because of what its domain, or its own zone, has published. Proofs that are equal
// can share a connection.
type proof struct {
	kind    proofKind
	records string // of byDANE: as dane.Text writes them
	names   string // of byDANE: of which the certificate must have one where a CA's record vouches for it; by commas
	base    string // where the TLSA records are: the name that the host is asked for (SNI)
}

type proofKind uint8

const (
	noProof proofKind = iota
	bySTS             // a certificate for the host's name: its domain has an MTA-STS policy (RFC 8461)
	anyCert           // TLS, with any certificate: the host has TLSA records, but none that can be used (RFC 7672 §2.2)
	byDANE            // a certificate that TLSA records name
)

// proved is a proof as it was found, or why there is none.
type proved struct {
	proof proof
	fault *fault
}

// by names in a reply what wants TLS.
func (p proof) by() string {
	switch p.kind {
	case anyCert, byDANE:
		return " by DANE"
	case bySTS:
		return " by MTA-STS"
	}
	return ""
}

// how tells for the history how a connection was encrypted, and what the host has proved.
func (d *delivery) how(c *conn) string {
	switch c.key.proof.kind {
	case byDANE:
		return c.tls + " (dane)"
	case anyCert:
		return c.tls + " (dane: no usable record)" + d.tested(c)
	case bySTS:
		return c.tls + " (mta-sts)"
	}
	if what := d.tested(c); what != "" {
		return cmp.Or(c.tls, "none") + what
	}
	return c.tls
}

// judge says in a configuration of TLS what counts as proof; false: nothing is asked for.
func (p proof) judge(c *tls.Config) bool {
	if p.kind != byDANE {
		return false
	}
	records, err := dane.Parse(p.records)
	names := strings.Split(p.names, ",")
	c.ServerName, c.MinVersion, c.ClientSessionCache = p.base, tls.VersionTLS12, nil
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if err != nil {
			return err
		}
		return dane.Verify(s.PeerCertificates, records, names, time.Now())
	}
	return true
}

// unknown stands for the bases of a host where DNS does not tell whether there is DANE.
const unknown = "?"

// bases are the names below which TLSA records of a host are looked for, RFC 7672 §2.2.2 and §2.2.3: the name that its
// aliases lead to, then its own; its own one alone if only the first alias is secured.
func (a *Agent) bases(ctx context.Context, host string, f Found) string {
	final := cmp.Or(f.Final, host)
	r, ok := a.conf.Resolver.(Secured)
	switch {
	case !ok:
		return ""
	case f.Secure && !strings.EqualFold(final, host):
		return final + "," + host
	case f.Secure:
		return host
	case len(f.Aliases) == 0:
		return ""
	}
	secure, err := r.SecureAlias(ctx, host)
	switch {
	case err != nil:
		return unknown
	case secure:
		return host
	}
	return ""
}

// secureHost finds what DNSSEC says of the host of a route that wants DANE. The addresses are DNS's own then.
func (a *Agent) secureHost(ctx context.Context, host string, addrs []netip.Addr) ([]netip.Addr, string, error) {
	r, ok := a.conf.Resolver.(Secured)
	if _, err := netip.ParseAddr(host); err == nil || !ok {
		return addrs, "", nil
	}
	f, err := r.Find(ctx, host)
	if err != nil {
		return nil, "", err
	}
	return f.Addrs, a.bases(ctx, host, f), err
}

// proof finds what a hop has to prove. A fault: it is not known, or it can't.
func (d *delivery) proof(ctx context.Context, h hop, l Link) (proof, *fault) {
	p, f := d.danes(ctx, h, l)
	if f != nil || !h.mx {
		return p, f
	}
	policy := d.policy(ctx, l)
	switch {
	case d.job.RequireTLS && !d.vouched(ctx, h):
		// RFC 8689 §4.2.1: a certificate for a name that anybody may have put there proves nothing.
		return p, &fault{outcome: queue.Failed, name: true, host: h.String(), text: "5.7.30 the message requires TLS, " +
			"and neither DNSSEC nor MTA-STS secures that the host is one of the domain's"}
	case policy == nil || policy.Mode != mtasts.Enforce:
		return p, nil
	case !policy.Covers(h.name):
		if !slices.Contains(d.outside, h.name) {
			d.outside = append(d.outside, h.name)
			d.a.proved(bySTS, false)
		}
		f = withheld(h, "4.7.5 the host is none of those of the domain's MTA-STS policy: "+
			strings.Join(policy.MX[:min(len(policy.MX), 5)], ", "))
		f.tls, f.proof = tlsrpt.Invalid, bySTS
		return p, f
	case p.kind != byDANE: // which MTA-STS does not override (RFC 8461 §2)
		p = proof{kind: bySTS}
	}
	return p, nil
}

// danes finds what a hop has to prove by DANE.
func (d *delivery) danes(ctx context.Context, h hop, l Link) (proof, *fault) {
	switch {
	case l.TLS == DaneTLS && h.bases == "":
		return proof{}, withheld(h, "4.7.5 the route wants DANE, but no resolver that is believed says that DNSSEC secures "+
			"the host's name")
	case h.bases == "" || l.TLS != DaneTLS && !d.a.unruled(l):
		return proof{}, nil
	}
	p, ok := d.proofs[asked(h)]
	if !ok {
		if d.proofs == nil {
			d.proofs = map[hop]proved{}
		}
		p.proof, p.fault = d.tlsa(ctx, h)
		d.proofs[asked(h)] = p
	}
	if p.fault == nil && l.TLS == DaneTLS && p.proof.kind != byDANE {
		return proof{}, withheld(h, "4.7.5 the route wants DANE, but the host has no TLSA record that can be used")
	}
	return p.proof, p.fault
}

// asked is what the TLSA records of a hop depend on: not its address, but its port.
func asked(h hop) hop {
	return hop{name: h.name, addr: netip.AddrPortFrom(netip.Addr{}, h.addr.Port()), mx: h.mx, bases: h.bases}
}

// withheld is a host that mail is not given to now.
func withheld(h hop, why string) *fault {
	return &fault{outcome: queue.Deferred, next: true, name: true, host: h.String(), text: why}
}

// unruled: nobody has said how TLS is used, so that what domains publish counts.
func (a *Agent) unruled(l Link) bool { return l.TLS == AsConfigured && a.conf.TLS != Off }

// policy is the MTA-STS policy of the job's domain, where it counts; nil without.
func (d *delivery) policy(ctx context.Context, l Link) *mtasts.Policy {
	if !d.a.unruled(l) {
		return nil
	}
	return d.domainPolicy(ctx)
}

func (d *delivery) domainPolicy(ctx context.Context) *mtasts.Policy {
	if !d.looked && d.a.conf.Policies != nil {
		d.looked, d.sts = true, d.a.conf.Policies.Find(ctx, d.domain())
	}
	return d.sts
}

// domain is the job's domain in ASCII.
func (d *delivery) domain() string {
	name := strings.ToLower(d.job.Domain)
	if ascii(name) {
		return name
	}
	if a, err := idna.Lookup.ToASCII(name); err == nil {
		return a
	}
	return name
}

// vouched: that an MX host is one of the domain's does not rest on DNS alone.
func (d *delivery) vouched(ctx context.Context, h hop) bool {
	if h.signed || h.name == d.domain() {
		return true
	}
	policy := d.domainPolicy(ctx)
	return policy != nil && policy.Covers(h.name)
}

// proved counts what became of a host's proof.
func (a *Agent) proved(kind proofKind, met bool) {
	switch kind {
	case byDANE, anyCert:
		a.stats.DANE.add(met)
	case bySTS:
		a.stats.STS.add(met)
	}
}

// tested tells for the history what a policy that is being tested would have made of a connection.
func (d *delivery) tested(c *conn) string {
	if !d.looked || d.sts == nil || d.sts.Mode != mtasts.Testing || !c.hop.mx || !d.a.unruled(c.key.link) {
		return ""
	}
	_, why := d.wouldMiss(c)
	if !c.tallied {
		c.tallied = true
		d.a.stats.TestedSTS.add(why == "")
	}
	if why != "" {
		why = ": " + why
	}
	return " (mta-sts testing" + why + ")"
}

// wouldMiss says why a connection does not meet the policy, as what TLS-RPT has and in words; empty: it does.
func (d *delivery) wouldMiss(c *conn) (kind, why string) {
	state, encrypted := c.client.TLS()
	switch {
	case !d.sts.Covers(c.hop.name):
		return tlsrpt.Invalid, "the host is none of the policy's"
	case !encrypted:
		return tlsrpt.NoSTARTTLS, "no TLS"
	}
	if c.checked == nil {
		err := certified(state, d.a.conf.Roots, c.hop.name)
		c.checked = &err
	}
	if *c.checked != nil {
		return failure(*c.checked), plain(*c.checked)
	}
	return "", ""
}

// certified checks a host's certificate by name and CA.
func certified(s tls.ConnectionState, roots *x509.CertPool, name string) error {
	if len(s.PeerCertificates) == 0 {
		return dane.ErrNoCertificate
	}
	between := x509.NewCertPool()
	for _, one := range s.PeerCertificates[1:] {
		between.AddCert(one)
	}
	_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: name})
	return err
}

// tlsa asks for the TLSA records of a host.
func (d *delivery) tlsa(ctx context.Context, h hop) (proof, *fault) {
	r, ok := d.a.conf.Resolver.(Secured)
	if !ok {
		return proof{}, nil
	}
	prefix := "_" + strconv.Itoa(int(h.addr.Port())) + "._tcp."
	for base := range strings.SplitSeq(h.bases, ",") {
		err := fmt.Errorf("%w: whether DNSSEC secures %s", ErrLookup, h.name)
		var all []dane.Record
		if base != unknown {
			all, err = r.TLSA(ctx, prefix+base)
		}
		switch {
		case err == nil && len(all) > 0:
			return d.byRecords(h, base, all), nil
		case err != nil && !settled(err):
			// Nobody gets the mail in clear by making this question fail (RFC 7672 §2.1.2).
			d.a.proved(byDANE, false)
			f := withheld(h, "4.7.5 whether the host has TLSA records (DANE) could not be looked up: "+plain(err))
			f.tls, f.proof = tlsrpt.DNSSEC, byDANE
			return proof{}, f
		}
	}
	return proof{}, nil
}

// byRecords is the proof that TLSA records ask for.
func (d *delivery) byRecords(h hop, base string, all []dane.Record) proof {
	all = dane.Usable(all)
	if len(all) == 0 {
		return proof{kind: anyCert, base: base}
	}
	p := proof{kind: byDANE, records: dane.Text(all), base: base}
	if dane.Names(all) { // RFC 7672 §3.2.2
		p.names = base
		next := strings.ToLower(h.name)
		if h.mx {
			next = d.domain()
		}
		if next != base {
			p.names += "," + next
		}
	}
	return p
}
