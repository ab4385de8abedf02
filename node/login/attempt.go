package login

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/netip"
	"time"

	"relay/cluster/spool"
	"relay/node/directory"
	"relay/pop3"
)

const (
	// accountFree is how many guesses at one account, from all networks that it
	// does not use, are without consequence.
	accountFree = 20
	// judgeWithin is how long an attempt may take that is under way, a dialogue
	// with the client included. Then it counts as failed, and others get their turn.
	judgeWithin = 20 * time.Second
)

// pendingLogin is a login that has begun and was not judged yet. Its fields are
// guarded by Throttle.mu.
type pendingLogin struct {
	from    netip.Addr
	account string // whole address, or what the client gave
	strange bool   // of a network that the account does not use
	keys    []string
	since   time.Time // it has its turn; zero: it waits
	failed  bool      // counts as failed already
}

// line is the attempts of one network, or at one account.
type line struct {
	pending map[*pendingLogin]struct{}
	moved   chan struct{} // closed when one of them has ended
}

// failureKey names the failures that a login to the account makes up for.
type failureKey struct {
	network netip.Prefix
	account string
}

// recentCount is a number and when it last rose.
type recentCount struct {
	n  int
	at time.Time
}

// guessedKey is an account's place among the networks of a tally.
func guessedKey(account string) string {
	sum := sha256.Sum256([]byte(account))
	return "account " + hex.EncodeToString(sum[:16])
}

// Begin counts an attempt in the session's name, and holds it back as long as its
// network and its account deserve; or refuses it unheard with pop3.ErrThrottled.
// The session's former attempt is over. One of failed, succeeded and dropped is
// due.
func (t *Throttle) Begin(ctx context.Context, session string, from netip.Addr, user string) error {
	if !t.minds(from) {
		return nil
	}
	t.Dropped(session)
	a := &pendingLogin{from: from, account: t.name(user)}
	t.mu.Lock()
	t.sweep(time.Now())
	t.open[session] = a
	t.mu.Unlock()
	err := t.turn(ctx, a, Network(from).String(), t.free, true)
	if err == nil {
		err = t.strange(ctx, a)
	}
	if err != nil {
		t.Dropped(session)
		if errors.Is(err, context.DeadlineExceeded) {
			err = pop3.ErrThrottled
		}
		return err
	}
	t.mu.Lock()
	a.since = time.Now()
	t.mu.Unlock()
	return nil
}

// strange holds an attempt back that comes from a network which the account does
// not use, while many guess at it.
func (t *Throttle) strange(ctx context.Context, a *pendingLogin) error {
	if t.known.knows(a.account, a.from) {
		return nil
	}
	key := guessedKey(a.account)
	count, err := t.Count(key)
	if err != nil {
		return err
	}
	if count >= accountFree && t.known.ask(ctx, a.account, a.from) {
		return nil
	}
	t.mu.Lock()
	a.strange = true
	t.mu.Unlock()
	return t.turn(ctx, a, key, accountFree, false)
}

// name is the one name of an account.
func (t *Throttle) name(user string) string {
	name := directory.Canonical(user)
	_ = t.replica.View(func(v spool.View) error {
		if whole, err := loginName(v, user); err == nil {
			name = whole
		}
		return nil
	})
	return name
}

// turn waits until an attempt may be judged: so many at once as there may be
// failures without consequence still, then one at a time, later and later. final
// says that there is an end to it.
func (t *Throttle) turn(ctx context.Context, a *pendingLogin, key string, free int, final bool) error {
	for {
		count, err := t.Count(key)
		if err != nil {
			return err
		}
		t.mu.Lock()
		now := time.Now()
		l := t.lines[key]
		if l == nil {
			l = &line{pending: map[*pendingLogin]struct{}{}, moved: make(chan struct{})}
			t.lines[key] = l
		}
		expires, late := t.expire(l, now)
		d := time.Duration(max(0, count+late-free)) * t.delay
		switch {
		case d > t.most && final:
			t.tidy(key)
			t.mu.Unlock()
			return pop3.ErrThrottled
		case late == 0 && len(l.pending) < max(1, free-count):
			l.pending[a] = struct{}{}
			a.keys = append(a.keys, key)
			t.mu.Unlock()
			return pause(ctx, min(d, t.most))
		}
		moved := l.moved
		t.mu.Unlock()
		if late > 0 {
			continue // count knows of them now
		}
		if err := until(ctx, moved, expires); err != nil {
			return err
		}
	}
}

// expire counts attempts as failed that take too long, and says how many there
// were and when the next one will be. It needs t.mu.
func (t *Throttle) expire(l *line, now time.Time) (next time.Duration, late int) {
	next = judgeWithin
	for a := range l.pending {
		switch age := now.Sub(a.since); {
		case a.since.IsZero():
		case age >= judgeWithin:
			t.countFailure(a, now)
			late++
		default:
			next = min(next, judgeWithin-age)
		}
	}
	return next, late
}

// countFailure counts a failure. It needs t.mu.
func (t *Throttle) countFailure(a *pendingLogin, now time.Time) {
	t.leave(a)
	if a.failed {
		return
	}
	a.failed = true
	n := Network(a.from)
	t.note(n.String(), delta{count: 1})
	k := failureKey{n, a.account}
	if len(t.own) < maxNetworks || t.own[k].n > 0 {
		t.own[k] = recentCount{t.own[k].n + 1, now}
	}
	if !a.strange {
		return
	}
	key := guessedKey(a.account)
	t.note(key, delta{count: 1})
}

// leave takes an attempt out of its lines. It needs t.mu.
func (t *Throttle) leave(a *pendingLogin) {
	for _, key := range a.keys {
		if l := t.lines[key]; l != nil {
			delete(l.pending, a)
			close(l.moved)
			l.moved = make(chan struct{})
			t.tidy(key)
		}
	}
	a.keys = nil
}

// tidy needs t.mu.
func (t *Throttle) tidy(key string) {
	if l := t.lines[key]; l != nil && len(l.pending) == 0 {
		delete(t.lines, key)
	}
}

// takeAttempt ends the attempt of a session; nil: there is none.
func (t *Throttle) takeAttempt(session string) *pendingLogin {
	a := t.open[session]
	delete(t.open, session)
	if a != nil {
		t.leave(a)
	}
	return a
}

// Failed ends an attempt with a wrong password.
func (t *Throttle) Failed(session string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.takeAttempt(session); a != nil {
		t.countFailure(a, time.Now())
	}
}

// Dropped ends an attempt that was not judged, or that does not count.
func (t *Throttle) Dropped(session string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.takeAttempt(session)
}

// Succeeded ends an attempt with a login, and forgives the network what failed
// at this account. Failures at other accounts stay, or a client that has an account
// could guess at all of them.
func (t *Throttle) Succeeded(session string) {
	t.mu.Lock()
	a := t.takeAttempt(session)
	if a == nil {
		t.mu.Unlock()
		return
	}
	n := Network(a.from)
	k := failureKey{n, a.account}
	forgiven := t.own[k].n
	delete(t.own, k)
	t.mu.Unlock()
	t.known.note(a.account, a.from)
	if forgiven == 0 {
		return
	}
	if count, err := t.Count(n.String()); err == nil && count > 0 {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.note(n.String(), delta{count: max(0, count-forgiven), clear: true})
	}
}

// sweep forgets what says nothing any more. It needs t.mu.
func (t *Throttle) sweep(now time.Time) {
	if now.Sub(t.swept) < time.Minute {
		return
	}
	t.swept = now
	for session, a := range t.open {
		if !a.since.IsZero() && now.Sub(a.since) > judgeWithin {
			t.countFailure(a, now)
			delete(t.open, session)
		}
	}
	for k, one := range t.own {
		if now.Sub(one.at) > spool.FailureMs*time.Millisecond {
			delete(t.own, k)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	return until(ctx, nil, d)
}

// until waits for a channel to be closed, at most for d.
func until(ctx context.Context, closed <-chan struct{}, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-closed:
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}
