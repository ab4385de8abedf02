package pop3

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"relay/smtp/printable"
	"relay/smtp/sasl"
)

// mayLogin refuses credentials in the clear, except from trusted networks. The
// refusal bears no [AUTH]: the credentials are not at fault (RFC 3206 §4).
func (c *conn) mayLogin() bool {
	if c.peer.TLS == nil && !c.peer.Trusted {
		c.refused(Refusal{Stage: "login", Reason: ReasonNeedsTLS})
		c.err("", tNeedTLS)
		return false
	}
	return true
}

// userName takes any name, so that nobody learns who is known here.
func (c *conn) userName(arg []byte) {
	if c.mayLogin() {
		c.user = string(arg)
		c.ok(tUser)
	}
}

// pass takes the rest of the line, spaces included (RFC 1939 §7).
func (c *conn) pass(secret []byte) {
	user := c.user
	c.user = ""
	if user == "" {
		c.err("", tUserFirst)
		return
	}
	c.loginSecret("USER", user, string(secret))
}

func (c *conn) xlog(arg []byte) {
	user, secret, ok := strings.Cut(string(arg), " ")
	c.user = ""
	switch {
	case !c.mayLogin():
	case !ok || user == "" || secret == "":
		c.badCommand(tSyntax)
	default:
		c.loginSecret("XLOG", user, secret)
	}
}

func (c *conn) apop(arg []byte) {
	user, digest, ok := strings.Cut(string(arg), " ")
	switch {
	case !c.mayLogin():
	case !ok || len(digest) != 32:
		c.badCommand(tSyntax)
	default:
		back := c.srv.cfg.Backend.(Digester)
		c.login("APOP", user, func(ctx context.Context) (Maildrop, error) {
			return back.LoginDigest(ctx, &c.peer, user, c.stamp, strings.ToLower(digest))
		})
	}
}

func (c *conn) loginSecret(mechanism, user, secret string) {
	c.login(mechanism, user, func(ctx context.Context) (Maildrop, error) {
		return c.srv.cfg.Backend.Login(ctx, &c.peer, user, secret)
	})
}

// login enters TRANSACTION with the maildrop that enter returns.
func (c *conn) login(mechanism, user string, enter func(context.Context) (Maildrop, error)) {
	if !c.admitUser(mechanism, user, enter) {
		return
	}
	c.ok(tMaildrop, int64(c.left), c.leftSize)
}

func (c *conn) admitUser(mechanism, user string, enter func(context.Context) (Maildrop, error)) bool {
	c.peer.Mechanism = mechanism
	drop, err := c.admit(user, enter)
	if err != nil {
		c.loginFailed(user, err)
		return false
	}
	c.enterMaildrop(user, drop)
	c.srv.stats.Logins.Add(1)
	c.log("login", "mechanism", mechanism, "messages", c.left, "octets", c.leftSize)
	return true
}

// admit is how every login, whatever its protocol, gets a maildrop.
func (c *conn) admit(user string, enter func(context.Context) (Maildrop, error)) (Maildrop, error) {
	if strings.ContainsFunc(user, func(r rune) bool { return !printable.Rune(r) }) {
		return nil, ErrAuth
	}
	ctx, cancel := c.loginTime()
	defer cancel()
	drop, err := enter(ctx)
	if err == nil && c.srv.tooSoon(cmp.Or(drop.Info().Owner, user)) {
		_ = drop.Close()
		return nil, ErrLoginDelay
	}
	return drop, err
}

// loginTime bounds a login: a login that waits for longer than a client does has no
// one to answer to.
func (c *conn) loginTime() (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.ctx, c.srv.cfg.LoginWithin)
}

func (c *conn) loginFailed(user string, err error) {
	c.log("login failed", "name", user, "mechanism", c.peer.Mechanism, "error", err)
	c.refused(Refusal{Stage: "login", Reason: reasonOf(err), User: user, Cause: err})
	c.refuse(err, tTemporary)
	if !badCredentials(err) {
		return
	}
	c.srv.stats.LoginFailures.Add(1)
	if c.fails++; c.fails >= c.srv.cfg.Limits.Logins {
		c.closing = true
	}
}

// refuse answers an error of the backend with the code that belongs to it.
// An unknown error is temporary, and its cause not for the client to read.
func (c *conn) refuse(err error, temporary text) {
	if busy, ok := errors.AsType[*InUseError](err); ok {
		c.inUse(busy)
		return
	}
	a := answerTo(err)
	if a == nil {
		c.srv.stats.Temporary.Add(1)
		c.err("SYS/TEMP", temporary)
		return
	}
	c.err(a.code, a.words)
	c.closing = c.closing || a == ErrLeaving
}

func (c *conn) inUse(e *InUseError) {
	c.srv.stats.InUse.Add(1)
	line := append(c.line(), "-ERR [IN-USE] "...)
	if e.Since.IsZero() {
		line = appendText(line, tInUse, c.lang, "")
	} else {
		line = appendText(line, tInUseSince, c.lang, e.since())
	}
	if e.Node != "" {
		line = appendText(line, tOnNode, c.lang, oneLine(e.Node))
	}
	c.say(line)
}

// proof is what a mechanism has found out once it is done: how to log in.
type proof struct {
	user  string
	enter func(context.Context) (Maildrop, error)
}

// auth is AUTH of RFC 5034.
func (c *conn) auth(arg []byte) {
	if !c.mayLogin() {
		return
	}
	if len(arg) == 0 { // as old clients ask what there is
		c.mechanismList()
		return
	}
	name, initial, given := strings.Cut(string(arg), " ")
	name = strings.ToUpper(name)
	var p proof
	server := c.mechanism(name, &p)
	if server == nil {
		c.badCommand(tNoMechanism)
		return
	}
	var first []byte
	if given {
		var err error
		if first, err = sasl.DecodeInitial([]byte(initial)); err != nil {
			c.badCommand(tBadBase64)
			return
		}
	}
	if c.exchange(server, first) {
		c.login(name, p.user, p.enter)
	}
}

// exchange plays the challenges and responses of a mechanism. It has answered
// where it returns false.
func (c *conn) exchange(server sasl.Server, response []byte) bool {
	for {
		challenge, done, err := server.Next(response)
		switch {
		case err != nil:
			c.exchangeFailed(err)
			return false
		case done:
			return true
		}
		line := append(c.line(), "+ "...)
		c.say(sasl.Encode(line, challenge))
		text, err := c.readLine(maxResponse)
		switch {
		case err == errTooLong:
			c.badCommand(tTooLong)
			return false
		case err != nil:
			c.hangUp(err)
			c.outErr = err
			return false
		case string(text) == "*":
			c.err("", tCancelled)
			return false
		}
		if response, err = sasl.DecodeInitial(text); err != nil {
			c.badCommand(tBadBase64)
			return false
		}
	}
}

func (c *conn) exchangeFailed(err error) {
	var f *loginError
	var refused *sasl.Refusal
	switch {
	case errors.As(err, &f):
		c.loginFailed(f.user, f.cause)
	case errors.As(err, &refused):
		c.loginFailed(refused.User, ErrAuth)
	default:
		c.badCommand(tBadResponse)
	}
}

// loginError is a check's way to say that a login was refused, rather than not
// understood.
type loginError struct {
	user  string
	cause error
}

func (e *loginError) Error() string { return "pop3: login refused: " + e.cause.Error() }
func (e *loginError) Unwrap() error { return e.cause }

// mechanisms lists what AUTH is announced with here and now.
func (c *conn) mechanisms() (list []string) {
	if c.peer.TLS == nil && !c.peer.Trusted {
		return nil
	}
	for _, name := range c.srv.cfg.Mechanisms {
		if c.can(name) && (name != sasl.Scram || c.srv.cfg.HideScram == nil || !c.srv.cfg.HideScram()) {
			list = append(list, name)
		}
	}
	return list
}

// can reports whether a mechanism that is configured works on this connection.
func (c *conn) can(name string) bool {
	_, scram := c.srv.cfg.Backend.(SCRAM)
	switch name {
	case sasl.Scram:
		return scram
	case sasl.ScramPlus:
		return scram && sasl.CanBind(c.peer.TLS)
	}
	return true
}

func (c *conn) mechanismList() {
	c.ok(tMechanisms)
	for _, name := range c.mechanisms() {
		c.say(append(c.line(), name...))
	}
	c.dot()
}

// mechanism makes the server side of a SASL mechanism, nil where there is none of
// that name. When it is done it has filled p. A mechanism that is only hidden is there
// all the same: clients that know of it use it.
func (c *conn) mechanism(name string, p *proof) sasl.Server {
	if !slices.Contains(c.srv.cfg.Mechanisms, name) || !c.can(name) {
		return nil
	}
	c.peer.Mechanism = name
	on := sasl.Channel{
		TLS: c.peer.TLS, Plus: slices.Contains(c.srv.cfg.Mechanisms, sasl.ScramPlus) && c.can(sasl.ScramPlus),
	}
	checks := sasl.Checks{Same: c.sameAccount, Password: func(user, secret string) error {
		p.user = user
		p.enter = func(ctx context.Context) (Maildrop, error) {
			return c.srv.cfg.Backend.Login(ctx, &c.peer, user, secret)
		}
		return nil
	}}
	if back, ok := c.srv.cfg.Backend.(SCRAM); ok {
		c.scram(&checks, back, p)
	}
	return sasl.NewServer(name, on, checks)
}

// scram fills in what SCRAM asks.
func (c *conn) scram(checks *sasl.Checks, back SCRAM, p *proof) {
	checks.Keys = func(user string) (*sasl.Keys, error) {
		v, err := back.Verifier(c.ctx, &c.peer, user)
		switch {
		case badCredentials(err):
			return nil, nil
		case err != nil:
			return nil, &loginError{user, err}
		}
		return v, nil
	}
	checks.Nobody = func(user string) *sasl.Keys {
		return sasl.DummyKeys(c.srv.cfg.FakeSecret, strings.ToLower(user), 4096)
	}
	checks.Disproven = func(user string, told *sasl.Keys) error {
		ctx, cancel := c.loginTime()
		defer cancel()
		return &loginError{user, cmp.Or(back.Disproven(ctx, &c.peer, user, told), ErrAuth)}
	}
	checks.Proven = func(user string) error {
		p.user = user
		p.enter = func(ctx context.Context) (Maildrop, error) { return back.Proven(ctx, &c.peer, user) }
		return nil
	}
}

// sameAccount asks the Backend whether two names are of one account.
func (c *conn) sameAccount(one, other string) bool {
	return c.srv.cfg.Backend.SameAccount(c.ctx, one, other)
}
