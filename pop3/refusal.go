package pop3

import "errors"

// Refusal is one failure that an operator should hear of: a connection that was
// turned away, a TLS handshake or a login that failed, deletions that were not
// committed, or a session that a fault of the server ended. It is valid during
// the call of ServerConfig.Refused only.
type Refusal struct {
	Peer     *Peer
	Stage    string // connect, tls, command, login, commit or panic
	Reason   string // one word, of the constants below
	User     string // as the client gave it; empty: nobody yet
	Messages int    // that were to be deleted, at commit
	Cause    error
	Stack    string // of a panic
}

// Reasons of refusals.
const (
	ReasonConnections = "too_many_connections"
	ReasonNotReady    = "not_ready"
	ReasonStopping    = "stopping"
	ReasonErrors      = "too_many_errors"
	ReasonIdle        = "idle_commands"
	ReasonStranger    = "not_trusted"
	ReasonTLS         = "tls_failed"
	ReasonNeedsTLS    = "tls_required"
	ReasonLogin       = "login_failed"
	ReasonDisabled    = "disabled"
	ReasonInUse       = "in_use"
	ReasonDelay       = "login_delay"
	ReasonThrottled   = "throttled"
	ReasonPermanent   = "permanent"
	ReasonTemporary   = "temporary"
	ReasonUncommitted = "not_committed"
	ReasonPanic       = "panic"
)

// refused tells of a failure.
func (c *conn) refused(f Refusal) {
	if c.session != nil && f.User == "" {
		f.User = c.session.user
	}
	if c.srv.cfg.Refused != nil {
		f.Peer = &c.peer
		c.srv.cfg.Refused(&f)
	}
}

// reasonOf names why a login failed.
func reasonOf(err error) string {
	if errors.As(err, new(*InUseError)) {
		return ReasonInUse
	}
	if a := answerTo(err); a != nil {
		return a.reason
	}
	return ReasonTemporary
}
