package smtp

import (
	"bytes"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-sasl"
)

const (
	mechScram     = "SCRAM-SHA-256"
	mechScramPlus = "SCRAM-SHA-256-PLUS"

	maxAuthDelay  = 12 * time.Second // the client is told within 15 seconds
	maxAuthSteps  = 8
	maxAuthErrors = 5 // of one connection
)

// Why an exchange ends early.
var (
	errAuthCancelled = &Reply{501, "5.7.0", "Authentication cancelled", nil}
	errAuthBase64    = &Reply{501, "5.5.2", "Bad base64", nil}
	errAuthSyntax    = &Reply{501, "5.5.2", "Bad response", nil}
)

// mechanisms lists what AUTH offers this client now: nothing in clear, unless
// the peer is trusted.
func (c *conn) mechanisms() []string {
	if c.cfg.Without&ExtAuth != 0 || c.peer.TLS == nil && !c.peer.Trusted {
		return nil
	}
	var list []string
	if _, ok := c.sess.(ScramAuthenticator); ok {
		if len(channelBindings(c.peer.TLS)) > 0 {
			list = append(list, mechScramPlus)
		}
		list = append(list, mechScram)
	}
	if _, ok := c.sess.(Authenticator); ok {
		list = append(list, sasl.Plain, sasl.Login)
	}
	return list
}

// canAuth answers where AUTH is out of the question.
func (c *conn) canAuth() bool {
	_, plain := c.sess.(Authenticator)
	_, scram := c.sess.(ScramAuthenticator)
	switch {
	case c.cfg.Without&ExtAuth != 0 || !plain && !scram:
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
	mech, user := c.mechanism(c.peer.Mechanism)
	if mech == nil {
		c.fail(504, "5.5.4", "Mechanism not available")
		return
	}
	var response []byte
	if has {
		var err error
		if response, err = decodeResponse(bytes.TrimLeft(initial, " "), true); err != nil {
			c.say(err, "Auth")
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
	if _, plain := c.sess.(Authenticator); !ok || !plain {
		c.fail(501, "5.5.4", "Expected AUTHLOGIN user password")
		return
	}
	c.peer.Mechanism = "AUTHLOGIN"
	c.finishAuth(c.authenticate(user, secret), user)
}

// mechanism returns the server's side of an exchange, and where the name of the
// user will be after it went well.
func (c *conn) mechanism(name string) (sasl.Server, *string) {
	if !slices.Contains(c.mechanisms(), name) {
		return nil, nil
	}
	user := new(string)
	switch name {
	case sasl.Plain:
		return &plainServer{c.authenticate, user}, user
	case sasl.Login:
		return &loginServer{authenticate: c.authenticate, user: user}, user
	}
	s := c.scramServer(user)
	s.plus = name == mechScramPlus
	return s, user
}

// exchange runs the mechanism to its end. A nil error means that the client is
// who it says.
func (c *conn) exchange(mech sasl.Server, response []byte) error {
	for range maxAuthSteps {
		challenge, done, err := mech.Next(response)
		if err != nil {
			return err
		}
		if done && challenge == nil {
			return nil
		}
		c.put("334 ")
		c.out = base64.StdEncoding.AppendEncode(c.out, challenge)
		c.put("\r\n")
		line, crlf, err := c.line(maxAuthLine, true)
		if errors.Is(err, errLongLine) {
			return &Reply{500, "5.5.6", "Authentication exchange line is too long", nil}
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
		if done {
			return nil
		}
	}
	return errAuthSyntax
}

// decodeResponse: in an initial response "=" stands for nothing at all.
func decodeResponse(line []byte, initial bool) ([]byte, error) {
	line = bytes.TrimRight(line, " ")
	switch {
	case initial && string(line) == "=":
		return []byte{}, nil
	case string(line) == "*":
		return nil, errAuthCancelled
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(line)))
	n, err := base64.StdEncoding.Strict().Decode(out, line)
	if err != nil || bytes.IndexByte(line, '\r') >= 0 {
		return nil, errAuthBase64
	}
	return out[:n], nil
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
		c.srv.stats.Auth.Add(1)
		c.log("auth", "user", c.peer.User)
		c.put("235 2.7.0 Authentication successful\r\n")
		return
	case errors.Is(err, ErrCredentials):
		r = &Reply{535, "5.7.8", "Authentication credentials invalid", nil}
	case errors.As(err, &r):
	case errors.As(err, &gone):
		c.hangUp(gone.error)
		return
	default:
		r = &Reply{454, "4.7.0", "Temporary authentication failure, try again later", err}
	}
	c.peer.User = ""
	if r.Code == 535 {
		c.failedAuth(user, err)
	}
	c.say(r, "Authenticate")
	if c.failures >= maxAuthErrors && !c.quit {
		c.answer(421, "4.7.0", "Too many failed logins, closing connection")
		c.quit = true
	}
}

// connError tells the connection's errors from those of a Session.
type connError struct{ error }

// failedAuth counts a wrong password and holds the answer back.
func (c *conn) failedAuth(user string, why error) {
	c.failures++
	c.srv.stats.AuthFailed.Add(1)
	c.log("auth.failed", "user", user)
	var delay time.Duration
	if c.cfg.AuthDelay != nil {
		delay = c.cfg.AuthDelay(c.peer.Remote.Addr(), why)
	} else {
		delay = c.srv.meters.AuthDelay(c.peer.Remote.Addr())
	}
	if delay <= 0 {
		return
	}
	t := time.NewTimer(min(delay, maxAuthDelay))
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.ctx.Done():
	}
}

type check func(user, secret string) error

// plainServer: RFC 4616.
type plainServer struct {
	authenticate check
	user         *string
}

// Next takes authorization id, user and password, parted by NUL.
func (s *plainServer) Next(response []byte) ([]byte, bool, error) {
	if response == nil {
		return []byte{}, false, nil
	}
	parts := bytes.Split(response, []byte{0})
	if len(parts) != 3 || len(parts[1]) == 0 || len(parts[2]) == 0 {
		return nil, true, errAuthSyntax
	}
	id, user := string(parts[0]), string(parts[1])
	*s.user = user
	if id != "" && !strings.EqualFold(id, user) {
		return nil, true, ErrCredentials // nobody may act for others
	}
	return nil, true, s.authenticate(user, string(parts[2]))
}

// loginServer is the LOGIN that was never more than a draft.
type loginServer struct {
	authenticate check
	user         *string
	asked        int
}

// Next takes the user, then the password.
func (s *loginServer) Next(response []byte) ([]byte, bool, error) {
	switch {
	case response == nil && s.asked == 0:
		s.asked = 1
		return []byte("Username:"), false, nil
	case *s.user == "":
		if len(response) == 0 {
			return nil, true, errAuthSyntax
		}
		*s.user = string(response)
		return []byte("Password:"), false, nil
	}
	return nil, true, s.authenticate(*s.user, string(response))
}
