package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"go.uber.org/zap"

	"relay/queue"
	"relay/queue/limit"
	"relay/queue/remote/tlsrpt"
	"relay/smtp"
)

// conn is one connection to a hop.
type conn struct {
	client *smtp.Client
	hop    hop
	key    key
	tls    string
	place  *limit.Place // nil: no limit
	offers bool         // it is in clear, although the host offers or has offered STARTTLS
	spent  bool         // it is not to be used again
	from   netip.Addr   // that was chosen; invalid: the system's choice
	idle   bool         // it came from the pool
	sent   int          // transactions since it was taken or opened
	total  int          // transactions in all
	since  time.Time
	// checked is what became of a check of the certificate by name and CA; nil: there was none.
	checked *error
	tallied bool // it counts in Stats.TestedSTS
}

// reused: another transaction went over it, so that what happens now may be that
// one's fault, or time's.
func (c *conn) reused() bool { return c.idle || c.sent > 0 }

// key says which connections can stand for each other.
type key struct {
	hop      hop
	verified bool // the message requires TLS (RFC 8689)
	link     Link
	proof    proof // beyond what the link says
}

// connect gives a connection to a hop: an idle one, unless a fresh one is
// wanted, or a new one.
func (a *Agent) connect(ctx context.Context, k key, fresh bool, pass *limit.Pass) (*conn, *fault) {
	if !fresh {
		if c := a.pool.get(k); c != nil && pass.Covers(c.place) {
			c.idle, c.sent = true, 0
			a.stats.Reused.Add(1)
			return c, nil
		} else if c != nil {
			a.pool.quit(c) // it was opened under other limits
		}
	}
	if l := k.link.Login; l != nil {
		if f := l.barred(); f != nil {
			return nil, f
		}
	}
	c, f := a.dial(ctx, k, a.wantsTLS(k), pass)
	if f == nil {
		a.proved(k.proof.kind, true)
		if k.link.Login != nil {
			f = a.login(ctx, c)
		}
	}
	if f != nil {
		a.stats.Failures.Add(1)
		return nil, f
	}
	return c, nil
}

// prefer puts that address of the first host in front to which a connection is
// open: which one comes first was left to chance anyway.
func (a *Agent) prefer(hops []hop, k key) {
	for i := range hops {
		if !hops[i].sameHost(hops[0]) {
			return
		}
		k.hop = hops[i]
		if a.pool.has(k) {
			hops[0], hops[i] = hops[i], hops[0]
			return
		}
	}
}

func (a *Agent) wantsTLS(k key) bool {
	switch {
	case a.must(k):
		return true
	case a.never(k):
		return false
	}
	return !a.clear.has(k.hop)
}

// policy is what holds for a link; never AsConfigured.
func (a *Agent) policy(l Link) LinkTLS {
	configured := AnyTLS
	switch a.conf.TLS {
	case Off:
		configured = NoTLS
	case Required:
		configured = EncryptTLS
	}
	if l.TLS == AsConfigured || l.Configured {
		return max(l.TLS, configured)
	}
	return l.TLS
}

// must: the connection is of no use in clear.
func (a *Agent) must(k key) bool {
	return k.verified || k.proof.kind != noProof || k.link.Implicit || a.policy(k.link) >= EncryptTLS || k.secret()
}

// secret: a password goes over the connection, and the route does not say that it may go in clear.
func (k key) secret() bool {
	return (k.link.Login != nil || k.link.Cert != nil) && k.link.TLS != NoTLS && !bare(k.hop.addr.Addr()).IsLoopback()
}

// never: TLS is not used, whatever the host offers.
func (a *Agent) never(k key) bool { return !a.must(k) && a.policy(k.link) == NoTLS }

func (a *Agent) dial(ctx context.Context, k key, secure bool, pass *limit.Pass) (*conn, *fault) {
	from, err := a.from(k)
	if err != nil {
		return nil, &fault{outcome: queue.Deferred, host: k.hop.String(), next: true, text: "4.3.5 " + err.Error()}
	}
	place, f := a.takePlace(ctx, pass)
	if f != nil {
		return nil, f
	}
	raw, err := a.openAt(ctx, k.hop.addr, from, place)
	if err != nil {
		return nil, &fault{outcome: queue.Deferred, host: k.hop.String(), next: true, text: "4.4.1 " + dialText(err)}
	}
	o := a.conf.Client
	o.LMTP, o.Without = k.hop.lmtp, a.without(k)
	if k.link.Implicit {
		if raw, err = a.handshake(ctx, raw, k); err != nil {
			return nil, a.noTLS(k, err)
		}
	}
	client, err := smtp.NewClient(ctx, raw, o)
	if err != nil {
		return nil, a.refusal(k, err)
	}
	a.stats.Connections.Add(1)
	c := &conn{client: client, hop: k.hop, key: k, place: place, from: from}
	if k.link.Implicit {
		a.encrypted(c)
		return c, nil
	}
	if !secure {
		c.offers = !a.never(k) && a.offersTLS(c)
		return c, nil
	}
	retry, f := a.encrypt(ctx, c)
	if retry {
		return a.dial(ctx, k, false, pass)
	}
	return c, f
}

// without lists the extensions of a hop that do not count.
func (a *Agent) without(k key) []string {
	var all []string
	if k.link.Without != "" {
		all = strings.Split(k.link.Without, ",")
	}
	if a.slow.has(k.hop) {
		all = append(all, "PIPELINING")
	}
	return all
}

// offersTLS reports whether the host offers STARTTLS, or has done so lately.
func (a *Agent) offersTLS(c *conn) bool {
	if _, ok := c.client.Has("STARTTLS"); ok {
		a.offered.add(c.hop)
		return true
	}
	return a.offered.has(c.hop)
}

// open connects to a host, from an address if it is valid.
func (a *Agent) open(ctx context.Context, to netip.AddrPort, from netip.Addr) (net.Conn, error) {
	d := net.Dialer{Timeout: a.conf.ConnectTimeout, KeepAlive: 30 * time.Second}
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	c, err := d.DialContext(ctx, "tcp", to.String())
	if err == nil && a.wrap != nil {
		c = a.wrap(c)
	}
	return c, err
}

// from chooses the source address: in turns among those of the right family, or the one that the host has greylisted.
// Without Sources of the link none is fine, too.
func (a *Agent) from(k key) (netip.Addr, error) {
	all := a.conf.Sources
	if k.link.Sources != "" {
		var err error
		if all, err = a.ownOf(k.link.Sources); err != nil {
			return netip.Addr{}, err
		}
	}
	to := k.hop.addr.Addr()
	if s, ok := a.greyed.of(k.hop, all); ok && s.Is4() == to.Is4() {
		return s, nil
	}
	start := int(a.source.Add(1))
	for i := range all {
		if s := all[(start+i)%len(all)]; s.Is4() == to.Is4() {
			return s, nil
		}
	}
	if k.link.Sources != "" {
		return netip.Addr{}, fmt.Errorf("of the route's source addresses %s none is of this node and of the host's family",
			k.link.Sources)
	}
	return netip.Addr{}, nil
}

// dialText leaves the addresses out: they stand in the verdict's host.
func dialText(err error) string {
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return "connection timed out"
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Err != nil {
		return strings.TrimPrefix(plain(e.Err), "connect: ")
	}
	return plain(err)
}

// refusal is what became of a connection whose greeting or EHLO failed.
func (a *Agent) refusal(k key, err error) *fault {
	f := &fault{outcome: queue.Deferred, host: k.hop.String(), next: true}
	r, ok := errors.AsType[*smtp.Reply](err)
	switch {
	case ok && r.Cause == nil:
		f.text = text(r)
		if r.Code >= 500 && a.conf.HardGreeting {
			f.outcome = queue.Failed
		}
	case ok:
		f.text = text(r)
	case timedOut(err):
		f.text = "4.4.2 timed out while waiting for the greeting"
	default:
		f.text = "4.4.2 no SMTP greeting: " + plain(err)
	}
	return f
}

func timedOut(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// encrypt does STARTTLS. retry: it failed, and a new connection in clear will do.
func (a *Agent) encrypt(ctx context.Context, c *conn) (retry bool, f *fault) {
	k := c.key
	c.offers = a.offersTLS(c)
	if _, ok := c.client.Has("STARTTLS"); !ok {
		return false, a.inClear(c, c.offers, "the host does not offer STARTTLS")
	}
	err := c.client.StartTLS(ctx, a.tlsConfig(k))
	if err == nil {
		a.encrypted(c)
		return false, nil
	}
	if r, ok := errors.AsType[*smtp.Reply](err); ok && r.Code != 421 {
		return false, a.inClear(c, r.Temporary(), "the host refused STARTTLS: "+text(r))
	} else if ok {
		_ = c.client.Close()
		return false, a.refusal(k, err)
	}
	_ = c.client.Close()
	if errors.Is(err, smtp.ErrStray) { // says nothing of TLS
		return false, &fault{outcome: queue.Deferred, host: k.hop.String(), next: true, text: "4.5.0 " + plain(err)}
	}
	if errors.Is(err, smtp.ErrHello) {
		return false, &fault{
			outcome: queue.Deferred, host: k.hop.String(), next: true, text: "4.7.5 TLS works, but " + plain(err),
		}
	}
	if a.must(k) || ctx.Err() != nil {
		return false, a.noTLS(k, err)
	}
	a.log.Info("delivery: TLS failed, going on in clear", zap.String("host", k.hop.String()),
		zap.String("error", plain(err)))
	a.clear.add(k.hop)
	return true, nil
}

// handshake begins TLS on a connection whose first octet is TLS's.
func (a *Agent) handshake(ctx context.Context, raw net.Conn, k key) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, a.conf.ConnectTimeout)
	defer cancel()
	c := tls.Client(raw, a.tlsConfig(k))
	if err := c.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return c, nil
}

// encrypted notes that a connection has TLS.
func (a *Agent) encrypted(c *conn) {
	state, _ := c.client.TLS()
	c.offers = false
	c.tls = strings.ReplaceAll(tls.VersionName(state.Version), " ", "") + " " + tls.CipherSuiteName(state.CipherSuite)
	a.stats.TLS.Add(1)
}

// noTLS is what becomes of mail that needs TLS where it failed.
func (a *Agent) noTLS(k key, err error) *fault {
	a.proved(k.proof.kind, false)
	return &fault{
		outcome: queue.Deferred, host: k.hop.String(), next: !k.verified,
		text: "4.7.5 TLS failed" + k.proof.by() + ": " + plain(err), tls: failure(err), proof: k.proof.kind,
	}
}

// inClear goes on without TLS, if that is allowed. passing: the host may have TLS
// at the next attempt.
func (a *Agent) inClear(c *conn, passing bool, why string) *fault {
	if !a.must(c.key) {
		return nil
	}
	a.pool.quit(c)
	a.proved(c.key.proof.kind, false)
	f := &fault{outcome: queue.Deferred, host: c.hop.String(), next: true,
		text: "4.7.4 TLS is required" + c.key.proof.by() + ", but " + why,
		tls:  tlsrpt.NoSTARTTLS, proof: c.key.proof.kind}
	if c.key.verified && !passing {
		// RFC 8689 §4.2.1: where no host will do, the message goes back.
		f.outcome, f.next, f.text = queue.Failed, false, fmt.Sprintf("5.7.30 the message requires TLS, but %s", why)
	}
	return f
}

func (a *Agent) tlsConfig(k key) *tls.Config {
	c := &tls.Config{ServerName: k.hop.name, ClientSessionCache: a.resume}
	if k.hop.name == "" {
		c.ServerName = k.hop.addr.Addr().String()
	}
	if k.link.Cert != nil {
		c.GetClientCertificate, c.ClientSessionCache = k.link.Cert.show, nil
	}
	if k.proof.judge(c) {
		return c
	}
	if k.verified || k.proof.kind == bySTS || k.link.TLS == VerifyTLS || k.link.TLS == VerifyPin {
		c.MinVersion, c.RootCAs = tls.VersionTLS12, a.conf.Roots
		c.ClientSessionCache = nil
		k.link.judge(c)
		return c
	}
	// RFC 7435: any encryption is better than what would follow, clear text.
	c.InsecureSkipVerify, c.MinVersion = true, tls.VersionTLS10
	return c
}
