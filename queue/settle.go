package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"relay/queue/replyclass"
)

// measure estimates what a unit adds to a Settle.
func (u *unit) measure() {
	u.size = 0
	for i := range u.verdicts {
		v := &u.verdicts[i]
		u.size += 64 + len(v.Reply) + len(v.Host) + len(v.TLS)
	}
	for i := range u.notices {
		u.size += 512 + len(u.notices[i].Body)
	}
}

// settler commits verdicts, as many at a time as have arrived while it was
// busy: few when it is quiet, hundreds under load, with no timer in between.
func (m *Manager) settler(ctx context.Context) {
	for {
		units := m.collect()
		if units == nil {
			return
		}
		m.commit(ctx, units)
	}
}

// collect waits for units; nil: there are none and will be none.
func (m *Manager) collect() []*unit {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.results.pending) == 0 {
		if m.results.drained {
			return nil
		}
		m.results.wake.Wait()
	}
	verdicts, size, n := 0, 0, 0
	for _, u := range m.results.pending {
		verdicts, size = verdicts+len(u.verdicts), size+u.size
		if n > 0 && (verdicts > m.limits.Verdicts || size > m.limits.Bytes) {
			break
		}
		n++
	}
	units := append([]*unit(nil), m.results.pending[:n]...)
	left := copy(m.results.pending, m.results.pending[n:])
	clear(m.results.pending[left:])
	m.results.pending = m.results.pending[:left]
	if left > 0 {
		m.results.wake.Signal()
	}
	return units
}

// splitAfter is after how many refusals in a row a batch is tried in halves: one
// verdict that the spool can not take must not hold up all others.
const splitAfter = 4

// commit settles units, for as long as it takes. It goes on after the node's
// right to act has ended: the spool is the judge of what is stale, and to forget
// a delivery that it would still take means to deliver again. Only the end of
// ctx ends it.
func (m *Manager) commit(ctx context.Context, units []*unit) {
	var verdicts []Verdict
	var notices []Notice
	for _, u := range units {
		verdicts, notices = append(verdicts, u.verdicts...), append(notices, u.notices...)
	}
	refused := 0
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		taken, err := m.conf.Spool.Settle(ctx, verdicts, notices)
		if err == nil && len(taken) != len(verdicts) {
			err = fmt.Errorf("queue: %d answers to %d verdicts", len(taken), len(verdicts))
		}
		if err == nil {
			m.taken(units, taken)
			return
		}
		if refused++; errors.Is(err, ErrUnknown) {
			refused = 0
		}
		if refused >= splitAfter && m.live() == nil {
			if len(units) == 1 && m.later(units[0], err) {
				return
			}
			if half := len(units) / 2; half > 0 {
				m.commit(ctx, units[:half])
				m.commit(ctx, units[half:])
				return
			}
		}
		m.log.Warn("queue: verdicts not committed yet, trying again", zap.Int("verdicts", len(verdicts)), zap.Error(err),
			zap.Duration("in", wait))
		if !pause(ctx, wait) {
			m.abandon(units)
			return
		}
	}
}

const refusedAgain = 30 * time.Second

// later sets a unit aside that the spool refuses again and again, and hands it
// to a settler after a while; its entries stay active. False: the manager is
// stopping.
func (m *Manager) later(u *unit, err error) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.results.drained {
		return false
	}
	m.log.Error("queue: the spool refuses this result, trying later", zap.Stringer("id", u.batch.ID), zap.Error(err),
		zap.Duration("in", refusedAgain))
	time.AfterFunc(refusedAgain, func() {
		m.mu.Lock()
		m.results.pending = append(m.results.pending, u)
		m.results.wake.Signal()
		m.mu.Unlock()
	})
	return true
}

// abandon gives verdicts up at the end of the manager. Their recipients will be
// tried again by whoever owns them next.
func (m *Manager) abandon(units []*unit) {
	for _, u := range units {
		for i := range u.verdicts {
			if v := &u.verdicts[i]; v.Outcome == Delivered {
				m.log.Error("queue: delivered, but not committed: it may be delivered again",
					zap.Stringer("id", v.ID), zap.Uint32("recipient", v.Recipient), zap.String("host", v.Host),
					zap.String("reply", v.Reply))
			}
		}
	}
	m.mu.Lock()
	for _, u := range units {
		m.results.unsettled -= len(u.verdicts)
	}
	m.mu.Unlock()
}

// taken carries out what the spool said.
func (m *Manager) taken(units []*unit, taken []Taken) {
	m.mu.Lock()
	now := m.now().UnixNano()
	full := m.results.unsettled >= m.limits.Unsettled
	k := 0
	for _, u := range units {
		m.results.unsettled -= len(u.verdicts)
		for i := range u.verdicts {
			v := &u.verdicts[i]
			m.totals.count(v, taken[k])
			keep := taken[k] == Applied && v.Outcome == Deferred
			if v.DelayTold {
				m.queue.Told(u.at[i])
			}
			if taken[k] == Stale {
				m.refused(u.at[i])
			}
			m.queue.Finish(u.at[i], keep, nanos(v.Next), v.Attempt, now)
			k++
		}
	}
	if full {
		m.work.Broadcast()
	}
	m.unlock()
	k = 0
	for _, u := range units {
		for i := range u.verdicts {
			m.line(u, &u.verdicts[i], taken[k])
			k++
		}
	}
}

var words = [...]string{Delivered: "delivered", Deferred: "deferred", Failed: "bounced", Expired: "expired",
	Discarded: "discarded"}

// line logs one change of a message's state, and counts failures by class.
func (m *Manager) line(u *unit, v *Verdict, t Taken) {
	class := m.failed(v, t)
	level, text := zapcore.InfoLevel, words[v.Outcome]
	switch {
	case t == Stale && v.Outcome == Delivered:
		level, text = zapcore.WarnLevel, "delivered, but another node owns it now: it may be delivered twice"
	case t == Stale:
		text = "result refused: another node owns it now"
	case t == Gone && v.Outcome == Delivered:
		level, text = zapcore.WarnLevel, "delivered, but settled or deleted meanwhile"
	case t == Gone:
		text = "result refused: settled or deleted meanwhile"
	}
	entry := m.log.Check(level, text)
	if entry == nil {
		return
	}
	fields := make([]zap.Field, 0, 11)
	fields = append(fields, zap.Stringer("id", v.ID), zap.String("sender", u.job.Sender),
		zap.String("recipient", u.address(v.Recipient)),
		zap.Uint32("attempt", v.Attempt), zap.String("host", v.Host), zap.String("reply", v.Reply))
	if v.TLS != "" {
		fields = append(fields, zap.String("tls", v.TLS))
	}
	if box, ok := strings.CutPrefix(v.Host, "mailbox "); ok {
		fields = append(fields, zap.String("mailbox", box))
	}
	if v.Rule != 0 {
		fields = append(fields, zap.Uint64("rule", v.Rule))
	}
	if class != replyclass.None {
		fields = append(fields, zap.Stringer("class", class))
	}
	if v.Outcome == Deferred {
		fields = append(fields, zap.Time("next", v.Next))
	}
	entry.Write(fields...)
}

func (u *unit) address(n uint32) string {
	for i := range u.job.Recipients {
		if u.job.Recipients[i].N == n {
			return u.job.Recipients[i].Address
		}
	}
	return ""
}
