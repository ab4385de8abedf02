package outbound

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"strings"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/routing"
	"relay/queue"
	"relay/queue/remote"
)

// Route implements remote.Router.
func (o *Spool) Route(_ context.Context, domain string) (remote.Target, error) {
	return o.targetOf(o.routes.Load().route(strings.ToLower(domain)))
}

// targetOf is where a route leads. The link is that of the hop, of all its routes together; login, certificate and
// source addresses are the route's own.
func (o *Spool) targetOf(to routed) (remote.Target, error) {
	t, err := remote.ParseTarget(to.target)
	if t.Link = to.link; t.Kind != remote.MX {
		t.Link = o.Link(to.target)
		t.Link.Login, t.Link.Cert, t.Link.Sources = to.link.Login, to.link.Cert, to.link.Sources
	}
	if err == nil && to.spread != "" {
		t.Spread, err = remote.ParseSpread(to.spread)
		if err == nil && t.Spread.Fallback != nil {
			t.Spread.Fallback.Link = o.Link(t.Spread.Fallback.String())
		}
	}
	return t, err
}

// Listing reports whether some route goes by a list of recipients, as far as this node has read them.
func (o *Spool) Listing() bool {
	routes := o.routes.Load()
	return routes == nil || routes.listing
}

// Named implements remote.Links.
func (o *Spool) Named(hop string) (remote.Target, bool) {
	routes := o.routes.Load()
	if routes == nil {
		return remote.Target{}, false
	}
	to, ok := routes.named[hop]
	if !ok {
		return remote.Target{}, false
	}
	t, err := o.targetOf(to)
	return t, err == nil
}

// Link implements remote.Links: what is particular is so of the hop, by whichever route
// it is named.
func (o *Spool) Link(target string) remote.Link {
	if routes := o.routes.Load(); routes != nil {
		return routes.links[target]
	}
	return remote.Link{}
}

// Hop names the hop of a domain's mail for the manager; "" where it goes by
// the domain's own MX.
func (o *Spool) Hop(domain string) string {
	if to := o.routes.Load().hop(domain); to != "mx" {
		return to
	}
	return ""
}

// routeTable is the replicated routes as they were read last.
type routeTable struct {
	domains map[string]routed      // those for all senders
	some    map[string]senders     // those for some senders, by domain
	links   map[string]remote.Link // by target, of all its routes together
	named   map[string]routed      // by hop, those whose hop is not their target
	logins  bool                   // some have a login
	listing bool                   // some go by a list of recipients
	n       int                    // all of them
}

func newRouteTable() *routeTable {
	return &routeTable{domains: map[string]routed{}, some: map[string]senders{}, links: map[string]remote.Link{},
		named: map[string]routed{}}
}

// senders are the routes of a domain that are for some senders.
type senders map[routing.Key]routed

// add takes a route in.
func (t *routeTable) add(r *pb.Route, login *remote.Login, cert *remote.Cert) {
	k := routing.KeyOf(r)
	to := routed{hop: r.Target, target: r.Target, link: linkOf(r), spread: spreadOf(r), some: !k.Plain()}
	to.link.Login, to.link.Cert = login, cert
	t.listing = t.listing || r.Recipients != ""
	own := login != nil || cert != nil || to.link.Sources != "" || to.spread != ""
	if r.Target != "mx" && own || r.Target == "mx" && to.some {
		to.hop = fmt.Sprintf("%s (route %s)", r.Target, k)
		t.named[to.hop] = to
		t.logins = t.logins || login != nil
	}
	if !to.some {
		t.domains[r.Domain] = to
	} else if t.some[r.Domain] == nil {
		t.some[r.Domain] = senders{k: to}
	} else {
		t.some[r.Domain][k] = to
	}
	shared := to.link
	if to.some { // what is sent there by hand, or by other routes, is not its senders'
		shared.Login, shared.Cert, shared.Sources = nil, nil, ""
	}
	if had, ok := t.links[r.Target]; ok {
		shared = had.Merge(shared)
	}
	t.links[r.Target] = shared
}

// part gives routes that have nothing of their own a hop of theirs where other routes to the same target do: they share
// limits among themselves, and use none of these logins, certificates and addresses.
func (t *routeTable) part() {
	for domain, to := range t.domains {
		t.domains[domain] = t.parted(to)
	}
	for _, all := range t.some {
		for k, to := range all {
			all[k] = t.parted(to)
		}
	}
}

func (t *routeTable) parted(to routed) routed {
	l := t.links[to.target]
	if to.hop != to.target || to.target == "mx" || l.Login == nil && l.Cert == nil && l.Sources == "" {
		return to
	}
	to.hop = to.target + " (other routes)"
	t.named[to.hop] = to
	return to
}

// routed is where a route leads, and what is particular about the connections. Routes of one hop share limits,
// back-off and jobs in the manager; a route with something of its own (login, certificate, source addresses, more
// targets) has a hop of its own.
type routed struct {
	hop    string
	target string
	link   remote.Link
	spread string // as remote.ParseSpread reads it; empty: there is none
	some   bool   // it is for some senders
}

// spreadOf is where else a route's mail goes.
func spreadOf(r *pb.Route) string {
	if len(r.More) == 0 && r.Fallback == "" {
		return ""
	}
	weight := func(i int) int {
		if i < len(r.Weights) {
			return int(r.Weights[i])
		}
		return 1
	}
	s := remote.Spread{Weight: weight(0)}
	for i, text := range r.More {
		if t, err := remote.ParseTarget(text); err == nil {
			s.More = append(s.More, remote.Weighted{Target: t, Weight: weight(i + 1)})
		}
	}
	if t, err := remote.ParseTarget(r.Fallback); err == nil && r.Fallback != "" {
		s.Fallback = &t
	}
	return s.String()
}

// linkOf reads what a route says of its connections. A policy that this build does not
// know is one that nothing satisfies.
func linkOf(r *pb.Route) remote.Link {
	l := remote.Link{Without: strings.Join(r.NoEhlo, ","), Implicit: r.ImplicitTls, CA: r.TlsCa,
		Sources: strings.Join(r.Sources, ",")}
	switch r.Tls {
	case "":
	case "none":
		l.TLS = remote.NoTLS
	case "opportunistic":
		l.TLS = remote.AnyTLS
	case "encrypt":
		l.TLS = remote.EncryptTLS
	case "verify":
		l.TLS = remote.VerifyTLS
	case "dane":
		l.TLS = remote.DaneTLS
	default:
		l.TLS = remote.VerifyPin
	}
	pins := make([]string, len(r.Fingerprints))
	for i, p := range r.Fingerprints {
		pins[i] = hex.EncodeToString(p)
	}
	l.Pins = strings.Join(pins, ",")
	return l
}

// hop returns the hop of the most specific route for all senders, "mx" without one.
func (t *routeTable) hop(domain string) string { return t.route(domain).hop }

func (t *routeTable) route(domain string) routed {
	if t != nil {
		for name := range spool.RouteNames(domain) {
			if to, ok := t.domains[name]; ok {
				return to
			}
		}
	}
	return routed{hop: "mx", target: "mx"}
}

// choosy reports whether there are routes for some senders: without them no message is read for its way.
func (t *routeTable) choosy() bool { return t != nil && len(t.some) > 0 }

// asks reports whether it depends on the message which way it goes to a domain.
func (t *routeTable) asks(domain string) bool {
	if !t.choosy() {
		return false
	}
	for name := range spool.RouteNames(domain) {
		if len(t.some[name]) > 0 {
			return true
		}
		if _, ok := t.domains[name]; ok {
			return false
		}
	}
	return false
}

// chosen is the hop of a route for some senders that a message takes to a domain; empty: it goes as all others do.
func (t *routeTable) chosen(domain string, m *pb.Message) string {
	if m == nil || !t.asks(domain) {
		return ""
	}
	to, _, _ := routing.Find(domain, routing.Of(m), func(k routing.Key) (routed, bool, error) {
		if k.Plain() {
			to, ok := t.domains[k.Domain]
			return to, ok, nil
		}
		to, ok := t.some[k.Domain][k]
		return to, ok, nil
	})
	if !to.some {
		return ""
	}
	return to.hop
}

// choose has an entry be where a route for some senders leads it, unless it is led elsewhere already.
func (t *routeTable) choose(last *lastMessage, w *queue.Waiting) error {
	if w.Route != "" || w.Parked || !t.asks(w.Domain) {
		return nil
	}
	m, err := last.read(spool.ID(w.ID))
	w.Route = t.chosen(w.Domain, m)
	return err
}

// lastMessage is the message that was read last, as several entries of one follow each other.
type lastMessage struct {
	v     spool.View
	id    spool.ID
	m     *pb.Message
	known bool
}

// read returns a message; nil where there is none any more.
func (l *lastMessage) read(id spool.ID) (*pb.Message, error) {
	if l.known && l.id == id {
		return l.m, nil
	}
	m, ok, err := l.v.Message(id)
	if !ok || err != nil {
		m = nil
	}
	*l = lastMessage{v: l.v, id: id, m: m, known: err == nil}
	return m, err
}

// equal reports whether mail goes the same ways by two tables.
func (t *routeTable) equal(o *routeTable) bool {
	return t.listing == o.listing && maps.Equal(t.domains, o.domains) &&
		maps.EqualFunc(t.some, o.some, func(a, b senders) bool { return maps.Equal(a, b) })
}

// manyRoutes is how many routes are not read again on the apply goroutine.
const manyRoutes = 1000

// directoryChanges reads routes again on the apply goroutine: mail that is accepted after a route was set goes by it.
// Many are left to Refresh, some milliseconds later, so that setting them one by one holds up no mail.
func (o *Spool) directoryChanges(c spool.Changes) {
	if c.Routes || c.Restored {
		o.routesRead.Store(false)
	}
	var err error
	if routes := o.routes.Load(); c.Routes && (routes == nil || routes.n <= manyRoutes) {
		err = o.reroute()
	}
	if c.Directory && err == nil {
		err = o.readSigns()
	}
	if err != nil {
		o.log.Error("cannot read the routes", zap.Error(err))
	}
}

// routesPause bounds how long many routes that have changed are not read again.
const routesPause = time.Second

// rerouteInTime reads routes again if they have changed: many of them in a tenth of the time at most, while they are
// set one by one.
func (o *Spool) rerouteInTime() error {
	start := time.Now()
	if o.routesRead.Load() || start.Before(o.routesNext) {
		return nil
	}
	if err := o.reroute(); err != nil {
		return err
	}
	if o.routes.Load().n > manyRoutes {
		took := time.Since(start)
		o.routesNext = start.Add(min(10*took, routesPause))
	}
	return nil
}

// RefreshIn is how long it is until Refresh is to be called though nothing has changed; at most an hour.
func (o *Spool) RefreshIn() time.Duration {
	next := o.rulesEnd()
	if !o.routesRead.Load() {
		next = min(next, max(time.Until(o.routesNext), 0)+time.Millisecond)
	}
	return next
}

// readSigns reads whether mail is signed at all.
func (o *Spool) readSigns() error {
	return o.replica.View(func(v spool.View) error {
		signs, err := v.HasDkimKeys()
		if err == nil {
			o.unsigned.Store(!signs)
		}
		return err
	})
}

// reroute reads the routes again.
func (o *Spool) reroute() error {
	o.rerouting.Lock()
	defer o.rerouting.Unlock()
	o.routesRead.Store(true) // before they are read: a change meanwhile says so once more
	routes := newRouteTable()
	logins, certs := map[loginKey]*remote.Login{}, map[certKey]*remote.Cert{}
	err := o.replica.View(func(v spool.View) error {
		all, err := v.Routes()
		for _, r := range all {
			routes.add(r, o.login(r, logins), o.cert(r, certs))
		}
		routes.n = len(all)
		routes.part()
		return err
	})
	if err != nil {
		o.routesRead.Store(false)
		return err
	}
	o.logins, o.certs = logins, certs
	if routes.choosy() {
		o.chose.Store(true)
	}
	if old := o.routes.Load(); old == nil || !old.equal(routes) {
		o.routes.Store(routes)
		o.rerouted.Store(true)
	}
	return nil
}
