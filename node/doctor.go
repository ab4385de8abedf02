package node

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"relay/cluster/spool"
	"relay/node/admin"
	"relay/node/doctor"
	"relay/queue"
)

// Bounds of an examination.
const (
	examineWithin = 4 * time.Second // what has to be asked; relayctl turns to another node after 5 s
	examineEvery  = time.Minute
	sampleKeep    = 24 * time.Hour
	sampleMost    = 1500
	growthOver    = time.Hour
)

// examiner finds out the facts that package doctor judges: all of them when it is
// asked, and each minute those that are at hand, for the metrics. Its methods may
// be called concurrently.
type examiner struct {
	n    *Node
	last atomic.Pointer[[]doctor.Finding] // of the metrics; nil: none yet

	mu      sync.Mutex
	samples []sample // oldest first
}

var _ admin.Doctor = (*examiner)(nil)

// sample is what rates are made of.
type sample struct {
	at         time.Time // with the monotonic clock
	used       uint64    // octets of the disk
	history    uint64    // octets
	recipients uint64
	writes     uint64 // to the log, since the start
	writeTime  time.Duration
	failures   queue.Failures // of attempts, for now and for good, since the start
}

// run examines each minute until ctx ends. A node that has just been started knows no leader
// yet, which is no fault: the first examination waits until it is ready, a minute at most.
func (e *examiner) run(ctx context.Context) error {
	e.awaitReady(ctx)
	t := time.NewTicker(examineEvery)
	defer t.Stop()
	for {
		e.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (e *examiner) awaitReady(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, examineEvery)
	defer cancel()
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for e.n.cluster.Ready() != nil {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// look takes a sample and judges what is at hand.
func (e *examiner) look(ctx context.Context) {
	now := e.sample()
	e.mu.Lock()
	e.samples = append(e.samples, now)
	for len(e.samples) > sampleMost || now.at.Sub(e.samples[0].at) > sampleKeep {
		e.samples = e.samples[1:]
	}
	e.mu.Unlock()
	all := doctor.Judge(e.facts(ctx, now, false))
	if ctx.Err() == nil {
		e.last.Store(&all)
	}
}

// sample measures now. Counters that can't be read are 0.
func (e *examiner) sample() sample {
	log, _ := e.n.cluster.Metrics()
	s := sample{at: time.Now(), writes: log.Appends, writeTime: log.WriteTime}
	for _, o := range []queue.Outcome{queue.Deferred, queue.Failed} {
		for class, n := range e.n.queue.Failures(o) {
			s.failures[class] += n
		}
	}
	total := e.n.storage.total.Load()
	s.used = total - min(total, e.n.storage.free.Load())
	_ = e.n.cluster.View(func(v spool.View) error {
		for name, into := range map[string]*uint64{
			spool.CountHistoryBytes: &s.history, spool.CountQueueRecipients: &s.recipients,
		} {
			n, err := v.Counter(name)
			if err != nil {
				return err
			}
			*into = uint64(max(n, 0))
		}
		return nil
	})
	return s
}

// since is the oldest sample that is no older than a span; false: there is none
// before now.
func (e *examiner) since(now sample, span time.Duration) (sample, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.samples {
		if d := now.at.Sub(s.at); d > 0 && d <= span {
			return s, true
		}
	}
	return sample{}, false
}

// Examine implements admin.Doctor.
func (e *examiner) Examine(ctx context.Context, o admin.ExamineOptions) (*admin.Examination, error) {
	ctx, cancel := context.WithTimeout(ctx, examineWithin)
	defer cancel()
	f := e.facts(ctx, e.sample(), true)
	e.askNames(ctx, f, o.Outward)
	x := &admin.Examination{Node: f.Node, At: admin.At(f.Now), OK: true, Conditions: []admin.Condition{}}
	for _, one := range doctor.Judge(f) {
		x.OK = x.OK && !one.Severity.Wrong()
		x.Conditions = append(x.Conditions, admin.Condition{
			Name: one.Condition, Severity: string(one.Severity), Summary: one.Summary, Evidence: one.Evidence, Next: one.Next,
		})
	}
	return x, nil
}

// facts are those for which nobody outside the cluster is asked. With all, what
// takes a pass over all accounts is among them.
func (e *examiner) facts(ctx context.Context, now sample, all bool) *doctor.Facts {
	n := e.n
	f := &doctor.Facts{Node: n.conf.Node.ID, Hostname: n.conf.Node.Hostname, Now: n.cluster.Now()}
	e.clusterFacts(ctx, f)
	e.machineFacts(f, now)
	e.mailFacts(f, now, all)
	e.accessFacts(f)
	f.Certificates = e.certificates()
	const later = "it is only looked at when somebody asks"
	f.DNS, f.Names = doctor.Not[doctor.DNS](later), doctor.Not[doctor.Names](later)
	f.Domains = doctor.Not[[]doctor.Domain](later)
	f.Outward = doctor.Not[[]doctor.Reach]("it is only tried with --outward")
	return f
}
