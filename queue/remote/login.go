package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"relay/queue"
	"relay/queue/remote/oauth"
	"relay/smtp"
	"relay/smtp/sasl"
)

// A login that was refused is not tried with each message: hosts lock accounts, and addresses, out.
const (
	loginWaitFirst = time.Minute
	loginWaitMost  = 15 * time.Minute
	// loginAgain is how long after a refusal an operator's retry ends its wait: one command retries many messages, bit
	// by bit, and is to log in once.
	loginAgain = 5 * time.Second
)

// Login is an account at a hop, which a Link names. It remembers how the last login went, so it is made once for each
// account and password. Its methods may be called concurrently.
type Login struct {
	route    string
	user     string
	password func(context.Context) (string, error)
	// credential, where it is not nil, is what tokens are had for; there is no password then.
	credential func(context.Context) ([]byte, error)

	turn chan struct{} // one tries the password at a time until it has proved right

	mu   sync.Mutex
	good bool
	weak bool // the host refuses SCRAM, and took PLAIN
	last Refused
	wait time.Duration // after last

	tokens *oauth.Tokens // nil: not yet
}

// Refused is a login that a host did not take.
type Refused struct {
	Route string // whose it is
	User  string
	Host  string
	Reply string
	At    time.Time // zero: it was not refused
	Next  time.Time // no login before
}

// NewLogin makes the login of a route. password is asked for it at each login, and may wait.
func NewLogin(route, user string, password func(context.Context) (string, error)) *Login {
	return &Login{route: route, user: user, password: password, turn: make(chan struct{}, 1)}
}

// NewTokenLogin makes a login that shows access tokens. credential is asked for what they are had for, as oauth.Parse
// reads it, until it has told it, and may wait.
func NewTokenLogin(route, user string, credential func(context.Context) ([]byte, error)) *Login {
	l := NewLogin(route, user, nil)
	l.credential = credential
	return l
}

// Refused says how the last login was refused; At is zero where it was not.
func (l *Login) Refused() Refused {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// barred is why no login may be tried yet, nil where it may.
func (l *Login) barred() *fault {
	r := l.Refused()
	if r.At.IsZero() || !time.Now().Before(r.Next) {
		return nil
	}
	return &fault{
		outcome: queue.Deferred, next: true, final: true,
		text: fmt.Sprintf("4.7.8 route %s: %s refused the login as %s at %s (%s); the next one is at %s", l.route, r.Host,
			l.user, r.At.UTC().Format(time.TimeOnly), r.Reply, r.Next.UTC().Format(time.TimeOnly+" MST")),
	}
}

// begin waits for the turn to log in where the password has not proved right yet. end gives the turn back.
func (l *Login) begin(ctx context.Context) (end func(), err error) {
	l.mu.Lock()
	good := l.good
	l.mu.Unlock()
	if good {
		return func() {}, nil
	}
	select {
	case l.turn <- struct{}{}:
		return func() { <-l.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Retry lets the next message log in, though the last login was refused a while ago: an operator wants it.
func (l *Login) Retry() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); !l.last.At.IsZero() && now.Sub(l.last.At) >= loginAgain && l.last.Next.After(now) {
		l.last.Next = now
	}
}

func (l *Login) took(weak bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.good, l.weak, l.last, l.wait = true, weak, Refused{}, 0
}

func (l *Login) isWeak() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.weak
}

func (l *Login) refused(host, reply string) Refused {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.wait = min(max(2*l.wait, loginWaitFirst), loginWaitMost)
	l.good = false
	l.last = Refused{Route: l.route, User: l.user, Host: host, Reply: reply, At: now, Next: now.Add(l.wait)}
	return l.last
}

// login logs in on a new connection as its link says. It closes a connection on which that fails.
func (a *Agent) login(ctx context.Context, c *conn) *fault {
	f := a.tryLogin(ctx, c)
	if f != nil {
		_ = c.client.Close()
	}
	return f
}

func (a *Agent) tryLogin(ctx context.Context, c *conn) *fault {
	l := c.key.link.Login
	end, err := l.begin(ctx)
	if err != nil {
		return &fault{outcome: queue.Deferred, next: true, text: "4.4.2 no login: " + plain(err)}
	}
	defer end()
	if f := l.barred(); f != nil {
		return f
	}
	f := &fault{outcome: queue.Deferred, next: true, host: c.hop.String()}
	if l.credential != nil {
		a.tokenLogin(ctx, l, c, f)
		if f.text == "" {
			return nil
		}
		return f
	}
	password, err := l.password(ctx)
	if err != nil {
		f.text, f.final = fmt.Sprintf("4.3.5 route %s: its password can not be read: %s", l.route, plain(err)), true
		return f
	}
	m, why := mechanismFor(c.client, l.user, password)
	if m == nil {
		f.text = fmt.Sprintf("4.7.0 route %s: no login: %s", l.route, why)
		return f
	}
	other := c.plainInstead(m, l.user, password)
	weak := other != nil && l.isWeak()
	if weak {
		m, other = other, nil
	}
	err = c.client.Auth(ctx, m)
	if other != nil && refuses(err) {
		a.log.Info("delivery: a host refused SCRAM, trying PLAIN", zap.String("route", l.route), zap.String("host", f.host))
		if again := c.client.Auth(ctx, other); again == nil || refuses(again) {
			weak, err = true, again
		} // else the refusal is what counts: some hosts end the connection with it
	}
	if err == nil {
		l.took(weak)
		return nil
	}
	a.noLogin(l, c, err, f)
	return f
}

// refuses: the host's word on a login is no, for good.
func refuses(err error) bool {
	r, ok := errors.AsType[*smtp.Reply](err)
	return ok && r.Cause == nil && !r.Temporary()
}

// plainInstead is tried once where SCRAM is refused: a host may announce it to all and have the keys of some, the
// others' passwords being kept in another form. nil: nothing is, as everybody on the way could read the password.
func (c *conn) plainInstead(m sasl.Client, user, password string) sasl.Client {
	name, _, err := m.Start()
	offered, _ := c.client.Has("AUTH")
	if err != nil || name != sasl.Scram && name != sasl.ScramPlus ||
		!slices.Contains(strings.Fields(strings.ToUpper(offered)), sasl.Plain) {
		return nil
	}
	if _, secure := c.client.TLS(); !secure && !bare(c.hop.addr.Addr()).IsLoopback() {
		return nil
	}
	return sasl.NewPlainClient(user, password)
}

// noLogin says what becomes of the mail behind a login that failed.
func (a *Agent) noLogin(l *Login, c *conn, err error, f *fault) {
	switch r, ok := errors.AsType[*smtp.Reply](err); {
	case refuses(err):
		a.refusedLogin(l, c.hop.String(), text(r), f)
	case ok:
		f.text = fmt.Sprintf("4.7.0 route %s: no login for now: %s", l.route, text(r))
	default:
		f.text = fmt.Sprintf("4.4.2 route %s: the connection failed at the login: %s", l.route, plain(err))
	}
}

// refusedLogin notes that a host refuses a login. Neither its other addresses nor other hosts are tried: each counts
// how often a login was wrong.
func (a *Agent) refusedLogin(l *Login, host, reply string, f *fault) {
	r := l.refused(host, reply)
	a.stats.LoginsRefused.Add(1)
	a.log.Warn("delivery: the login of a route was refused, its mail waits", zap.String("route", l.route),
		zap.String("user", l.user), zap.String("host", r.Host), zap.String("reply", reply), zap.Time("next", r.Next))
	f.final = true
	f.text = fmt.Sprintf("4.7.8 route %s: the login as %s was refused: %s", l.route, l.user, reply)
}

// mechanismFor chooses how to log in: by SCRAM where the host knows it, which does not get the password. Channel
// binding is used only where the host leaves no choice: TLS may end in front of it.
func mechanismFor(c *smtp.Client, user, password string) (m sasl.Client, why string) {
	offered, ok := c.Has("AUTH")
	if !ok {
		return nil, "the host offers none (AUTH)"
	}
	names := strings.Fields(strings.ToUpper(offered))
	var state *tls.ConnectionState
	if s, ok := c.TLS(); ok {
		state = &s
	}
	switch {
	case slices.Contains(names, sasl.Scram):
		return sasl.NewScramClient(user, password, nil), ""
	case slices.Contains(names, sasl.ScramPlus) && state != nil:
		return sasl.NewScramClient(user, password, state), ""
	case slices.Contains(names, sasl.Plain):
		return sasl.NewPlainClient(user, password), ""
	case slices.Contains(names, sasl.Login):
		return sasl.NewLoginClient(user, password), ""
	}
	return nil, fmt.Sprintf("the host offers %s, and the relay knows SCRAM-SHA-256, PLAIN and LOGIN",
		plain(errors.New(offered)))
}
