package limit

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"time"
)

// Times of shares.
const (
	Period  = 250 * time.Millisecond // between two asks of a node
	Lease   = 3 * time.Second        // a share lasts so long from when it was asked for
	lapsed  = Lease + time.Second    // a node that has not asked for so long holds no share, by any clock
	horizon = Period + 50*time.Millisecond
	fresh   = 3 * Period // who has not asked for longer gets no slots kept for it
	starved = 2 * time.Second

	// Learning is how long a new leader gives no node more than it holds, unless all have asked before.
	Learning = 9 * time.Second
	// Gone is how long the connections of a node that fell silent count: a process that is stopped keeps them open.
	Gone = 5 * time.Minute
)

// ErrOld says that an ask is not the newest of its node.
var ErrOld = errors.New("limit: a newer ask has come before")

// Ledger is the leader's account of who may do what. Its methods need the caller's lock; now is a monotonic clock.
type Ledger struct {
	limits   Set
	term     uint64
	began    time.Duration   // when the term was first heard of
	awaited  map[string]bool // nodes that have to ask before anybody gets more
	learning bool
	nodes    map[string]*asker
	accounts map[string]*account
}

// asker is what the ledger knows of a node.
type asker struct {
	epoch, seq uint64
	at         time.Duration // its last ask
}

// account is one key.
type account struct {
	limit Limit
	holds map[string]*holding // by node
	pace  [2]pace
}

// holding is what a node has of a key.
type holding struct {
	out     int // connections that it may have
	open    int
	want    int
	tokens  [2]int
	at      time.Duration // it spoke of the key
	hungry  time.Duration // since when it has none and wants some
	hearsay bool          // others said so, of the term before
}

// NewLedger makes a ledger that has led nothing.
func NewLedger() *Ledger { return &Ledger{} }

// SetLimits replaces the limits.
func (l *Ledger) SetLimits(s Set) {
	l.limits = s
	for key, a := range l.accounts {
		was := a.limit
		a.limit, _ = s.Of(key)
		for i, r := range a.limit.rates() {
			if r != was.rates()[i] || a.limit.Burst != was.Burst {
				a.pace[i].end(was.rates()[i])
			}
		}
	}
}

// Lead begins a term. live are the nodes that have a session; it is asked where the term is new.
func (l *Ledger) Lead(term uint64, live func() []string, now time.Duration) {
	if term == l.term {
		return
	}
	l.term, l.began, l.learning = term, now, true
	l.nodes, l.accounts, l.awaited = map[string]*asker{}, map[string]*account{}, map[string]bool{}
	for _, node := range live() {
		l.awaited[node] = true
	}
}

// Silent are the nodes that hold connections and have not asked for so long that they have closed them, if they run: if
// such a node is known to be dead, or to be cut off, Forget it.
func (l *Ledger) Silent(now time.Duration) (all []string) {
	for _, a := range l.accounts {
		for node, h := range a.holds {
			if h.out > 0 && now-h.at > Learning && !slices.Contains(all, node) {
				all = append(all, node)
			}
		}
	}
	return all
}

// Forget gives back what a node held that is dead.
func (l *Ledger) Forget(node string) {
	delete(l.awaited, node)
	for _, a := range l.accounts {
		delete(a.holds, node)
	}
}

// Tell puts what a former leader knows of others into its ask to the new one, which can not know of a node that does
// not ask.
func (l *Ledger) Tell(ask *Ask) {
	for _, key := range slices.Sorted(maps.Keys(l.accounts)) {
		known := map[string]int{}
		for node, h := range l.accounts[key].holds {
			if h.out > 0 {
				known[node] = h.out
			}
		}
		if len(known) == 0 {
			continue
		}
		i := slices.IndexFunc(ask.Keys, func(w Want) bool { return w.Key == key })
		if i < 0 {
			i, ask.Keys = len(ask.Keys), append(ask.Keys, Want{Key: key})
		}
		ask.Keys[i].Others = known
	}
}

// Take answers an ask of a node in the present term. now is before the proof that this node leads: what is given out is
// counted from there.
func (l *Ledger) Take(node string, ask *Ask, now time.Duration) (*Answer, error) {
	n := l.nodes[node]
	if n == nil {
		n = &asker{}
		l.nodes[node] = n
	} else if ask.Epoch < n.epoch || ask.Epoch == n.epoch && ask.Seq <= n.seq {
		return nil, ErrOld
	}
	*n = asker{epoch: ask.Epoch, seq: ask.Seq, at: now}
	delete(l.awaited, node)
	if len(l.awaited) == 0 || now-l.began >= Learning {
		l.learning = false
	}
	l.hear(node, ask, now)
	answer := &Answer{}
	for i := range ask.Keys {
		if a := l.accounts[ask.Keys[i].Key]; a != nil {
			answer.Keys = append(answer.Keys, l.grant(a, node, &ask.Keys[i], now))
		}
	}
	return answer, nil
}

// hear takes in what a node says that it holds: it has nothing that it does not name.
func (l *Ledger) hear(node string, ask *Ask, now time.Duration) {
	named := map[string]bool{}
	for i := range ask.Keys {
		w := &ask.Keys[i]
		limit, ok := l.limits.Of(w.Key)
		if !ok || !limit.shared() {
			continue
		}
		named[w.Key] = true
		a := l.accounts[w.Key]
		if a == nil {
			a = newAccount(limit, l.began)
			l.accounts[w.Key] = a
		}
		a.hear(node, w, now)
		for other, out := range w.Others {
			if l.nodes[other] == nil && other != node {
				a.rumour(other, out, l.began)
			}
		}
	}
	for key, a := range l.accounts {
		if !named[key] {
			delete(a.holds, node)
		}
		if len(a.holds) == 0 && a.spent(now) {
			delete(l.accounts, key)
		}
	}
}

// newAccount begins one: what the leader before may have given out is over by then.
func newAccount(limit Limit, began time.Duration) *account {
	a := &account{limit: limit, holds: map[string]*holding{}}
	for i, r := range limit.rates() {
		if r.N > 0 {
			a.pace[i].next = began + horizon + r.every()
		}
	}
	return a
}

func (a *account) hear(node string, w *Want, now time.Duration) {
	h := a.holds[node]
	if h == nil || h.hearsay {
		h = &holding{hungry: now}
		a.holds[node] = h
	}
	h.out, h.open, h.want, h.tokens, h.at = max(w.Held, w.Open, 0), max(w.Open, 0), max(w.Conns, 0), w.Tokens, now
	if h.out > 0 || h.want == 0 {
		h.hungry = now
	}
}

// rumour notes what a node may hold that has not asked in this term.
func (a *account) rumour(node string, out int, began time.Duration) {
	h := a.holds[node]
	if h == nil {
		h = &holding{hearsay: true, at: began}
		a.holds[node] = h
	}
	if h.hearsay {
		h.out = max(h.out, out)
	}
}

// spent reports whether nothing of an account need be remembered.
func (a *account) spent(now time.Duration) bool {
	for i, r := range a.limit.rates() {
		if r.N > 0 && a.pace[i].next > now-r.life(a.limit.Burst)-horizon {
			return false
		}
	}
	return true
}

func (l *Ledger) grant(a *account, node string, w *Want, now time.Duration) Grant {
	g := Grant{Key: w.Key, Conns: a.limit.Connections}
	if a.limit.Connections > 0 {
		g.Conns = l.conns(a, node, now)
	}
	for i, r := range a.limit.rates() {
		if r.N > 0 {
			g.Life[i] = r.life(a.limit.Burst).Microseconds()
			for _, at := range a.slots(i, node, r, now) {
				g.Slots[i] = append(g.Slots[i], (at - now).Microseconds())
			}
		}
	}
	for other, h := range a.holds {
		if other != node && h.out > 0 {
			if g.Others == nil {
				g.Others = map[string]int{}
			}
			g.Others[other] = h.out
		}
	}
	return g
}

// conns decides how many connections a node may have open. It never gives what another node may still have.
func (l *Ledger) conns(a *account, node string, now time.Duration) int {
	h := a.holds[node]
	if l.learning {
		return min(h.out, a.limit.Connections)
	}
	free := a.limit.Connections
	for other, o := range a.holds {
		if now-o.at > Gone {
			delete(a.holds, other)
			continue
		}
		free -= o.out
	}
	grant := a.target(node, now)
	if grant > h.out {
		grant = h.out + max(0, min(grant-h.out, free))
	}
	h.out = max(h.out, grant)
	if grant > 0 {
		h.hungry = now
	}
	return grant
}

// target is what a node should have: as much as all others, or as much as it wants; what nobody wants stays with those
// who have it open.
func (a *account) target(node string, now time.Duration) int {
	left := a.limit.Connections
	var in []string
	for other, o := range a.holds {
		if now-o.at > lapsed || o.hearsay {
			left -= o.out
		} else {
			in = append(in, other)
		}
	}
	slices.SortFunc(in, func(x, y string) int { return a.before(x, y, now) })
	got := map[string]int{}
	for _, bound := range []func(*holding) int{
		func(h *holding) int { return h.want }, func(h *holding) int { return max(h.want, h.open) },
	} {
		for more := true; more && left > 0; {
			more = false
			for _, other := range in {
				if left > 0 && got[other] < bound(a.holds[other]) {
					got[other]++
					left--
					more = true
				}
			}
		}
	}
	return got[node]
}

// before orders nodes where there is not enough for all: those that have waited with none for long, then those that
// have most, so that nothing moves without need.
func (a *account) before(x, y string, now time.Duration) int {
	hungry := func(node string) time.Duration {
		if h := a.holds[node]; h.want > 0 && h.out == 0 && now-h.hungry >= starved {
			return now - h.hungry
		}
		return 0
	}
	return cmp.Or(cmp.Compare(hungry(y), hungry(x)), cmp.Compare(a.holds[y].out, a.holds[x].out), cmp.Compare(x, y))
}

// pace deals slots, each some time after the one before it. A slot that is not taken may be taken later, in its life.
type pace struct {
	next time.Duration // the first that is not made
	made uint64        // how many were
	free []slot        // made and not taken, in order
	ends bool          // the rate has changed
}

type slot struct {
	n  uint64
	at time.Duration
}

// end has the slots begin anew, behind the last one that was made at the rate before: one a day that was meant to be
// one a second must not stop mail until tomorrow.
func (p *pace) end(was Rate) {
	if !p.ends && was.N > 0 {
		p.next -= was.every()
	}
	p.ends = true
}

// slots gives a node its part of those up to its next ask, and of those that nobody has taken.
func (a *account) slots(i int, node string, r Rate, now time.Duration) (taken []time.Duration) {
	p, life, every := &a.pace[i], r.life(a.limit.Burst), r.every()
	if p.ends || p.next == 0 {
		p.free, p.ends = nil, false
		p.next = max(p.next, now) + horizon + every
	}
	if oldest := now - life; p.next < oldest { // nobody asked for long
		skipped := (oldest - p.next) / every
		p.next += skipped * every
		p.made += uint64(skipped)
	}
	for ; p.next < now+horizon; p.next += every {
		p.free = append(p.free, slot{p.made, p.next})
		p.made++
	}
	p.free = slices.DeleteFunc(p.free, func(s slot) bool { return s.at+life <= now })
	want, all := a.holds[node].tokens[i], a.asking(i, now)
	rank := uint64(slices.Index(all, node))
	p.free = slices.DeleteFunc(p.free, func(s slot) bool {
		if len(taken) >= want || s.at > now && s.n%uint64(len(all)) != rank {
			return false
		}
		taken = append(taken, s.at)
		return true
	})
	return taken
}

// asking are the nodes that want tokens now.
func (a *account) asking(i int, now time.Duration) (all []string) {
	for _, node := range slices.Sorted(maps.Keys(a.holds)) {
		if h := a.holds[node]; h.tokens[i] > 0 && now-h.at <= fresh {
			all = append(all, node)
		}
	}
	return all
}
