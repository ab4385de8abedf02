package mtasts

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"relay/smtp/printable"
)

const (
	lookEvery  = time.Hour        // for the record of a domain
	retryAfter = 10 * time.Minute // where the record or the policy could not be had
	leastAge   = time.Minute      // a policy counts for it, whatever it says
	maxKnown   = 20_000           // domains in memory
	maxAtOnce  = 32               // that are looked at
	lookTime   = 90 * time.Second
)

// Kept is a policy with its life.
type Kept struct {
	Policy           *Policy
	Fetched, Expires time.Time
}

func (k Kept) valid(now time.Time) bool { return k.Policy != nil && now.Before(k.Expires) }

// due: half of its life is over, and it is worth to be fetched again before somebody can wait for its end.
func (k Kept) due(now time.Time) bool {
	return !now.Before(k.Fetched.Add(k.Expires.Sub(k.Fetched) / 2))
}

// Store keeps policies beyond a node's memory. Domains are in lower case and ASCII.
type Store interface {
	Load(domain string) (Kept, bool)
	Keep(ctx context.Context, domain string, k Kept) error
	// All calls each for every policy that is kept.
	All(each func(domain string, k Kept)) error
}

// Config is what a Finder needs.
type Config struct {
	// TXT returns the text records of a name; none and no error where DNS says that there are none.
	TXT func(ctx context.Context, name string) ([]string, error)
	// Fetch returns a domain's policy as its web server has it now.
	Fetch func(ctx context.Context, domain string) (*Policy, error)
	Store Store
	Log   *zap.Logger
}

// Finder finds policies. It is safe for concurrent use. Close it after the last Find.
type Finder struct {
	conf  Config
	base  context.Context
	end   context.CancelFunc
	turns chan struct{}
	looks sync.WaitGroup

	mu    sync.Mutex
	known map[string]known
	calls map[string]*call
}

// known is what a node remembers of a domain.
type known struct {
	kept  Kept      // without a policy: the domain has none
	again time.Time // when it is looked at again
}

// call is a look under way; all who want to know share it.
type call struct {
	done   chan struct{}
	policy *Policy
}

// NewFinder makes a Finder.
func NewFinder(c Config) *Finder {
	f := &Finder{conf: c, turns: make(chan struct{}, maxAtOnce), known: map[string]known{}, calls: map[string]*call{}}
	f.base, f.end = context.WithCancel(context.Background())
	return f
}

// Close ends what is under way and waits for it.
func (f *Finder) Close() error {
	f.end()
	f.looks.Wait()
	return nil
}

// Find returns the policy of a domain, which is in lower case and ASCII; nil where it has none, or none that can be
// had. Mostly it is known; the first one who asks for a domain waits, as do others at that time. One that is known and
// alive is used while it is looked at again.
func (f *Finder) Find(ctx context.Context, domain string) *Policy {
	now := time.Now()
	f.mu.Lock()
	k, ok := f.known[domain]
	if ok && now.Before(k.again) {
		f.mu.Unlock()
		return k.policy(now)
	}
	c := f.look(domain)
	f.mu.Unlock()
	if c == nil || k.kept.valid(now) {
		return k.policy(now)
	}
	select {
	case <-ctx.Done():
		return nil
	case <-c.done:
		return c.policy
	}
}

func (k known) policy(now time.Time) *Policy {
	if !k.kept.valid(now) || k.kept.Policy.Mode == None {
		return nil
	}
	return k.kept.Policy
}

// look begins to look at a domain, unless that is under way; nil after Close. It needs f.mu.
func (f *Finder) look(domain string) *call {
	if c := f.calls[domain]; c != nil || f.base.Err() != nil {
		return c
	}
	c := &call{done: make(chan struct{})}
	f.calls[domain] = c
	f.looks.Go(func() {
		defer close(c.done)
		ctx, cancel := context.WithTimeout(f.base, lookTime)
		defer cancel()
		k := f.ask(ctx, domain)
		c.policy = k.policy(time.Now())
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.calls, domain)
		for old := range f.known {
			if len(f.known) < maxKnown {
				break
			}
			delete(f.known, old)
		}
		f.known[domain] = k
	})
	return c
}

// ask finds out what holds for a domain, RFC 8461 §3.3 and §5.1. A policy that is kept counts to its end, without
// record and web server, too: nobody takes it away by cutting them off.
func (f *Finder) ask(ctx context.Context, domain string) known {
	select {
	case f.turns <- struct{}{}:
		defer func() { <-f.turns }()
	case <-ctx.Done():
	}
	had, _ := f.conf.Store.Load(domain)
	records, err := f.conf.TXT(ctx, "_mta-sts."+domain)
	id, has := RecordID(records)
	now := time.Now()
	switch {
	case err != nil:
		return had.until(now, retryAfter)
	case !has, had.valid(now) && had.Policy.ID == id && !had.due(now):
		return had.until(now, lookEvery)
	}
	p, err := f.conf.Fetch(ctx, domain)
	now = time.Now()
	if err != nil {
		f.conf.Log.Info("delivery: the MTA-STS policy of a domain can not be had", zap.String("domain", domain),
			zap.Bool("former_counts", had.valid(now)), zap.String("error", printable.Text(err.Error(), 200)))
		return had.until(now, retryAfter)
	}
	p.ID = id
	k := Kept{p, now, now.Add(max(p.MaxAge, leastAge))}
	if err := f.conf.Store.Keep(ctx, domain, k); err != nil {
		f.conf.Log.Debug("delivery: an MTA-STS policy stays in this node's memory", zap.String("domain", domain),
			zap.Error(err))
	}
	return k.until(now, lookEvery)
}

// until is what is known until it is looked at again.
func (k Kept) until(now time.Time, life time.Duration) known {
	again := now.Add(life)
	if !k.valid(now) {
		return known{again: again}
	}
	if k.Expires.Before(again) {
		again = k.Expires
	}
	return known{k, again}
}

// Renew fetches again what is kept and has half of its life behind it, one after the other, so that it counts at the
// next message, too. One node of a cluster calls it now and then.
func (f *Finder) Renew(ctx context.Context) {
	var due []string
	now := time.Now()
	err := f.conf.Store.All(func(domain string, k Kept) {
		if k.valid(now) && k.due(now) {
			due = append(due, domain)
		}
	})
	if err != nil {
		f.conf.Log.Warn("delivery: the MTA-STS policies that are kept can not be read", zap.Error(err))
	}
	for _, domain := range due {
		f.mu.Lock()
		c := f.look(domain)
		f.mu.Unlock()
		if c == nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-c.done:
		}
	}
}
