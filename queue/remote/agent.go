package remote

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"relay/queue"
	"relay/queue/limit"
	"relay/queue/remote/mtasts"
	"relay/queue/remote/tlsrpt"
	"relay/smtp"
)

// TLSPolicy says when connections are encrypted.
type TLSPolicy uint8

// The policies.
const (
	Opportunistic TLSPolicy = iota // where the host offers it, with any certificate; in clear otherwise (RFC 7435)
	Off                            // never
	Required                       // always, with any certificate; mail waits otherwise
)

// Config is what an Agent needs. Hostname is required.
type Config struct {
	Hostname string   // of this relay: for EHLO, and to find itself among MX hosts
	Helo     string   // for EHLO; empty: Hostname
	Router   Router   // nil: all mail by MX
	Resolver Resolver // nil: the system's name servers. Closed with the agent if it is an io.Closer
	Port     int      // of mail hosts; 25
	TLS      TLSPolicy
	Policies Policies // nil: no mail goes by MTA-STS
	// Tally is told of each session with a host of a domain that publishes a policy (TLS-RPT); nil: nobody is. It must
	// not wait.
	Tally func(*tlsrpt.Session)
	Roots *x509.CertPool // for REQUIRETLS and MTA-STS; nil: the system's

	ConnectTimeout time.Duration // to one address; 30 seconds
	Client         smtp.ClientOptions
	Idle           time.Duration // a connection stays open for the next message; 2 seconds
	Messages       int           // over one connection; 100
	IdleMax        int           // connections open without a message; 100
	Patience       time.Duration // no further host is tried after it; 10 minutes

	// Sessions is with how many hosts one attempt may begin a transaction; 2.
	// Negative: with any number. Hosts that do not get that far do not count.
	Sessions int

	Sources []netip.Addr // to connect from, in turns
	// Own are the addresses of this host. Nil: those of its interfaces, read
	// again every few seconds. No MX host and no address literal may lead to
	// one of them, nor to a loopback address.
	Own []netip.Addr
	// LoopbackHops allows loopback addresses of MX hosts and in address literals,
	// for tests whose DNS points there.
	LoopbackHops bool
	// HardGreeting makes a 5xx greeting of all hosts final. By default the mail
	// waits: it says more of the host's state than of the mail.
	HardGreeting bool
	Limits       *limit.Gates // nil: none
	Sites        Sites        // nil: no site is known
	Log          *zap.Logger
}

// Policies finds the MTA-STS policies of domains (RFC 8461). A *mtasts.Finder is one. It is closed with the agent if it
// is an io.Closer.
type Policies interface {
	// Find returns the policy of a domain, in lower case and ASCII; nil where it has none.
	Find(ctx context.Context, domain string) *mtasts.Policy
}

// Agent is a queue.Agent that speaks SMTP and LMTP. It is safe for concurrent
// use. Close it after the last Deliver.
type Agent struct {
	conf   Config
	log    *zap.Logger
	own    ownAddresses
	source atomic.Uint32
	pool   *pool
	resume tls.ClientSessionCache
	stats  Stats

	wrap    func(net.Conn) net.Conn // nil, or what a test puts round each connection
	clear   *recent                 // hosts whose TLS did not work
	offered *recent                 // hosts that have offered STARTTLS
	slow    *recent                 // hosts that did not answer pipelined commands
	greyed  *greyed
}

// Stats counts what an Agent did.
type Stats struct {
	Connections atomic.Uint64 // opened
	Reused      atomic.Uint64 // messages over a connection that was open
	Failures    atomic.Uint64 // connections that did not come about
	TLS         atomic.Uint64 // connections that were encrypted

	LoginsRefused atomic.Uint64

	DANE, STS, TestedSTS Kept // hosts of domains that publish such a policy
}

// Kept counts whether hosts kept what a policy promises.
type Kept struct{ Met, Missed atomic.Uint64 }

func (k *Kept) add(met bool) {
	if met {
		k.Met.Add(1)
	} else {
		k.Missed.Add(1)
	}
}

// New makes an Agent.
func New(c Config) (*Agent, error) {
	if c.Hostname == "" {
		return nil, errors.New("remote: an agent needs a hostname")
	}
	if c.Resolver == nil {
		r, err := NewDNS(nil)
		if err != nil {
			return nil, err
		}
		c.Resolver = r
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	c.Port = cmp.Or(c.Port, 25)
	c.Helo = cmp.Or(c.Helo, c.Hostname)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 30*time.Second)
	c.Idle = cmp.Or(c.Idle, 2*time.Second)
	c.Messages = cmp.Or(c.Messages, 100)
	c.IdleMax = cmp.Or(c.IdleMax, 100)
	c.Patience = cmp.Or(c.Patience, 10*time.Minute)
	c.Sessions = cmp.Or(c.Sessions, 2)
	c.Client.Hostname = c.Helo
	if c.Client.Buffers == nil {
		c.Client.Buffers = smtp.NewBuffers()
	}
	return &Agent{
		conf: c, log: c.Log, own: ownAddresses{fixed: c.Own, read: net.InterfaceAddrs},
		pool:    newPool(c.Idle, c.IdleMax),
		resume:  tls.NewLRUClientSessionCache(256),
		clear:   newRecent(time.Hour, 1000),
		offered: newRecent(24*time.Hour, 10_000),
		slow:    newRecent(24*time.Hour, 1000),
		greyed:  newGreyed(),
	}, nil
}

// Stats returns the agent's counters.
func (a *Agent) Stats() *Stats { return &a.stats }

// Close says goodbye on all idle connections and waits until that is done, a
// few seconds at most.
func (a *Agent) Close() error {
	a.pool.close()
	if c, ok := a.conf.Policies.(io.Closer); ok {
		_ = c.Close()
	}
	if c, ok := a.conf.Resolver.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Deliver implements queue.Agent.
func (a *Agent) Deliver(ctx context.Context, job *queue.Job) []queue.Verdict {
	d := newDelivery(a, job)
	hops, f := a.find(ctx, job, d)
	if f == nil && len(hops) > 0 && a.conf.Limits.Any() {
		var end context.CancelCauseFunc
		ctx, end = context.WithCancelCause(ctx)
		defer end(nil)
		f = d.begin(end)
	}
	if f == nil {
		f = d.tryAll(ctx, hops)
	}
	d.rest(ctx, f)
	return d.verdicts
}

// find says where the job goes. Neither hops nor a fault: it is done.
func (a *Agent) find(ctx context.Context, job *queue.Job, d *delivery) ([]hop, *fault) {
	t, err := a.target(ctx, job)
	if err != nil {
		return nil, deferred("4.3.5 no route: %v", err)
	}
	d.link, d.target = t.Link, t
	switch t.Kind {
	case Discard:
		d.all(queue.Verdict{Outcome: queue.Delivered, Reply: "2.0.0 discarded by route"})
		return nil, nil
	case HTTPS:
		return nil, deferred("4.3.5 routes to web services are not supported by this version: %s", t.URL)
	}
	d.spread = t.Spread
	return a.spreadHops(ctx, job, t)
}

func (a *Agent) target(ctx context.Context, job *queue.Job) (Target, error) {
	if job.Route != "" {
		l, ok := a.conf.Router.(Links)
		if ok {
			if t, named := l.Named(job.Route); named {
				return t, nil
			}
		}
		t, err := ParseTarget(job.Route)
		switch {
		case err != nil || !ok:
		case t.Kind == MX: // each domain has hosts of its own
			if own, err := a.conf.Router.Route(ctx, job.Domain); err == nil && own.Kind == MX {
				t.Link = own.Link
			}
		default:
			t.Link = l.Link(job.Route)
		}
		return t, err
	}
	if a.conf.Router == nil {
		return Target{Kind: MX}, nil
	}
	return a.conf.Router.Route(ctx, job.Domain)
}
