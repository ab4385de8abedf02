package remote

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"relay/queue"
	"relay/queue/limit"
)

// Sites names the sites that domains' mail goes to. The node implements it.
type Sites interface {
	// Learn takes the answer to a question for a domain's MX in; without records the domain has none.
	Learn(domain string, records []Record)
	// Of is the site of a domain; empty where no answer has been seen.
	Of(domain string) string
}

// begin finds the limits of a job. A fault: one of them has no room.
func (d *delivery) begin(lapse context.CancelCauseFunc) *fault {
	l := &d.job.Limits
	if !d.a.conf.Limits.Any() && len(l.Gates) == 0 {
		return nil // which is so of nearly all mail
	}
	gates := d.a.conf.Limits.For(d.keys()...)
	if len(gates) == 0 && len(l.Gates) == 0 {
		return nil
	}
	if !l.Pass.Same(gates) || l.Pass == nil && len(gates) > 0 {
		l.Pass.End()
		l.Gates, l.Found = gates, true
		if l.Pass = limit.Begin(gates, len(d.job.Recipients)); l.Pass == nil && len(gates) > 0 {
			return stopped(gates[0].Key())
		}
	}
	if l.Pass != nil {
		l.Pass.OnLapse(lapse)
	}
	return nil
}

// keys are what limits the job could have.
func (d *delivery) keys() (all []string) {
	if d.target.Kind != MX {
		return []string{"route:" + d.target.String()}
	}
	domain := strings.ToLower(d.job.Domain)
	if d.a.conf.Sites != nil {
		if site := d.a.conf.Sites.Of(domain); site != "" {
			all = append(all, "site:"+site)
		}
	}
	return append(all, "domain:"+domain)
}

// stopped is a fault of ours: a limit has no room.
func stopped(key string) *fault {
	return &fault{
		outcome: queue.Deferred, untried: true, limited: true, text: "4.3.2 waits for the limit of " + key,
	}
}

// forPlace is how long a connection that is closing is waited for.
const forPlace = 3 * time.Second

// takePlace gets the right to open a connection. Idle ones of the same limit, which lead elsewhere, are closed for it.
func (a *Agent) takePlace(ctx context.Context, pass *limit.Pass) (*limit.Place, *fault) {
	if pass == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, forPlace)
	defer cancel()
	for {
		place, full := pass.Open()
		if place != nil {
			return place, nil
		}
		a.pool.shed(full, 1)
		if !full.AwaitPlace(ctx) {
			return nil, stopped(full.Key())
		}
	}
}

// openAt connects to a host. The connection has the place until it is closed.
func (a *Agent) openAt(ctx context.Context, to netip.AddrPort, from netip.Addr, place *limit.Place) (net.Conn, error) {
	c, err := a.open(ctx, to, from)
	if place == nil {
		return c, err
	}
	if err != nil {
		place.Close()
		return nil, err
	}
	return &placed{Conn: c, place: place}, nil
}

// placed is a connection that counts.
type placed struct {
	net.Conn
	place *limit.Place
	once  sync.Once
}

// Close closes the connection, and gives its place back.
func (p *placed) Close() error {
	err := p.Conn.Close()
	p.once.Do(p.place.Close)
	return err
}

// Shed says goodbye on idle connections of a gate, at most n, those first that are idle longest.
func (a *Agent) Shed(g *limit.Gate, n int) { a.pool.shed(g, n) }

func (p *pool) shed(g *limit.Gate, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, all := range p.idle {
		for n > 0 && len(all) > 0 && all[0].place.At(g) {
			p.quitLocked(all[0])
			all = all[1:]
			p.n--
			n--
		}
		if len(all) == 0 {
			delete(p.idle, k)
		} else {
			p.idle[k] = all
		}
	}
}
