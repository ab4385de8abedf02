package queue

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"relay/queue/bounce"
	"relay/queue/readyq"
	"relay/queue/replyclass"
)

// Limits bounds what a Manager does at a time. A zero field stands for the
// default.
type Limits struct {
	Workers        int           // jobs at a time, in all; 64
	PerDestination int           // jobs at a time to one destination; 20
	Initial        int           // the same, to one not known yet; 5
	Recipients     int           // recipients in a job; 100, what RFC 5321 §4.5.3.1.8 wants every server to take
	Verdicts       int           // verdicts in a Settle; 500
	Bytes          int           // octets in a Settle; 200 KiB
	Settles        int           // Settles in flight; 2
	Unsettled      int           // verdicts waiting for a Settle before attempts pause; 2000
	BackOffFirst   time.Duration // a destination whose host fails is backed off for so long; 30 seconds
	BackOffMax     time.Duration // and at most so long, doubling; 15 minutes
	Grace          time.Duration // for running attempts at the end, and again for their verdicts; 5 seconds
}

func (l Limits) withDefaults() Limits {
	or(&l.Workers, 64)
	or(&l.PerDestination, 20)
	or(&l.Initial, 5)
	or(&l.Recipients, 100)
	or(&l.Verdicts, 500)
	or(&l.Bytes, 200<<10)
	or(&l.Settles, 2)
	or(&l.Unsettled, 2000)
	or(&l.BackOffFirst, 30*time.Second)
	or(&l.BackOffMax, 15*time.Minute)
	or(&l.Grace, 5*time.Second)
	l.Initial = min(l.Initial, l.PerDestination)
	return l
}

func (l Limits) ready() readyq.Limits {
	return readyq.Limits{
		Workers: l.Workers, PerDestination: l.PerDestination, Initial: l.Initial, Recipients: l.Recipients,
		BackOffFirst: l.BackOffFirst, BackOffMax: l.BackOffMax,
	}
}

// Config is what a Manager needs. Spool and Agent are required.
type Config struct {
	Spool    Spool
	Agent    Agent
	Policy   RetryPolicy
	Schedule Schedule // nil: the policy's
	Limits   Limits
	Log      *zap.Logger
	Hostname string // in notices
	// Route names the hop that a domain's mail goes to by the routes; empty:
	// its own MX. Mail of one hop shares limits and jobs. It is called under a
	// lock and must not wait. Nil: every domain is a destination of its own.
	// When routes change, call Manager.Reset.
	Route func(domain string) string
	Rand  func() float64 // nil: math/rand
	// Now is the time that due times and ages are compared with; nil: time.Now. It
	// may step: call Manager.Reset then. It must be cheap.
	Now func() time.Time
	// Ageing reports whether Now can be relied on for ages: while it can not,
	// nothing is given up for its age, and nobody is told of a delay. Nil: always.
	Ageing func() bool
}

// Manager tries what is due and settles it. See DESIGN.md.
type Manager struct {
	conf   Config
	limits Limits
	log    *zap.Logger
	policy atomic.Pointer[policy]

	wake   chan struct{} // to the scheduler: something is due earlier
	rescan chan struct{} // to the scanner

	mu      sync.Mutex
	work    sync.Cond     // workers wait here
	queue   *readyq.Queue // what to try, and when
	idle    int           // workers waiting
	sleep   int64         // the scheduler sleeps until then
	closed  bool          // no new attempts
	right   right
	results results
	totals  Totals

	failures failures
	replies  atomic.Pointer[replyclass.Table] // the site's own rules of what replies mean
	template atomic.Pointer[bounce.Template]  // an operator's own text of notices
}

// right is this node's right to act, as of the last look.
type right struct {
	held  bool
	lease context.Context // of attempts
	end   context.CancelCauseFunc
}

// results are units whose verdicts wait for a settler.
type results struct {
	wake      sync.Cond // settlers wait here
	pending   []*unit
	unsettled int  // verdicts, also of units with a settler
	drained   bool // no worker will hand in verdicts
}

type policy struct {
	RetryPolicy
	schedule Schedule
	own      func(domain string) (lifetime, notice time.Duration) // nil: no rule says otherwise
}

// New makes a Manager. It does nothing before Run, but takes Adds.
func New(c Config) *Manager {
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	if c.Rand == nil {
		c.Rand = rand.Float64
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	m := &Manager{
		conf:   c,
		limits: c.Limits.withDefaults(),
		log:    c.Log,
		wake:   make(chan struct{}, 1),
		rescan: make(chan struct{}, 1),
	}
	m.queue = readyq.New(m.limits.ready(), c.Route)
	m.work.L, m.results.wake.L = &m.mu, &m.mu
	m.SetPolicy(c.Policy)
	return m
}

// now is the time by which mail is due and ages.
func (m *Manager) now() time.Time { return m.conf.Now() }

func (m *Manager) ageing() bool { return m.conf.Ageing == nil || m.conf.Ageing() }

// SetReplies has failures from now on classified by a site's own rules, too; nil: by the built-in ones alone.
func (m *Manager) SetReplies(t *replyclass.Table) { m.replies.Store(t) }

// ClassOf says what a reply means, by the site's own rules and the built-in ones.
func (m *Manager) ClassOf(reply string) replyclass.Class { return m.replies.Load().Of(reply) }

// SetTemplate has notices from now on say what an operator wants; nil: the built-in text.
func (m *Manager) SetTemplate(t *bounce.Template) { m.template.Store(t) }

// SetPolicy replaces the retry policy for all verdicts from now on. Due times
// that are set already stay.
func (m *Manager) SetPolicy(p RetryPolicy) {
	p = p.withDefaults()
	s := m.conf.Schedule
	if s == nil {
		s = p.Schedule()
	}
	made := &policy{RetryPolicy: p, schedule: s}
	if p.Rules.Ages() {
		made.own = made.ages
	}
	m.policy.Store(made)
}

var (
	errLease  = errors.New("queue: this node may not act any more")
	errClosed = errors.New("queue: the manager is stopping")
)

// Run works until ctx ends. Then no attempt starts any more; running ones have
// Limits.Grace to end, are cancelled after it, and their verdicts have the same
// time again to be committed. It returns when all its goroutines have ended; it
// may be called once. The node must keep its right to act until Run has returned.
func (m *Manager) Run(ctx context.Context) error {
	base, endAttempts := context.WithCancelCause(context.WithoutCancel(ctx))
	defer endAttempts(nil)
	settling, endSettling := context.WithCancel(context.WithoutCancel(ctx))
	defer endSettling()

	var loops, workers, settlers sync.WaitGroup
	loops.Go(func() { m.watch(base) })
	loops.Go(func() { m.schedule(ctx) })
	loops.Go(func() { m.scanner(ctx) })
	for range m.limits.Workers {
		workers.Go(func() { m.worker() })
	}
	for range m.limits.Settles {
		settlers.Go(func() { m.settler(settling) })
	}
	m.Reset()
	<-ctx.Done()

	m.shut(&m.closed)
	patience := time.AfterFunc(m.limits.Grace, func() { endAttempts(errClosed) })
	workers.Wait()
	patience.Stop()
	m.shut(&m.results.drained)
	patience = time.AfterFunc(m.limits.Grace, endSettling)
	settlers.Wait()
	patience.Stop()
	endAttempts(errClosed)
	loops.Wait()
	return nil
}

func (m *Manager) shut(flag *bool) {
	m.mu.Lock()
	*flag = true
	m.work.Broadcast()
	m.results.wake.Broadcast()
	m.mu.Unlock()
}

// Add tells of entries that this node owns: new ones, and new due times of known
// ones. An entry that is known, waits and is made due at once is taken as an
// operator's retry: it also ends the back-off of its destination. Add does not
// block and may be called from any goroutine.
func (m *Manager) Add(items []Waiting) {
	m.mu.Lock()
	now := m.now().UnixNano()
	for i := range items {
		m.queue.Put(&items[i], now, false)
	}
	m.unlock()
}

// Drop tells of entries that are settled, deleted, or owned by another node
// now. An attempt that runs goes on; the spool refuses its verdict. Drop does
// not block.
func (m *Manager) Drop(refs []Ref) {
	m.mu.Lock()
	now := m.now().UnixNano()
	for _, r := range refs {
		m.queue.Drop(r, now)
	}
	m.unlock()
}

// Reset says that ownership changed: the manager scans the spool again, beside
// its work. An entry that the scan does not report and that is not active is
// forgotten. Reset does not block; calls while a scan runs lead to one more scan.
func (m *Manager) Reset() {
	select {
	case m.rescan <- struct{}{}:
	default:
	}
}

// unlock wakes a worker if there is work for one; that one wakes the next. It wakes the
// scheduler if it sleeps for longer than it may now.
func (m *Manager) unlock() {
	if at := m.queue.Earliest(); at < m.sleep {
		m.sleep = at
		m.poke()
	}
	if m.idle > 0 && m.queue.HasWork() {
		m.work.Signal()
	}
	m.mu.Unlock()
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// schedule moves what has become due, in slices, and sleeps until the next.
func (m *Manager) schedule(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		if m.round() {
			runtime.Gosched()
			continue
		}
		m.mu.Lock()
		at := m.sleep
		m.mu.Unlock()
		timer.Reset(min(max(time.Unix(0, at).Sub(m.now()), 0), longSleep))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-m.wake:
		}
	}
}

// longSleep bounds what a suspend, or a step of the clock, can make mail wait.
const longSleep = 5 * time.Second

// round does one slice of the scheduler's work and reports whether there is
// more to do at once.
func (m *Manager) round() (more bool) {
	m.mu.Lock()
	defer m.unlock()
	p := m.policy.Load()
	more = m.queue.Advance(m.now().UnixNano(), readyq.Ages{
		Lifetime: p.Lifetime, DelayNotice: p.DelayNotice, Reliable: m.ageing(), Own: p.own,
	})
	m.sleep = m.queue.Earliest()
	return more
}

// scanner reads the spool at the start and after every Reset.
func (m *Manager) scanner(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.rescan:
		}
		for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
			err := m.scan(ctx)
			if err == nil || ctx.Err() != nil {
				break
			}
			m.log.Warn("queue: scan failed, trying again", zap.Error(err), zap.Duration("in", wait))
			if !pause(ctx, wait) {
				return
			}
		}
	}
}

func (m *Manager) scan(ctx context.Context) error {
	m.mu.Lock()
	m.queue.BeginScan()
	m.mu.Unlock()
	m.unfreeze()
	buf := make([]Waiting, 0, readyq.Slice)
	flush := func() {
		m.mu.Lock()
		now := m.now().UnixNano()
		for i := range buf {
			m.queue.Put(&buf[i], now, true)
		}
		m.unlock()
		buf = buf[:0]
	}
	err := m.conf.Spool.Scan(ctx, func(w Waiting) {
		if buf = append(buf, w); len(buf) == readyq.Slice {
			flush()
		}
	})
	flush()
	if err != nil {
		return err
	}
	m.sweep()
	m.poke() // what is due may have changed by the clock alone
	return nil
}

// unfreeze ends back-offs that reach further than they can: the clock has stepped
// back since they began.
func (m *Manager) unfreeze() {
	for next, first := 0, true; first || next > 0; first = false {
		m.mu.Lock()
		next = m.queue.Unfreeze(next, m.now().UnixNano())
		m.unlock()
	}
}

// sweep forgets what the scan that just ended has not seen.
func (m *Manager) sweep() {
	for next, first := int32(0), true; first || next > 0; first = false {
		m.mu.Lock()
		next = m.queue.Sweep(next, m.now().UnixNano())
		m.unlock()
	}
}

// pause waits; false: ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// watch ends the attempts when this node's right to act has ended, and lets
// workers go on when it is back. It runs until the last attempt has ended.
func (m *Manager) watch(base context.Context) {
	const look = time.Second // a lease can also be given up before its time; with the clock's seconds
	for {
		now, until := time.Now(), m.conf.Spool.Until()
		wait := 100 * time.Millisecond
		m.mu.Lock()
		switch {
		case !now.Before(until):
			m.stopActing()
		default:
			wait = min(until.Sub(now), now.Truncate(look).Add(look).Sub(now))
			if !m.right.held {
				m.right.held = true
				m.right.lease, m.right.end = context.WithCancelCause(base)
				m.work.Broadcast()
			}
		}
		m.mu.Unlock()
		if !pause(base, wait) {
			return
		}
	}
}

// stopActing ends all attempts. It needs m.mu.
func (m *Manager) stopActing() {
	if m.right.held {
		m.right.held = false
		m.right.end(errLease)
	}
}

// live is Job.Live.
func (m *Manager) live() error {
	if !time.Now().Before(m.conf.Spool.Until()) {
		return errLease
	}
	return nil
}
