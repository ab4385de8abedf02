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

	mu          sync.Mutex
	work        sync.Cond // workers wait here
	settles     sync.Cond // settlers wait here
	table       table
	heap        heap
	dests       dests
	rings       [3][2]ring // by class, then 0 unproven and 1 proven
	inRings     int
	count       [active + 1]int
	idle        int            // workers waiting
	unproven    int            // jobs to destinations that are not proven
	spreads     map[ID]*spread // by message: those jobs
	turn        uint
	expiryScans []expiryScan
	mark        uint8
	sleep       int64 // the scheduler sleeps until then
	closed      bool  // no new attempts
	drained     bool  // no worker will hand in verdicts
	may         bool  // this node may act, as of the last look
	lease       context.Context
	endLease    context.CancelCauseFunc
	pending     []*unit
	unsettled   int
	totals      Totals
}

type policy struct {
	RetryPolicy
	schedule Schedule
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
		table:  newTable(),
		dests:  newDests(),

		spreads: map[ID]*spread{},
	}
	m.heap.t = &m.table
	m.work.L, m.settles.L = &m.mu, &m.mu
	for i := range m.rings {
		m.rings[i] = [2]ring{{none}, {none}}
	}
	m.SetPolicy(c.Policy)
	return m
}

// now is the time by which mail is due and ages.
func (m *Manager) now() time.Time { return m.conf.Now() }

func (m *Manager) ageing() bool { return m.conf.Ageing == nil || m.conf.Ageing() }

// SetPolicy replaces the retry policy for all verdicts from now on. Due times
// that are set already stay.
func (m *Manager) SetPolicy(p RetryPolicy) {
	p = p.withDefaults()
	s := m.conf.Schedule
	if s == nil {
		s = p.Schedule()
	}
	m.policy.Store(&policy{RetryPolicy: p, schedule: s})
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
	m.shut(&m.drained)
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
	m.settles.Broadcast()
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
		m.put(&items[i], now, false)
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
		slot, ok := m.table.index[r]
		if !ok {
			continue
		}
		if e := m.table.at(slot); e.state == active {
			e.flags = e.flags&^(flagTouched|flagParked) | flagDropped
			continue
		}
		m.unlink(slot, now)
		m.forget(slot)
	}
	m.unlock()
}

// Reset says that ownership changed: the manager scans the spool again, beside
// its work. What the scan does not report and is not active is forgotten. Reset
// does not block; calls while a scan runs lead to one more scan.
func (m *Manager) Reset() {
	select {
	case m.rescan <- struct{}{}:
	default:
	}
}

// unlock wakes a worker if there is work for one; that one wakes the next.
func (m *Manager) unlock() {
	if m.inRings > 0 && m.idle > 0 {
		m.work.Signal()
	}
	m.mu.Unlock()
}

func class(priority int32) uint8 {
	switch {
	case priority > 0:
		return classHigh
	case priority < 0:
		return classLow
	}
	return classNormal
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func (m *Manager) destination(w *Waiting) int32 {
	route := w.Route
	if route == "" && m.conf.Route != nil {
		route = m.conf.Route(w.Domain)
	}
	return m.dests.find(w.Domain, route)
}

// put takes one Waiting in. A scan may be older than what the manager knows.
func (m *Manager) put(w *Waiting, now int64, scan bool) {
	slot, known := m.table.index[w.Ref]
	if !known {
		n := m.destination(w)
		var e *entry
		slot, e = m.table.add(w.Ref)
		e.dest, e.mark = n, m.mark
		m.dests.all[n].total++
		fill(e, w)
		m.settleIn(slot, now, w.Parked, false)
		return
	}
	e := m.table.at(slot)
	e.mark = m.mark
	if e.state == active {
		if scan {
			e.flags |= flagScanned
		} else {
			m.touch(e, w)
		}
		return
	}
	if w.Attempts < e.attempts {
		return // from before the last settlement
	}
	n, next := m.destination(w), nanos(w.Next)
	if n == e.dest && next == e.due && w.Parked == (e.state == parked) {
		return
	}
	retry := !scan && !w.Parked && e.state != parked && next != e.due && next <= now
	m.unlink(slot, now)
	m.move(e, n)
	fill(e, w)
	if d := m.dests.all[n]; retry && d.down(now) {
		d.ctl.until = 0
	}
	m.settleIn(slot, now, w.Parked, retry)
}

func fill(e *entry, w *Waiting) {
	e.due, e.attempts, e.class = nanos(w.Next), w.Attempts, class(w.Priority)
	if !w.Expires.IsZero() {
		e.expires = uint32(w.Expires.Unix())
	}
}

// touch remembers what Add says of an active entry until it is not active.
func (m *Manager) touch(e *entry, w *Waiting) {
	m.move(e, m.destination(w))
	fill(e, w)
	e.flags = e.flags&^(flagDropped|flagParked) | flagTouched
	if w.Parked {
		e.flags |= flagParked
	}
}

// wakeBefore wakes the scheduler if it sleeps for longer.
func (m *Manager) wakeBefore(at int64) {
	if at < m.sleep {
		m.sleep = at
		m.poke()
	}
}

func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

const slice = 512 // entries touched under one hold of the lock

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

const forever = int64(1<<63 - 1)

// longSleep bounds what a suspend, or a step of the clock, can make mail wait.
const longSleep = 5 * time.Second

// round does one slice of the scheduler's work and reports whether there is
// more to do at once.
func (m *Manager) round() (more bool) {
	m.mu.Lock()
	defer m.unlock()
	now := m.now().UnixNano()
	for range slice {
		if len(m.heap.items) == 0 || m.heap.items[0].at > now {
			break
		}
		x := m.heap.remove(0)
		if x.slot < 0 {
			m.replace(^x.slot, now)
			continue
		}
		m.enlist(x.slot, false)
		m.replace(m.table.at(x.slot).dest, now)
	}
	m.step(now)
	m.sleep = forever
	if len(m.heap.items) > 0 {
		m.sleep = m.heap.items[0].at
	}
	return m.sleep <= now || len(m.expiryScans) > 0
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
	m.mark++
	m.mu.Unlock()
	m.unfreeze()
	buf := make([]Waiting, 0, slice)
	flush := func() {
		m.mu.Lock()
		now := m.now().UnixNano()
		for i := range buf {
			m.put(&buf[i], now, true)
		}
		m.unlock()
		buf = buf[:0]
	}
	err := m.conf.Spool.Scan(ctx, func(w Waiting) {
		if buf = append(buf, w); len(buf) == slice {
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
	for from := 0; ; from += slice {
		m.mu.Lock()
		if from >= len(m.dests.all) {
			m.unlock()
			return
		}
		now := m.now().UnixNano()
		for n := from; n < min(from+slice, len(m.dests.all)); n++ {
			d := m.dests.all[n]
			if d == nil || d.ctl == nil || d.ctl.until-now <= int64(d.ctl.step) {
				continue
			}
			d.ctl.until = now + int64(d.ctl.step)
			m.heap.push(due{at: d.ctl.until, slot: ^int32(n)})
			m.wakeBefore(d.ctl.until)
		}
		m.unlock()
	}
}

// sweep forgets what the scan that just ended has not seen.
func (m *Manager) sweep() {
	for from := int32(0); ; from += chunkSize {
		m.mu.Lock()
		if from >= m.table.top {
			m.unlock()
			return
		}
		now := m.now().UnixNano()
		for slot := from; slot < min(from+chunkSize, m.table.top); slot++ {
			e := m.table.at(slot)
			if e.state == free || e.state == active || e.mark == m.mark {
				continue
			}
			m.unlink(slot, now)
			m.forget(slot)
		}
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
	const look = time.Second // a lease can also be given up before its time
	for {
		now, until := time.Now(), m.conf.Spool.Until()
		wait := 100 * time.Millisecond
		m.mu.Lock()
		switch {
		case !now.Before(until):
			m.stopActing()
		default:
			wait = min(until.Sub(now), look)
			if !m.may {
				m.may = true
				m.lease, m.endLease = context.WithCancelCause(base)
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
	if m.may {
		m.may = false
		m.endLease(errLease)
	}
}

// live is Job.Live.
func (m *Manager) live() error {
	if !time.Now().Before(m.conf.Spool.Until()) {
		return errLease
	}
	return nil
}
