// Package outbound is the replicated queue as a node's queue manager sees it: what the node
// owns, what it settles, how mail is signed, and what is handed over by a drain.
package outbound

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/plan"
	"relay/node/replica"
	"relay/node/statelog"
	"relay/queue"
	"relay/queue/remote"
	"relay/queue/replyclass"
	"relay/queue/retry"
	"relay/smtp/printable"
)

// Spool is the replicated queue as this node's queue manager sees it. It
// meets queue.Spool and remote.Router.
//
// BDAT where the next hop has it, so that a message goes out as it came in, an unended last line
// included; DATA would end it. The price is nil: the envelope and the message are two round trips
// either way. [delivery] chunking = false goes back to DATA.
type Spool struct {
	replica    replica.Fenced
	node       string
	hostname   string
	log        *zap.Logger
	retry      queue.RetryPolicy // overrides of this node; zero fields: none
	epoch      atomic.Uint64     // this node's session as of the applied state
	rerouting  sync.Mutex        // orders those who read the routes
	routes     atomic.Pointer[routeTable]
	logins     map[loginKey]*remote.Login // of the routes; rerouting guards it
	certs      map[certKey]*remote.Cert   // the same
	unsigned   atomic.Bool                // no domain has a key to sign with
	timing     atomic.Pointer[pb.TimeState]
	routesRead atomic.Bool // as they are now
	routesNext time.Time   // many routes are not read again before; Refresh alone uses it
	rerouted   atomic.Bool // and the manager has not been told yet
	chose      atomic.Bool // there were routes for some senders since the start
	owners     atomic.Pointer[spool.Owners]
	leaving    atomic.Bool   // this node is drained: others will have its entries
	left       chan struct{} // tells HandOver that leaving is set
	rules      rules

	retryRules  atomic.Pointer[retry.Table]      // of the site; nil: there are none
	replyRules  atomic.Pointer[[]string]         // of the site, as the manager has them; nil: it was told none yet
	replies     atomic.Pointer[replyclass.Table] // of the site; nil: there are none
	suppressing atomic.Bool                      // addresses are on the suppression list, or were
}

// New makes the queue of a node. retry overrides the cluster's settings; its
// zero fields do not.
func New(r replica.Fenced, node, hostname string, retry queue.RetryPolicy, log *zap.Logger) *Spool {
	o := &Spool{
		replica: r, node: node, hostname: hostname, retry: retry, log: log, left: make(chan struct{}, 1),
	}
	o.rules.stale.Store(true)
	o.rules.lines.some = make(chan struct{}, 1)
	return o
}

// waiting converts a queue entry.
func waiting(id spool.ID, n uint32, r *pb.Recipient) queue.Waiting {
	return queue.Waiting{
		Ref: queue.Ref{ID: queue.ID(id), Recipient: n}, Domain: spool.DomainOf(r.Address), Route: r.Route,
		Next: time.UnixMilli(r.NextMs), Attempts: r.Attempts, Priority: r.Priority, Expires: moment(r.ExpiresMs),
		Parked: r.State == pb.State_HELD || r.State == pb.State_SUSPENDED,
	}
}

// moment is the zero time for 0.
func moment(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// Scan implements queue.Spool.
func (o *Spool) Scan(ctx context.Context, add func(queue.Waiting)) error {
	return o.replica.Frozen(func(v spool.View, _ uint64) error {
		session, ok, err := v.Session(o.node)
		if err != nil || !ok || o.leaving.Load() {
			return err
		}
		after, err := o.afterJumps(v)
		if err != nil {
			return err
		}
		var unread error
		set, routes := o.Rules(), o.routes.Load()
		last := lastMessage{v: v}
		err = v.Owned(session.Epoch, func(id spool.ID, n uint32, r *pb.Recipient) {
			if ctx.Err() != nil || unread != nil {
				return
			}
			w := waiting(id, n, r)
			if w.Next, unread = after.due(id, r); set.Queues() && unread == nil {
				unread = o.scanRuled(set, &last, &w, r)
			}
			if unread == nil {
				unread = routes.choose(&last, &w)
			}
			add(w)
		})
		if err = errors.Join(err, unread); err == nil {
			err = ctx.Err()
		}
		return err
	})
}

// afterJumps reads what due times go by beside themselves.
func (o *Spool) afterJumps(v spool.View) (*jumped, error) {
	ts, err := v.TimeState()
	if err != nil {
		return nil, err
	}
	settings, err := v.Settings()
	return &jumped{ts: ts, now: o.replica.Now(), policy: o.retryPolicy(settings),
		message: func(id spool.ID) (*pb.Message, error) {
			m, _, err := v.Message(id)
			return m, err
		}}, err
}

// Load implements queue.Spool.
func (o *Spool) Load(_ context.Context, id queue.ID, recipients []uint32) (*queue.Job, error) {
	var job *queue.Job
	err := o.replica.View(func(v spool.View) error {
		m, ok, err := v.Message(spool.ID(id))
		if err != nil {
			return err
		}
		if !ok {
			return queue.ErrGone
		}
		settings, err := v.Settings()
		if err != nil {
			return err
		}
		job = o.job(id, m, settings)
		job.Ruled = o.rules.had.Load() || o.chose.Load()
		if err := o.recipients(v, job, m, recipients); err != nil {
			return err
		}
		o.expiries(job, m, settings)
		return o.suppressions(v, job)
	})
	if err != nil {
		return nil, err
	}
	if len(job.Recipients) == 0 {
		return nil, queue.ErrGone
	}
	return job, nil
}

func (o *Spool) job(id queue.ID, m *pb.Message, s *pb.Settings) *queue.Job {
	m = plan.Mended(m, o.timing.Load())
	created := time.UnixMilli(m.CreatedMs)
	job := &queue.Job{
		ID: id, Created: created, Expires: plan.Expiry(m, s, o.retry.Lifetime), Sender: m.Sender, Size: int64(m.Size),
		EightBit: m.Body != pb.Body_BODY_7BIT, Binary: m.Body == pb.Body_BODY_BINARYMIME, UTF8: m.Smtputf8,
		Unended: m.Unended, Stranger: !m.Ours && m.GetClient().GetUser() == "",
		RequireTLS: m.Requiretls, Ret: m.Ret, EnvID: m.Envid, IsBounce: len(m.BounceOf) > 0,
		Released: moment(m.HoldUntilMs), Priority: m.Priority,
	}
	if m.DeliverByMs != 0 {
		job.DeliverBy = &queue.DeliverBy{
			Until: time.UnixMilli(m.DeliverByMs), Return: m.DeliverByReturn, Trace: m.DeliverByTrace,
		}
	}
	chunks := m.Chunks
	job.Open = func() (io.ReadCloser, error) { return o.replica.OpenBody(spool.ID(id), chunks, nil) }
	if m.Ours && !o.unsigned.Load() {
		job.Open = func() (io.ReadCloser, error) { return o.openSigned(spool.ID(id), m) }
	}
	return job
}

// expiries says when recipients are given up whose domain has a time of its own.
func (o *Spool) expiries(job *queue.Job, m *pb.Message, s *pb.Settings) {
	own := o.retryRules.Load()
	if !own.Ages() || o.retry.Lifetime > 0 {
		return
	}
	m = plan.Mended(m, o.timing.Load())
	for i := range job.Recipients {
		r := &job.Recipients[i]
		if life := own.Of(spool.DomainOf(r.Address), replyclass.None).Lifetime; life > 0 {
			r.Expires = plan.Expiry(m, s, life)
		}
	}
}

// owns reports whether an entry is this node's as of the last refresh; Settle
// is what fences.
func (o *Spool) owns(home uint64, id spool.ID) bool {
	owners, epoch := o.owners.Load(), o.epoch.Load()
	return !o.leaving.Load() && owners != nil && epoch != 0 && owners.Of(home, id) == epoch
}

// recipients adds those that are open, not parked and ours.
func (o *Spool) recipients(v spool.View, job *queue.Job, m *pb.Message, numbers []uint32) error {
	set, routes := o.Rules(), o.routes.Load()
	for _, n := range numbers {
		r, ok, err := v.Recipient(spool.ID(job.ID), n)
		if err != nil {
			return err
		}
		if !ok || r.State == pb.State_HELD || r.State == pb.State_SUSPENDED || !o.owns(r.Home, spool.ID(job.ID)) {
			continue
		}
		job.Recipients = append(job.Recipients, queue.Recipient{
			N: n, Address: r.Address, Original: r.Original, Addressed: r.Addressed, Notify: r.Notify, Attempts: r.Attempts,
			DelayTold: r.DelayTold, LastReply: r.LastReply,
		})
		if q := &job.Recipients[len(job.Recipients)-1]; job.Ruled {
			if q.Ruling = o.ruling(set, m, r); q.Ruling == nil {
				q.Ruling = &queue.Ruling{}
			}
			if q.Ruling.Via = r.Route; r.Route == "" {
				q.Ruling.Via = routes.chosen(spool.DomainOf(r.Address), m)
			}
		}
	}
	return nil
}

// Settle implements queue.Spool. When it returns, this node has applied what
// the leader answered: a scan or a load that begins later can not bring back
// what was settled. A verdict that was stale only because this node has begun another
// session since the attempt is proposed again in its name: the entry stayed active
// here all the time, so nobody tried it beside.
func (o *Spool) Settle(ctx context.Context, verdicts []queue.Verdict,
	notices []queue.Notice) (taken []queue.Taken, err error) {
	h := &pb.Settle{Node: o.node, Verdicts: make([]*pb.Verdict, len(verdicts))}
	for i := range verdicts {
		h.Verdicts[i] = verdictRecord(&verdicts[i])
	}
	o.suppress(verdicts, h.Verdicts)
	for i := range notices {
		if n := o.notice(&notices[i]); n != nil {
			h.Notices = append(h.Notices, n)
		}
	}
	h.Epoch = o.epoch.Load()
	defer func() {
		if err == nil {
			o.logNotices(h.Notices, verdicts, taken)
		}
	}()
	taken, err = o.settle(ctx, h)
	if err != nil || !slices.Contains(taken, queue.Stale) {
		return taken, err
	}
	epoch, err := o.session()
	if err != nil || epoch == h.Epoch || epoch == 0 {
		return taken, err
	}
	h.Epoch = epoch
	return o.settleAgain(ctx, h, taken)
}

// logNotices tells of the reports that were made: those on messages of which a
// verdict was taken.
func (o *Spool) logNotices(notices []*pb.Notice, verdicts []queue.Verdict, taken []queue.Taken) {
	if len(notices) == 0 {
		return
	}
	about := map[queue.ID]bool{}
	for i := range verdicts {
		about[verdicts[i].ID] = about[verdicts[i].ID] || taken[i] == queue.Applied
	}
	for _, n := range notices {
		var id queue.ID
		copy(id[:], n.About)
		if about[id] {
			statelog.LogNotice(o.log, n)
		}
	}
}

// settle proposes verdicts and waits until the answer is true here too. The
// wait is not what decides: a node that stops keeps the answer.
func (o *Spool) settle(ctx context.Context, h *pb.Settle) ([]queue.Taken, error) {
	res, err := replica.Propose(ctx, o.replica, spool.KindSettle, h)
	if err != nil {
		if errors.Is(err, cluster.ErrUnknown) {
			err = fmt.Errorf("%w: %w", queue.ErrUnknown, err)
		}
		return nil, err
	}
	if err := o.replica.WaitApplied(ctx, res.Index); err != nil {
		o.log.Debug("settled, but not applied here", zap.Uint64("index", res.Index), zap.Error(err))
	}
	taken := make([]queue.Taken, len(h.Verdicts))
	for i := range taken {
		taken[i] = takenOf(res, i, h.Verdicts[i])
	}
	return taken, nil
}

// settleAgain proposes what was stale, with all notices: the spool makes those
// whose cause it takes.
func (o *Spool) settleAgain(ctx context.Context, h *pb.Settle, taken []queue.Taken) ([]queue.Taken, error) {
	all, stale := h.Verdicts, []int(nil)
	h.Verdicts = nil
	for i, t := range taken {
		if t == queue.Stale {
			stale, h.Verdicts = append(stale, i), append(h.Verdicts, all[i])
		}
	}
	again, err := o.settle(ctx, h)
	if err != nil {
		return nil, err // all of it comes again; an entry that was taken is known by then
	}
	for k, i := range stale {
		taken[i] = again[k]
	}
	return taken, nil
}

// session returns the epoch of this node's session as applied here, 0 without.
func (o *Spool) session() (epoch uint64, err error) {
	err = o.replica.View(func(v spool.View) error {
		s, ok, err := v.Session(o.node)
		if ok {
			epoch = s.Epoch
		}
		return err
	})
	return epoch, err
}

func takenOf(res *pb.Result, i int, v *pb.Verdict) queue.Taken {
	if i >= len(res.Codes) {
		return queue.Gone
	}
	switch res.Codes[i] {
	case pb.Code_OK:
		return queue.Applied
	case pb.Code_DUPLICATE:
		if v.State == pb.State_DEFERRED {
			return queue.Applied
		}
		return queue.Stale // an end that was taken leaves no entry: somebody else tried it since
	case pb.Code_STALE:
		return queue.Stale
	}
	return queue.Gone
}

func verdictRecord(v *queue.Verdict) *pb.Verdict {
	rec := &pb.Verdict{
		Id: v.ID[:], Recipient: v.Recipient, Attempt: v.Attempt, Reply: printable.Text(v.Reply, 512),
		Host: printable.Text(v.Host, 255), Tls: v.TLS,
		AtMs: v.At.UnixMilli(), DelayTold: v.DelayTold,
	}
	switch v.Outcome {
	case queue.Delivered:
		rec.State = pb.State_DELIVERED
	case queue.Failed:
		rec.State = pb.State_BOUNCED
	case queue.Expired:
		rec.State = pb.State_EXPIRED
	case queue.Discarded:
		rec.State = pb.State_DELETED
	default:
		rec.State, rec.NextMs = pb.State_DEFERRED, v.Next.UnixMilli()
	}
	return rec
}

// notice makes the Accept of a report. One on a message that must not travel in
// clear does not either (RFC 8689 §5).
func (o *Spool) notice(n *queue.Notice) *pb.Notice {
	secret, version := false, uint32(0)
	_ = o.replica.View(func(v spool.View) error {
		m, _, err := v.Message(spool.ID(n.About))
		secret = m.GetRequiretls()
		if c, _, e := v.Cluster(); e == nil {
			version = spool.VersionOf(c)
		}
		return err
	})
	made := plan.NewNotice(o.replica, o.node, n, secret, o.log)
	if made != nil && version >= 2 {
		made.Recipients = n.Of
	}
	return made
}

// Until implements queue.Spool.
func (o *Spool) Until() time.Time { return o.replica.Until() }

// Feed tells the queue manager what a commit did to the queue. It runs on the
// apply goroutine and does not block.
func (o *Spool) Feed(m *queue.Manager, c spool.Changes) {
	o.directoryChanges(c)
	if c.Rules || c.Restored {
		o.rulesChange()
	}
	if c.Suppressed || c.Restored {
		o.suppressing.Store(true)
	}
	mine := o.epoch.Load()
	if len(c.Queued) > 0 && mine != 0 && !o.leaving.Load() {
		add := make([]queue.Waiting, 0, len(c.Queued))
		after := o.justJumped()
		for i := range c.Queued {
			if q := &c.Queued[i]; q.Owner == mine {
				add = append(add, queue.Waiting{
					Ref: queue.Ref{ID: queue.ID(q.ID), Recipient: q.Recipient}, Domain: q.Domain, Route: q.Route,
					Next: time.UnixMilli(q.NextMs), Attempts: q.Attempts, Priority: q.Priority, Size: q.Size,
					Expires: moment(q.ExpiresMs), Parked: q.State == pb.State_HELD || q.State == pb.State_SUSPENDED,
				})
				if w := &add[len(add)-1]; after != nil && w.Attempts > 0 {
					w.Next = after.retry(w.Next, w.Attempts)
				}
			}
		}
		if set, routes := o.Rules(), o.routes.Load(); set.Queues() || routes.choosy() {
			o.feedRuled(set, routes, add)
		}
		o.retries(c.Queued, mine, add)
		if len(add) > 0 {
			m.Add(add)
		}
	}
	if len(c.Settled) > 0 && mine != 0 {
		drop := make([]queue.Ref, len(c.Settled))
		for i, q := range c.Settled {
			drop[i] = queue.Ref{ID: queue.ID(q.ID), Recipient: q.Recipient}
		}
		m.Drop(drop)
	}
}

// Refresh reads what feed and Route go by: this node's session, the routes and
// the retry policy. Entries that arrive between the store of a new epoch and the Reset
// are found by the scan that Reset makes.
func (o *Spool) Refresh(m *queue.Manager) error {
	var settings *pb.Settings
	var epoch uint64
	var owners spool.Owners
	var leaving bool
	var timing *pb.TimeState
	var suppressed int64
	err := o.replica.View(func(v spool.View) (err error) {
		if suppressed, err = v.Counter(spool.CountSuppressed); err != nil {
			return err
		}
		if timing, err = v.TimeState(); err != nil {
			return err
		}
		if leaving, err = leaves(v, o.node); err != nil {
			return err
		}
		if owners, err = v.Owners(); err != nil {
			return err
		}
		s, ok, err := v.Session(o.node)
		if err != nil {
			return err
		}
		if ok {
			epoch = s.Epoch
		}
		settings, err = v.Settings()
		return err
	})
	if err == nil {
		err = o.rerouteInTime()
	}
	if err == nil {
		err = o.readSigns()
	}
	if err == nil && (o.rules.stale.Load() || o.rulesEnded()) {
		err = o.reread()
	}
	if err != nil {
		o.routesNext = time.Now().Add(routesPause) // if they are what could not be read
		return err
	}
	if suppressed > 0 {
		o.suppressing.Store(true)
	}
	before := o.owners.Swap(&owners)
	jumped := o.timing.Swap(timing).GetJumpedIndex() != timing.JumpedIndex
	left := o.leaving.Swap(leaving) != leaving
	if left && leaving {
		o.leave()
	}
	moved := o.epoch.Swap(epoch) != epoch || left || before == nil || !owners.Equal(*before)
	o.setPolicies(m, settings)
	if rerouted, ruled := o.rerouted.Swap(false), o.rules.changed.Swap(false); moved || rerouted || ruled || jumped {
		m.Reset()
	}
	return nil
}

// setPolicies hands on what the settings say of retries, notices and replies.
func (o *Spool) setPolicies(m *queue.Manager, settings *pb.Settings) {
	policy := o.retryPolicy(settings)
	m.SetPolicy(policy)
	o.retryRules.Store(policy.Rules)
	m.SetTemplate(plan.Template(settings))
	o.setReplies(m, settings.GetReplyRules())
}

// setReplies hands on the site's own rules of what replies mean, where they have changed. Rules of a newer build that
// this one can not read do not count.
func (o *Spool) setReplies(m *queue.Manager, rules []string) {
	if now := o.replyRules.Load(); now != nil && slices.Equal(*now, rules) {
		return
	}
	table, _ := replyclass.Parse(rules)
	m.SetReplies(table)
	o.replies.Store(table)
	o.replyRules.Store(&rules)
}

// retryPolicy is the replicated policy, with this node's overrides.
func (o *Spool) retryPolicy(s *pb.Settings) queue.RetryPolicy {
	ms := func(own time.Duration, shared int64) time.Duration {
		if own > 0 {
			return own
		}
		return time.Duration(shared) * time.Millisecond
	}
	own, _ := retry.Parse(s.GetRetryRules())
	return queue.RetryPolicy{
		First: ms(o.retry.First, s.GetRetryFirstMs()), Max: ms(o.retry.Max, s.GetRetryMaxMs()),
		Lifetime: ms(o.retry.Lifetime, s.GetExpireMs()), Rules: own,
		DelayNotice: time.Duration(s.GetDelayNoticeMs()) * time.Millisecond,
		Slow:        replyclass.ByNames(s.GetSlowClasses()),
	}
}
