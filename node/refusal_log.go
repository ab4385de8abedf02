package node

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"

	"relay/node/login"
	"relay/pop3"
	"relay/smtp"
	"relay/smtp/printable"
)

// Bounds of what refusals may write: lines of one client network in a minute, and
// networks that are known at a time. The others share one account.
const (
	refusalLines    = 60
	refusalNetworks = 10000
)

// reasonNoHeader is said of a load balancer that does not tell whose connection it is.
const reasonNoHeader = "no_proxy_header"

// refusalLog writes a line for everything that clients were not given, and counts
// it. The counts are exact; of lines a client network gets refusalLines a minute,
// then one that says how many more there were.
//
// 2026-11-29, refusals: the protocol servers hand each one to a hook (Refused) with a reason of one
// word; refusalLog counts it and writes the line. 60 lines a minute for a client network (/32, /64),
// then one line with a number; the count (relay_refused_total) is exact. Rejected: counting by reply
// code, which says less than half.
type refusalLog struct {
	log *zap.Logger
	now func() time.Time

	mu     sync.Mutex
	counts map[refusalKind]int64
	nets   map[netip.Prefix]*refusalMinute
}

// refusalKind is what refusals are counted by.
type refusalKind struct {
	protocol string // smtp or pop3
	role     string // of the SMTP listener; empty for POP3
	reason   string
	class    string // 4xx, 5xx; none where the client was not told
}

// refusalMinute is what one client network was refused since an instant.
type refusalMinute struct {
	since time.Time
	lines int
	more  int // refusals without a line
}

func newRefusalLog(log *zap.Logger) *refusalLog {
	return &refusalLog{log: log, now: time.Now, counts: map[refusalKind]int64{}, nets: map[netip.Prefix]*refusalMinute{}}
}

// smtp counts and logs a refusal of an SMTP listener.
func (l *refusalLog) smtp(role string, f *smtp.Refusal) {
	kind := refusalKind{"smtp", role, f.Reason, "none"}
	if f.Reply != nil {
		kind.class = string('0'+rune(f.Reply.Code/100)) + "xx"
	}
	p := f.Peer
	if !l.count(kind, p.Remote.Addr()) {
		return
	}
	fields := append(make([]zap.Field, 0, 14), zap.String("protocol", "smtp"), zap.String("role", role),
		zap.String("stage", f.Stage), zap.String("reason", f.Reason),
		zap.String("session", p.Session), zap.Stringer("remote", p.Remote), zap.String("helo", p.Helo))
	if user := f.User + p.User; user != "" {
		fields = append(fields, zap.String("user", user))
	}
	if f.InMail {
		fields = append(fields, zap.String("sender", f.Sender))
	}
	if len(f.Recipients) > 0 {
		fields = append(fields, zap.Strings("recipients", f.Recipients))
	}
	if f.More > 0 {
		fields = append(fields, zap.Int("more", f.More))
	}
	if f.Reply != nil {
		fields = append(fields, zap.String("reply", oneReply(f.Reply)))
	}
	if f.Cause == nil {
		l.log.Info("refused", fields...)
		return
	}
	l.log.Warn("refused", append(fields, zap.Error(f.Cause))...)
}

// oneReply is a reply as the client read it, on one line.
func oneReply(r *smtp.Reply) string {
	told := *r
	told.Cause = nil
	return told.Error()
}

// pop3 counts and logs a failure of a POP3 listener.
func (l *refusalLog) pop3(f *pop3.Refusal) {
	p := f.Peer
	if !l.count(refusalKind{"pop3", "", f.Reason, "none"}, p.Remote.Addr()) && f.Stack == "" {
		return
	}
	fields := []zap.Field{
		zap.String("protocol", "pop3"), zap.String("stage", f.Stage), zap.String("reason", f.Reason),
		zap.String("session", p.Session), zap.Stringer("remote", p.Remote), zap.Error(f.Cause),
	}
	if f.User != "" {
		fields = append(fields, zap.String("user", printable.Text(f.User, 255)))
	}
	if p.Mechanism != "" {
		fields = append(fields, zap.String("mechanism", p.Mechanism))
	}
	if f.Messages > 0 {
		fields = append(fields, zap.Int("messages", f.Messages))
	}
	if f.Stack != "" {
		fields = append(fields, zap.String("stack", f.Stack))
	}
	l.log.Warn("refused", fields...)
}

// proxy counts and logs a connection from a load balancer that did not say whose it is.
func (l *refusalLog) proxy(protocol, role string, balancer net.Addr, err error) {
	a, _ := netip.ParseAddrPort(balancer.String())
	if !l.count(refusalKind{protocol, role, reasonNoHeader, "none"}, a.Addr().Unmap()) {
		return
	}
	l.log.Warn("refused", zap.String("protocol", protocol), zap.String("role", role), zap.String("stage", "connect"),
		zap.String("reason", reasonNoHeader), zap.Stringer("remote", balancer), zap.Error(err))
}

// count counts one refusal, and reports whether its network may have a line.
func (l *refusalLog) count(kind refusalKind, a netip.Addr) bool {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[kind]++
	n := login.Network(a)
	m := l.nets[n]
	if m == nil && len(l.nets) >= refusalNetworks {
		n = netip.Prefix{}
		m = l.nets[n]
	}
	if m == nil {
		m = &refusalMinute{since: now}
		l.nets[n] = m
	}
	if now.Sub(m.since) >= time.Minute {
		l.summary(n, m)
		*m = refusalMinute{since: now}
	}
	if m.lines < refusalLines {
		m.lines++
		return true
	}
	m.more++
	return false
}

// summary says what had no line of its own. l.mu is held.
func (l *refusalLog) summary(n netip.Prefix, m *refusalMinute) {
	if m.more == 0 {
		return
	}
	who := "others"
	if n.IsValid() {
		who = n.String()
	}
	l.log.Warn("refused more", zap.String("network", who), zap.Int("count", m.more), zap.Time("since", m.since))
}

// sweep ends the minutes that are over by an instant.
func (l *refusalLog) sweep(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, m := range l.nets {
		if now.Sub(m.since) >= time.Minute {
			l.summary(n, m)
			delete(l.nets, n)
		}
	}
}

// run sweeps until ctx ends, and then once more.
func (l *refusalLog) run(ctx context.Context) error {
	t := time.NewTicker(10 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			l.sweep(l.now())
		case <-ctx.Done():
			l.sweep(l.now().Add(time.Hour))
			return nil
		}
	}
}

// counted returns what was counted until now.
func (l *refusalLog) counted() map[refusalKind]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.counts)
}
