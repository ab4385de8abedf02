package limits

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"relay/queue/limit"
	"relay/queue/remote"
	"relay/queue/site"
)

// Method is the question of one node to another.
const Method = "node/limits"

// Config is what a Service needs of its node. All fields are required.
type Config struct {
	Node   string
	Leader func() string // who leads, as far as is known; empty: nobody
	// Lead proves that this node leads, at some time after the call, and returns the term.
	Lead func(ctx context.Context) (term uint64, err error)
	Ask  func(ctx context.Context, node, method string, req []byte) ([]byte, error)
	// Epoch is that of the node's session; 0: it has none.
	Epoch func() uint64
	Live  func() []string // the nodes that have a session
	// Dead reports whether a node that has been silent for seconds has no connections any more: its process is gone, or
	// it is cut off, so that it has closed them itself.
	Dead func(ctx context.Context, node string) bool
	Log  *zap.Logger
}

// Queue is what the service tells of shares. The methods may be called concurrently.
type Queue interface{ Kick(*limit.Gate) }

// Connections closes idle ones.
type Connections interface{ Shed(g *limit.Gate, n int) }

// Service has the limits hold. It is safe for concurrent use.
type Service struct {
	conf  Config
	Gates *limit.Gates
	Sites *site.Sites
	began time.Time
	wake  chan struct{}

	reading sync.Mutex
	limits  []string // as they were read last
	sites   []string

	mu     sync.Mutex
	ledger *limit.Ledger
	led    bool // the ledger may know more than the leader's
}

// New makes a Service without limits.
func New(c Config) *Service {
	s := &Service{conf: c, Sites: site.New(), began: time.Now(), wake: make(chan struct{}, 1), ledger: limit.NewLedger()}
	s.Gates = limit.NewGates(s.now, s.poke)
	return s
}

// now is a monotonic clock.
func (s *Service) now() time.Duration { return time.Since(s.began) }

func (s *Service) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Set replaces limits and sites by those of the settings, as texts. A list that this build can not read does not count.
func (s *Service) Set(limits, sites []string, q Queue) {
	s.reading.Lock()
	defer s.reading.Unlock()
	if !slices.Equal(sites, s.sites) {
		s.sites = sites
		t, err := site.Parse(sites)
		if err != nil {
			s.conf.Log.Error("cannot read the sites", zap.Error(err))
		} else {
			s.Sites.SetTable(t)
		}
	}
	if slices.Equal(limits, s.limits) {
		return
	}
	s.limits = limits
	set, err := limit.ParseSet(limits)
	if err != nil {
		s.conf.Log.Error("cannot read the limits", zap.Error(err))
		return
	}
	s.mu.Lock()
	s.ledger.SetLimits(set)
	s.mu.Unlock()
	for _, g := range s.Gates.SetLimits(set) {
		q.Kick(g)
	}
	s.poke()
}

// Learn implements remote.Sites.
func (s *Service) Learn(domain string, records []remote.Record) {
	if !s.Sites.Due(domain) {
		return
	}
	hosts := make([]string, len(records))
	for i := range records {
		hosts[i] = records[i].Host
	}
	s.Sites.Learn(domain, hosts)
}

// Of implements remote.Sites.
func (s *Service) Of(domain string) string { return s.Sites.Of(domain) }

// Answer serves the ask of a node, where this node leads.
func (s *Service) Answer(ctx context.Context, from string, req []byte) ([]byte, error) {
	var ask limit.Ask
	if err := json.Unmarshal(req, &ask); err != nil {
		return nil, fmt.Errorf("node %s asks for shares in a way that this version does not know: %w", from, err)
	}
	a, err := s.answer(ctx, from, &ask)
	if err != nil {
		return nil, err
	}
	return json.Marshal(a)
}

func (s *Service) answer(ctx context.Context, from string, ask *limit.Ask) (*limit.Answer, error) {
	now := s.now() // what is granted is counted from before the proof
	term, err := s.conf.Lead(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.Lead(term, s.conf.Live, now)
	s.led = true
	return s.ledger.Take(from, ask, now)
}

// round is an ask under way.
type round struct {
	leader string
	ask    *limit.Ask
	busy   bool
	answer *limit.Answer
	err    error
}

const (
	look    = time.Second           // with limits, whether somebody else leads
	soonest = 20 * time.Millisecond // between two asks
	patient = time.Second           // for an answer
)

// errLapsed ends attempts.
var errLapsed = errors.New("limits: this node's share has ended")

// loop is the state of Run.
type loop struct {
	*Service
	q      Queue
	c      Connections
	told   string // the leader that answered last
	next   time.Duration
	last   time.Duration // the last ask
	asking bool
	done   chan *round

	looked  time.Duration // for dead nodes
	burying sync.Mutex
}

// Run asks for shares while something is held or wanted, and says so to the queue. At the end it gives up what it has:
// all connections are closed by then.
func (s *Service) Run(ctx context.Context, q Queue, c Connections) error {
	l := &loop{Service: s, q: q, c: c, done: make(chan *round, 1)}
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer l.burying.Lock() // until that has ended
	for {
		select {
		case <-ctx.Done():
			l.leave(context.WithoutCancel(ctx))
			return nil
		case r := <-l.done:
			l.take(r)
		case <-s.wake:
			l.next = min(l.next, max(s.now(), l.last+soonest))
		case <-timer.C:
		}
		timer.Reset(l.step(ctx))
	}
}

// step does what is due, and says for how long nothing will be.
func (l *loop) step(ctx context.Context) time.Duration {
	if !l.Gates.Any() {
		l.told = ""
		return time.Hour
	}
	for _, g := range l.Gates.Lapse(errLapsed) {
		l.c.Shed(g, all)
	}
	for _, g := range l.Gates.Due() {
		l.q.Kick(g)
	}
	now := l.now()
	leader := l.conf.Leader()
	due := now >= l.next || leader != l.told && now >= l.last+limit.Period
	if due && !l.asking && leader != "" {
		l.ask(ctx, leader)
	}
	if l.conf.Leader() == l.conf.Node && now >= l.looked+look && l.burying.TryLock() {
		l.looked = now
		go func() {
			defer l.burying.Unlock()
			l.bury(ctx)
		}()
	}
	wait := look
	if next := l.Gates.Next(); next > 0 {
		wait = min(wait, next-now)
	}
	if !l.asking {
		wait = min(wait, l.next-now)
	}
	return max(wait, time.Millisecond)
}

// all is more connections than anybody has.
const all = 1 << 30

// ask begins a round, unless nothing is held or wanted, and the leader knows.
func (l *loop) ask(ctx context.Context, leader string) {
	now, epoch := l.now(), l.conf.Epoch()
	l.next = now + limit.Period
	if epoch == 0 {
		return
	}
	ask, busy := l.Gates.Ask(epoch)
	if !busy && leader == l.told {
		l.next = now + look
		return
	}
	l.last, l.asking = now, true
	r := &round{leader: leader, ask: ask, busy: busy}
	go func() {
		ctx, cancel := context.WithTimeout(ctx, patient)
		defer cancel()
		r.answer, r.err = l.put(ctx, leader, ask)
		l.done <- r
	}()
}

// put brings an ask to the leader, and what this node knows of others if it led before.
func (s *Service) put(ctx context.Context, leader string, ask *limit.Ask) (*limit.Answer, error) {
	if leader == s.conf.Node {
		return s.answer(ctx, leader, ask)
	}
	s.mu.Lock()
	tells := s.led
	if tells {
		s.ledger.Tell(ask)
	}
	s.mu.Unlock()
	req, err := json.Marshal(ask)
	if err != nil {
		return nil, err
	}
	b, err := s.conf.Ask(ctx, leader, Method, req)
	if err != nil {
		return nil, err
	}
	if tells {
		s.mu.Lock()
		s.led = false
		s.mu.Unlock()
	}
	a := new(limit.Answer)
	return a, json.Unmarshal(b, a)
}

// take puts the answer of a round to use.
func (l *loop) take(r *round) {
	l.asking = false
	if r.err != nil {
		l.conf.Log.Debug("no share of the limits", zap.String("leader", r.leader), zap.Error(r.err))
		return
	}
	if r.busy {
		l.told = "" // the last word must be that it holds nothing
	} else {
		l.told = r.leader
	}
	gates, excess := l.Gates.Grant(r.ask, r.answer)
	for i, g := range gates {
		if excess[i] > 0 {
			l.c.Shed(g, excess[i])
		}
		l.q.Kick(g)
	}
}

// bury gives back what dead nodes held.
func (s *Service) bury(ctx context.Context) {
	s.mu.Lock()
	silent := s.ledger.Silent(s.now())
	s.mu.Unlock()
	for _, node := range silent {
		if node == s.conf.Node || !s.conf.Dead(ctx, node) {
			continue
		}
		s.mu.Lock()
		if slices.Contains(s.ledger.Silent(s.now()), node) { // it has not spoken meanwhile
			s.ledger.Forget(node)
		}
		s.mu.Unlock()
	}
}

// leave says that this node holds nothing more.
func (l *loop) leave(ctx context.Context) {
	if l.asking {
		<-l.done
	}
	leader, epoch := l.conf.Leader(), l.conf.Epoch()
	if !l.Gates.Any() || leader == "" || epoch == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	ask, _ := l.Gates.Ask(epoch)
	_, _ = l.put(ctx, leader, ask) // else it comes back when this node's share has lapsed
}
