package limit

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Gates are the limits as one node goes by them: what it has of each, and what it uses. Without limits there are none,
// and For costs the look at a pointer. Its methods may be called concurrently.
type Gates struct {
	now    func() time.Duration // a monotonic clock
	wake   func()               // a gate needs more than it has
	limits atomic.Pointer[Set]  // nil: none

	mu    sync.Mutex
	all   map[string]*Gate
	epoch uint64
	seq   uint64
	asked time.Duration // when the newest ask was made
}

// NewGates makes gates without limits. wake is called when something wants a share at once; it must not wait, nor call
// back.
func NewGates(now func() time.Duration, wake func()) *Gates {
	return &Gates{now: now, wake: wake, all: map[string]*Gate{}}
}

// Gate is one limit at this node.
type Gate struct {
	of  *Gates
	key string

	limit   Limit // the rest is guarded by of.mu
	share   int   // connections
	until   time.Duration
	tokens  [2][]token // by the end of their time
	jobs    int        // that have begun and not ended
	open    map[*Place]struct{}
	passes  map[*Pass]struct{}
	wish    int // jobs that could run, or run
	ready   int // recipients that could begin
	others  map[string]int
	refs    int           // destinations that have it
	used    time.Duration // the last call of For
	changed chan struct{} // closed when a place came free; nil: nobody waits
}

// token is the right to begin one message, or one recipient, within a time.
type token struct{ from, until time.Duration }

// SetLimits replaces the limits. It returns the gates that have become another one's, or no one's.
func (s *Gates) SetLimits(set Set) (changed []*Gate) {
	if len(set) == 0 {
		s.limits.Store(nil)
	} else {
		s.limits.Store(&set)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, g := range s.all {
		l, ok := set.Of(key)
		if l == g.limit {
			continue
		}
		changed = append(changed, g)
		g.limit = l
		g.tokens = [2][]token{}
		if !ok && len(g.open) == 0 && g.jobs == 0 {
			delete(s.all, key)
		}
	}
	return changed
}

// Any reports whether there are limits.
func (s *Gates) Any() bool { return s != nil && s.limits.Load() != nil }

// For returns the gates of keys, of those that have a limit.
func (s *Gates) For(keys ...string) (all []*Gate) {
	if s == nil {
		return nil
	}
	set := s.limits.Load()
	if set == nil {
		return nil
	}
	for _, key := range keys {
		l, ok := set.Of(key)
		if !ok {
			continue
		}
		s.mu.Lock()
		g := s.all[key]
		if g == nil {
			g = &Gate{of: s, key: key, limit: l, open: map[*Place]struct{}{}, passes: map[*Pass]struct{}{}}
			s.all[key] = g
		}
		g.used = s.now()
		s.mu.Unlock()
		all = append(all, g)
	}
	return all
}

// Key names what the gate limits.
func (g *Gate) Key() string { return g.key }

// Words say what a gate has and uses, for people.
func (g *Gate) Words() (limit string, share, open int) {
	g.of.mu.Lock()
	defer g.of.mu.Unlock()
	if g.of.now() < g.until {
		share = g.share
	}
	return g.limit.String(), share, len(g.open)
}

// Room says how many recipients of one message may begin at once; 0: the message has to wait.
func (g *Gate) Room() int {
	g.of.mu.Lock()
	defer g.of.mu.Unlock()
	return g.room(g.of.now())
}

func (g *Gate) room(now time.Duration) int {
	n := math.MaxInt
	if g.limit.Connections > 0 && (now >= g.until || g.jobs >= g.share) {
		return 0
	}
	for i, r := range g.limit.rates() {
		if r.N == 0 {
			continue
		}
		if n = min(n, g.usable(i, now)); n == 0 {
			return 0
		}
		if i == messages {
			n = math.MaxInt
		}
	}
	return n
}

const (
	messages = iota
	recipients
)

// usable counts the tokens that can be used now, and forgets those that are over.
func (g *Gate) usable(i int, now time.Duration) (n int) {
	over := 0
	for _, t := range g.tokens[i] {
		switch {
		case t.until <= now:
			over++
		case t.from <= now:
			n++
		}
	}
	if over > 0 {
		g.tokens[i] = slices.DeleteFunc(g.tokens[i], func(t token) bool { return t.until <= now })
	}
	return n
}

// take uses up n tokens, those that end first. It returns when the first of them ends.
func (g *Gate) take(i, n int, now time.Duration) (until time.Duration) {
	until = math.MaxInt64
	g.tokens[i] = slices.DeleteFunc(g.tokens[i], func(t token) bool {
		if n == 0 || t.from > now {
			return false
		}
		n--
		until = min(until, t.until)
		return true
	})
	return until
}

// Demand says how the jobs that could run at once here, those that run among them, and the recipients that could begin,
// have changed.
func (g *Gate) Demand(jobs, ready int) {
	g.of.mu.Lock()
	defer g.of.mu.Unlock()
	idle := g.wish == 0 && g.ready == 0
	g.wish, g.ready = g.wish+jobs, g.ready+ready
	if idle && g.limit.shared() {
		g.of.wake()
	}
}

// Attached says that one destination more, or less, has the gate.
func (g *Gate) Attached(n int) {
	g.of.mu.Lock()
	defer g.of.mu.Unlock()
	g.refs += n
	if g.of.all[g.key] == nil {
		g.of.all[g.key] = g
	}
}

// unused is after how long a gate is forgotten that nothing has or wants.
const unused = time.Minute

// forget drops gates that nothing has or wants.
func (s *Gates) forget(now time.Duration) {
	for key, g := range s.all {
		if g.refs == 0 && len(g.open)+len(g.passes)+g.wish+g.ready == 0 && now >= g.until && now-g.used >= unused {
			delete(s.all, key)
		}
	}
}

// Pass is the right of one job to begin.
type Pass struct {
	gates  []*Gate
	until  time.Duration // of its tokens
	used   bool
	cancel context.CancelCauseFunc
}

// Begin takes what a job of n recipients needs of all gates; nil: some gate has no room for it.
func Begin(gates []*Gate, n int) *Pass {
	if len(gates) == 0 {
		return nil
	}
	s := gates[0].of
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for _, g := range gates {
		if g.room(now) < n {
			return nil
		}
	}
	p := &Pass{gates: gates, until: math.MaxInt64}
	for _, g := range gates {
		g.jobs++
		g.passes[p] = struct{}{}
	}
	p.charge(n, now)
	return p
}

// charge takes tokens that are there.
func (p *Pass) charge(n int, now time.Duration) {
	p.until = math.MaxInt64
	for _, g := range p.gates {
		if g.limit.Rate.N > 0 {
			p.until = min(p.until, g.take(messages, 1, now))
		}
		if g.limit.Recipients.N > 0 {
			p.until = min(p.until, g.take(recipients, n, now))
		}
	}
}

// Same reports whether a pass is for just these gates. A nil Pass is for none.
func (p *Pass) Same(gates []*Gate) bool {
	if p == nil {
		return len(gates) == 0
	}
	return slices.Equal(p.gates, gates)
}

// OnLapse has a pass call a function when the node has lost its share.
func (p *Pass) OnLapse(cancel context.CancelCauseFunc) {
	p.gates[0].of.mu.Lock()
	p.cancel = cancel
	p.gates[0].of.mu.Unlock()
}

// End gives a pass back. It may be called more than once, and of a nil Pass.
func (p *Pass) End() {
	if p == nil {
		return
	}
	s := p.gates[0].of
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range p.gates {
		if _, ok := g.passes[p]; ok {
			delete(g.passes, p)
			g.jobs--
		}
	}
}

// Start is called right before a transaction begins. It returns the key that forbids it; empty: none. The first one of
// a pass has its tokens; each other one needs tokens of its own.
func (p *Pass) Start(n int) (stops string) {
	if p == nil {
		return ""
	}
	s := p.gates[0].of
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for _, g := range p.gates {
		if g.limit.Connections > 0 && now >= g.until {
			return g.key
		}
	}
	if !p.used {
		p.used = true
		if now < p.until {
			return ""
		}
	}
	for _, g := range p.gates {
		for i, r := range g.limit.rates() {
			need := 1
			if i == recipients {
				need = n
			}
			if r.N > 0 && g.usable(i, now) < need {
				return g.key
			}
		}
	}
	p.charge(n, now)
	return ""
}

// PerConnection is how many messages may go over one connection; 0: any number.
func (p *Pass) PerConnection() (n int) {
	if p == nil {
		return 0
	}
	p.gates[0].of.mu.Lock()
	defer p.gates[0].of.mu.Unlock()
	for _, g := range p.gates {
		if most := g.limit.PerConnection; most > 0 && (n == 0 || most < n) {
			n = most
		}
	}
	return n
}

// Place is one connection. It counts from before it is opened until it is closed.
type Place struct{ gates []*Gate }

// Covers reports whether a connection at a place counts where the pass wants it counted.
func (p *Pass) Covers(at *Place) bool {
	if at == nil {
		return p == nil
	}
	return p.Same(at.gates)
}

// Open takes a place for a connection; nil: a gate has none, and full is that gate.
func (p *Pass) Open() (place *Place, full *Gate) {
	s := p.gates[0].of
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for _, g := range p.gates {
		if g.limit.Connections > 0 && (now >= g.until || len(g.open) >= g.share) {
			return nil, g
		}
	}
	place = &Place{gates: p.gates}
	for _, g := range place.gates {
		g.open[place] = struct{}{}
	}
	return place, nil
}

// Close gives a place back. It may be called more than once.
func (p *Place) Close() {
	s := p.gates[0].of
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range p.gates {
		if _, ok := g.open[p]; !ok {
			continue
		}
		delete(g.open, p)
		if g.changed != nil {
			close(g.changed)
			g.changed = nil
		}
	}
}

// At reports whether a place is one of a gate's.
func (p *Place) At(g *Gate) bool { return p != nil && slices.Contains(p.gates, g) }

// Over reports whether a place is one too many, so that its connection is not to be kept. A nil Place never is.
func (p *Place) Over() bool {
	if p == nil {
		return false
	}
	s := p.gates[0].of
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	return slices.ContainsFunc(p.gates, func(g *Gate) bool {
		return g.limit.Connections > 0 && (now >= g.until || len(g.open) > g.share)
	})
}

// AwaitPlace waits until a connection of a gate was closed, or ctx ends. It reports whether it is worth another try:
// not where the share has ended.
func (g *Gate) AwaitPlace(ctx context.Context) bool {
	g.of.mu.Lock()
	if g.of.now() >= g.until {
		g.of.mu.Unlock()
		return false
	}
	if len(g.open) < g.share {
		g.of.mu.Unlock()
		return true
	}
	if g.changed == nil {
		g.changed = make(chan struct{})
	}
	changed := g.changed
	g.of.mu.Unlock()
	select {
	case <-changed:
		return true
	case <-ctx.Done():
		return false
	}
}

// maxWant bounds what a node says that it wants.
const maxWant = 10_000

// Ask makes the node's next ask in a session; busy: it holds or wants something.
func (s *Gates) Ask(epoch uint64) (ask *Ask, busy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if epoch != s.epoch { // what was granted was granted to another session
		s.epoch = epoch
		for _, g := range s.all {
			g.until, g.tokens = 0, [2][]token{}
		}
	}
	s.forget(now)
	s.seq++
	s.asked = now
	ask = &Ask{Epoch: epoch, Seq: s.seq}
	for key, g := range s.all {
		w := Want{Key: key, Open: len(g.open), Conns: min(g.wish, maxWant), Others: g.others}
		if now < g.until {
			w.Held = g.share
		}
		if _, ok := s.set().Of(key); !ok || !g.limit.shared() {
			continue
		}
		if g.ready > 0 {
			w.Tokens[messages], w.Tokens[recipients] = min(g.ready, maxWant), min(g.ready, maxWant)
		}
		if w.Held == 0 && w.Open == 0 && w.Conns == 0 && g.ready == 0 {
			if len(g.passes) == 0 {
				g.others = nil
			}
			continue
		}
		ask.Keys = append(ask.Keys, w)
	}
	slices.SortFunc(ask.Keys, func(a, b Want) int { return cmp.Compare(a.Key, b.Key) })
	return ask, len(ask.Keys) > 0
}

func (s *Gates) set() Set {
	if set := s.limits.Load(); set != nil {
		return *set
	}
	return nil
}

// Grant takes the answer to an ask in. It is too late where another ask was made since. It returns the gates of the
// answer, and for each one how many connections it has too many.
func (s *Gates) Grant(ask *Ask, a *Answer) (gates []*Gate, excess []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ask.Seq != s.seq || ask.Epoch != s.epoch {
		return nil, nil
	}
	now := s.now()
	for i := range a.Keys {
		grant := &a.Keys[i]
		g := s.all[grant.Key]
		if g == nil {
			continue
		}
		g.share, g.until, g.others = max(grant.Conns, 0), s.asked+Lease, grant.Others
		for k := range g.tokens {
			g.add(k, grant, s.asked, now)
		}
		over := 0
		if g.limit.Connections > 0 {
			over = max(0, len(g.open)-g.share)
		}
		gates, excess = append(gates, g), append(excess, over)
	}
	return gates, excess
}

// add puts tokens in. A token begins no earlier than its slot, as counted from the answer, and ends in time, as counted
// from the ask: so no clock need agree with the leader's.
func (g *Gate) add(k int, grant *Grant, asked, now time.Duration) {
	life := time.Duration(grant.Life[k]) * time.Microsecond
	for _, slot := range grant.Slots[k] {
		at := time.Duration(slot) * time.Microsecond
		t := token{from: now + max(at, 0), until: min(asked+at+life, asked+Lease)}
		if t.from < t.until {
			g.tokens[k] = append(g.tokens[k], t)
		}
	}
	slices.SortStableFunc(g.tokens[k], func(x, y token) int { return cmp.Compare(x.until, y.until) })
}

// Next is when the next token can be used, or a share ends that is in use; 0: none.
func (s *Gates) Next() (next time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for _, g := range s.all {
		if g.limit.Connections > 0 && len(g.open)+len(g.passes) > 0 && now < g.until {
			next = earlier(next, g.until)
		}
		if g.ready == 0 {
			continue
		}
		for k := range g.tokens {
			for _, t := range g.tokens[k] {
				if t.from > now {
					next = earlier(next, t.from)
				}
			}
		}
	}
	return next
}

func earlier(a, b time.Duration) time.Duration {
	if a == 0 {
		return b
	}
	return min(a, b)
}

// Due returns the gates that wait and have room now.
func (s *Gates) Due() (all []*Gate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for _, g := range s.all {
		if g.ready > 0 && g.room(now) > 0 {
			all = append(all, g)
		}
	}
	return all
}

// Lapse ends the jobs of gates whose share has ended. It returns those gates whose connections are to be closed.
func (s *Gates) Lapse(cause error) (all []*Gate) {
	s.mu.Lock()
	var cancel []context.CancelCauseFunc
	now := s.now()
	for _, g := range s.all {
		if g.limit.Connections == 0 || now < g.until || len(g.open) == 0 {
			continue
		}
		all = append(all, g)
		for p := range g.passes {
			if p.cancel != nil {
				cancel = append(cancel, p.cancel)
			}
		}
	}
	s.mu.Unlock()
	for _, c := range cancel {
		c(cause)
	}
	return all
}

// List returns the gates, by key.
func (s *Gates) List() (all []*Gate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.all {
		all = append(all, g)
	}
	slices.SortFunc(all, func(x, y *Gate) int { return cmp.Compare(x.key, y.key) })
	return all
}
