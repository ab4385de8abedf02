package smtp

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"time"

	"relay/smtp/sasl"
)

const (
	maxAuthDelay  = 12 * time.Second // the client is told within 15 seconds
	maxAuthSteps  = 8
	maxAuthErrors = 5 // of one connection
)

// An exchange ends early for these reasons.
var (
	errAuthCancelled = &Reply{Code: 501, Enhanced: "5.7.0", Text: "Authentication cancelled"}
	errAuthBase64    = &Reply{Code: 501, Enhanced: "5.5.2", Text: "Bad base64"}
	errAuthSyntax    = &Reply{Code: 501, Enhanced: "5.5.2", Text: "Bad response"}
)

// mechanisms lists what AUTH offers this client now: nothing in clear, unless
// the peer is trusted.
func (c *conn) mechanisms() (list []string) {
	if c.cfg.Without&ExtAuth != 0 || c.peer.TLS == nil && !c.peer.Trusted {
		return nil
	}
	for _, name := range c.cfg.Mechanisms {
		if c.can(name) && (name != sasl.Scram || c.cfg.HideScram == nil || !c.cfg.HideScram()) {
			list = append(list, name)
		}
	}
	return list
}

// can reports whether a mechanism that is configured works on this connection.
func (c *conn) can(name string) bool {
	_, plain := c.sess.(Authenticator)
	_, scram := c.sess.(ScramAuthenticator)
	switch name {
	case sasl.Scram:
		return scram
	case sasl.ScramPlus:
		return scram && sasl.CanBind(c.peer.TLS)
	}
	return plain
}

// canAuth answers where AUTH is out of the question.
func (c *conn) canAuth() bool {
	_, logins := c.sess.(Authenticator)
	switch {
	case c.cfg.Without&ExtAuth != 0 || !logins:
		c.fail(502, "5.5.1", "AUTH is not available")
	case c.peer.User != "":
		c.fail(503, "5.5.1", "You are logged in already") // RFC 4954 section 4
	case c.peer.TLS == nil && !c.peer.Trusted:
		c.fail(538, "5.7.11", "Encryption required for authentication, say STARTTLS first")
	default:
		return true
	}
	return false
}

// auth: RFC 4954.
func (c *conn) auth(arg []byte) {
	name, initial, has := bytes.Cut(arg, []byte(" "))
	if len(name) == 0 {
		c.fail(501, "5.5.4", "AUTH needs a mechanism")
		return
	}
	if !c.canAuth() {
		return
	}
	c.peer.Mechanism = strings.ToUpper(string(name))
	user := new(string)
	mech := c.mechanism(c.peer.Mechanism, user)
	if mech == nil {
		c.fail(504, "5.5.4", "Mechanism not available")
		return
	}
	var response []byte
	if has {
		var err error
		if response, err = decodeResponse(bytes.TrimLeft(initial, " "), true); err != nil {
			c.say(err, "auth")
			return
		}
	}
	c.finishAuth(c.exchange(mech, response), *user)
}

// authLegacy is AUTHLOGIN user password.
func (c *conn) authLegacy(arg []byte) {
	if !c.canAuth() {
		return
	}
	user, secret, ok := strings.Cut(string(arg), " ")
	if !ok {
		c.fail(501, "5.5.4", "Expected AUTHLOGIN user password")
		return
	}
	c.peer.Mechanism = "AUTHLOGIN"
	c.finishAuth(c.authenticate(user, secret), user)
}

// mechanism returns the server's side of an exchange, which leaves the name of the
// user. A mechanism that is only hidden is there all the same: clients that know of it
// use it.
func (c *conn) mechanism(name string, user *string) sasl.Server {
	if !slices.Contains(c.cfg.Mechanisms, name) || !c.can(name) {
		return nil
	}
	on := sasl.Channel{TLS: c.peer.TLS, Plus: slices.Contains(c.cfg.Mechanisms, sasl.ScramPlus) && c.can(sasl.ScramPlus)}
	return sasl.NewServer(name, on, sasl.Checks{
		Password:  func(name, secret string) error { *user = name; return c.authenticate(name, secret) },
		Same:      c.sameAccount,
		Keys:      func(name string) (*sasl.Keys, error) { *user = name; return c.scramKeys(name) },
		Nobody:    func(name string) *sasl.Keys { return sasl.DummyKeys(c.srv.secret, name, c.cfg.ScramIterations) },
		Disproven: c.disproven,
	})
}

// sameAccount asks the Session.
func (c *conn) sameAccount(one, other string) bool {
	ctx, cancel := c.call()
	defer cancel()
	return c.sess.(Authenticator).SameAccount(ctx, one, other)
}

// scramKeys asks the Session; nil for who is not there.
func (c *conn) scramKeys(user string) (*sasl.Keys, error) {
	ctx, cancel := c.call()
	defer cancel()
	keys, err := c.sess.(ScramAuthenticator).ScramKeys(ctx, user)
	if errors.Is(err, ErrCredentials) {
		return nil, nil
	}
	return keys, err
}

// disproven asks the Session about a proof that did not fit.
func (c *conn) disproven(user string, told *sasl.Keys) error {
	ctx, cancel := c.call()
	defer cancel()
	return c.sess.(ScramAuthenticator).Disproven(ctx, user, told)
}

// exchange runs the mechanism to its end. A nil error means that the client is
// who it says.
func (c *conn) exchange(mech sasl.Server, response []byte) error {
	for range maxAuthSteps {
		challenge, done, err := mech.Next(response)
		if err != nil || done {
			return saslError(err)
		}
		c.put("334 ")
		c.out = sasl.Encode(c.out, challenge)
		c.put("\r\n")
		line, crlf, err := c.line(maxAuthLine, true)
		if errors.Is(err, errLongLine) {
			return &Reply{Code: 500, Enhanced: "5.5.6", Text: "Authentication exchange line is too long"}
		}
		if err != nil {
			return &connError{err}
		}
		if r := c.misframed(line, crlf); r != nil {
			return r
		}
		if response, err = decodeResponse(line, false); err != nil {
			return err
		}
	}
	return errAuthSyntax
}

// saslError puts what a mechanism says itself into the words of SMTP.
func saslError(err error) error {
	switch {
	case errors.Is(err, sasl.ErrMalformed):
		return errAuthSyntax
	case errors.As(err, new(*sasl.Refusal)):
		return ErrCredentials
	}
	return err
}

// decodeResponse reads what the client says: "*" gives up.
func decodeResponse(line []byte, initial bool) ([]byte, error) {
	line = bytes.TrimRight(line, " ")
	decode := sasl.Decode
	if initial {
		decode = sasl.DecodeInitial
	}
	if string(line) == "*" {
		return nil, errAuthCancelled
	}
	response, err := decode(line)
	if err != nil {
		return nil, errAuthBase64
	}
	return response, nil
}

func (c *conn) authenticate(user, secret string) error {
	ctx, cancel := c.call()
	defer cancel()
	return c.sess.(Authenticator).Authenticate(ctx, user, secret)
}

// finishAuth answers for an exchange that has ended.
func (c *conn) finishAuth(err error, user string) {
	var r *Reply
	var gone *connError
	switch {
	case err == nil:
		if c.peer.User == "" {
			c.peer.User = user
		}
		c.sess.(Authenticator).Welcome()
		c.srv.stats.Auth.Add(1)
		c.log("auth", "user", c.peer.User)
		c.put("235 2.7.0 Authentication successful\r\n")
		return
	case errors.Is(err, ErrCredentials):
		r = &Reply{Code: 535, Enhanced: "5.7.8", Text: "Authentication credentials invalid"}
	case errors.As(err, &r):
	case errors.As(err, &gone):
		c.hangUp(gone.error)
		return
	default:
		r = &Reply{Code: 454, Enhanced: "4.7.0", Text: "Temporary authentication failure, try again later", Cause: err}
	}
	c.peer.User = ""
	if r.Code == 535 {
		c.failedAuth(user, err)
	}
	c.authUser = user
	c.say(r, "auth")
	if c.failures >= maxAuthErrors && !c.quit {
		c.last(&Reply{Code: 421, Enhanced: "4.7.0", Text: "Too many failed logins, closing connection", Reason: ReasonErrors})
	}
}

// connError tells the connection's errors from those of a Session.
type connError struct{ error }

// failedAuth counts a wrong password and holds the answer back.
func (c *conn) failedAuth(user string, why error) {
	c.failures++
	c.srv.stats.AuthFailed.Add(1)
	var delay time.Duration
	if c.cfg.AuthDelay != nil {
		delay = c.cfg.AuthDelay(c.peer.Remote.Addr(), why)
	} else if !c.peer.Trusted {
		delay = c.srv.meters.AuthDelay(c.peer.Remote.Addr())
	}
	c.pause(min(delay, maxAuthDelay))
}

// pause holds the answers that are pending back.
func (c *conn) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.ctx.Done():
	}
}
