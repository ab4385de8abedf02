package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.uber.org/zap"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/smtp"
)

// receiver is the SMTP side of a node. It meets smtp.Backend.
type receiver struct {
	replica    fenced
	mail       *mailer
	passwords  *passwords
	storage    *storage
	ready      func() error
	submission bool
	log        *zap.Logger
}

// Replies of policy.
var (
	replyNotReady = &smtp.Reply{Code: 421, Enhanced: "4.3.2", Text: "Service not available: no majority of the cluster in reach, try another node or later"}
	replyFull     = &smtp.Reply{Code: 452, Enhanced: "4.3.1", Text: "Insufficient system storage, try later"}
	replyNoUser   = &smtp.Reply{Code: 550, Enhanced: "5.1.1", Text: "No such user here"}
	replyNoRelay  = &smtp.Reply{Code: 550, Enhanced: "5.7.1", Text: "Relaying denied"}
	replyDisabled = &smtp.Reply{Code: 550, Enhanced: "5.2.1", Text: "Mailbox disabled"}
	replyQuota    = &smtp.Reply{Code: 452, Enhanced: "4.2.2", Text: "Mailbox full"}
	replyLoop     = &smtp.Reply{Code: 554, Enhanced: "5.4.6", Text: "Mail loop detected"}
)

// NewSession implements smtp.Backend. A node that could not keep what it takes
// sends its clients away at once.
func (b *receiver) NewSession(_ context.Context, p *smtp.Peer) (smtp.Session, error) {
	if err := b.ready(); err != nil {
		r := *replyNotReady
		r.Cause = err
		return nil, &r
	}
	return &session{receiver: b, peer: p}, nil
}

// session is one SMTP connection.
type session struct {
	*receiver
	peer    *smtp.Peer
	account *pb.Account // authenticated
	env     *envelope
}

// Authenticate implements smtp.Authenticator.
func (s *session) Authenticate(ctx context.Context, user, secret string) error {
	account, err := lookupAccount(s.replica, user)
	if err != nil {
		return err
	}
	ok, err := s.passwords.verify(ctx, account, secret)
	if err != nil {
		return err
	}
	if !ok || account.Disabled {
		return smtp.ErrCredentials
	}
	s.account = account
	return nil
}

// privileged clients may relay and use bare local parts.
func (s *session) privileged() bool { return s.peer.Trusted || s.account != nil }

// Mail implements smtp.Session.
func (s *session) Mail(_ context.Context, from string, o *smtp.MailOptions) error {
	s.env = nil
	if s.storage.full.Load() {
		return replyFull
	}
	if err := s.ready(); err != nil {
		return mapError(err)
	}
	if from != "" && !strings.Contains(from, "@") {
		if !s.privileged() {
			return &smtp.Reply{Code: 550, Enhanced: "5.1.7", Text: "Sender address needs a domain"}
		}
		if err := s.replica.View(func(v spool.View) (err error) { from, err = qualify(v, from); return err }); err != nil {
			return mapError(err)
		}
	}
	if err := s.mayUse(from); err != nil {
		return err
	}
	env := &envelope{sender: from, fixUp: s.submission || s.account != nil}
	if s.account != nil {
		_, env.domain = splitAddress(s.account.Address)
	}
	if o != nil {
		setOptions(&env.options, o)
	}
	s.env = env
	return nil
}

// mayUse refuses a sender address that belongs to somebody else: a stolen
// password must not speak for the whole domain.
func (s *session) mayUse(from string) error {
	if s.account == nil || from == "" {
		return nil
	}
	lower := strings.ToLower(from)
	local, domain := splitAddress(lower)
	user, _, _ := strings.Cut(local, "+")
	if lower == s.account.Address || user+"@"+domain == s.account.Address {
		return nil
	}
	for _, allowed := range s.account.Senders {
		if allowed == lower || allowed == "*" || strings.HasPrefix(allowed, "@") && "@"+domain == allowed {
			return nil
		}
	}
	if s.leadsHome(lower) {
		return nil
	}
	return &smtp.Reply{Code: 550, Enhanced: "5.7.1", Text: fmt.Sprintf("%s may not send as this address", s.account.Address)}
}

// leadsHome reports whether an alias leads to the session's own mailbox.
func (s *session) leadsHome(address string) bool {
	home := false
	_ = s.replica.View(func(v spool.View) error {
		targets, _, err := resolve(v, address)
		home = err == nil && len(targets) == 1 && targets[0].mailbox == s.account.Address
		return nil
	})
	return home
}

// setOptions copies the MAIL parameters that travel with the message.
func setOptions(m *pb.Message, o *smtp.MailOptions) {
	m.Smtputf8, m.Requiretls, m.Ret, m.Envid = o.UTF8, o.RequireTLS, o.Ret, o.EnvID
	switch o.Body {
	case smtp.Body8BitMIME:
		m.Body = pb.Body_BODY_8BITMIME
	case smtp.BodyBinaryMIME:
		m.Body = pb.Body_BODY_BINARYMIME
	}
}

// Rcpt implements smtp.Session.
func (s *session) Rcpt(_ context.Context, to string, o *smtp.RcptOptions) error {
	r := rcpt{address: to}
	if o != nil {
		r.notify, r.original = o.Notify, o.ORCPT
	}
	err := s.replica.View(func(v spool.View) error {
		if !strings.Contains(r.address, "@") {
			if !s.privileged() && !strings.EqualFold(r.address, "postmaster") {
				return errNoDomain
			}
			var err error
			if r.address, err = qualify(v, r.address); err != nil {
				return err
			}
		}
		targets, local, err := resolve(v, r.address)
		if err != nil {
			return err
		}
		if !local && !s.privileged() {
			return replyNoRelay
		}
		r.targets = targets
		return s.room(v, targets)
	})
	if err != nil {
		return mapError(err)
	}
	if smuggles(r.address) && !s.privileged() {
		return replyNoRelay
	}
	s.env.rcpts = append(s.env.rcpts, r)
	return nil
}

// smuggles finds routing hidden in a local part: percent hack, bang path or a
// second @ in quotes.
func smuggles(address string) bool {
	local, _ := splitAddress(address)
	return strings.ContainsAny(local, "%!@")
}

// room checks quotas.
func (s *session) room(v spool.View, targets []target) error {
	for _, t := range targets {
		a := t.account
		if a == nil || a.QuotaBytes == 0 && a.QuotaMessages == 0 {
			continue
		}
		box, _, err := v.Mailbox(a.Address)
		if err != nil {
			return err
		}
		if a.QuotaMessages > 0 && box.Messages >= a.QuotaMessages || a.QuotaBytes > 0 && box.Bytes >= a.QuotaBytes {
			return replyQuota
		}
	}
	return nil
}

// Data implements smtp.Session.
func (s *session) Data(ctx context.Context, r io.Reader) (string, error) {
	env := s.env
	s.env = nil
	env.client = s.client()
	id, err := s.mail.accept(ctx, env, r)
	if err != nil {
		return "", mapError(err)
	}
	return id, nil
}

func (s *session) client() *pb.Client {
	return &pb.Client{
		Node: s.mail.node, Address: s.peer.Remote.String(), Helo: clean(s.peer.Helo, 255), Tls: tlsText(s.peer.TLS),
		User: s.peer.User, Protocol: s.peer.Protocol(), Session: s.peer.Session,
	}
}

// Reset implements smtp.Session.
func (s *session) Reset() { s.env = nil }

// Close implements smtp.Session.
func (s *session) Close() error { return nil }

// mapError turns the causes of a refusal into a reply, once for all of SMTP.
// What is our own fault is never permanent.
func mapError(err error) error {
	var r *smtp.Reply
	switch {
	case err == nil:
		return nil
	case errors.As(err, &r):
		return r
	case errors.Is(err, errNoUser):
		return replyNoUser
	case errors.Is(err, errDisabled):
		return replyDisabled
	case errors.Is(err, errNoDomain):
		return &smtp.Reply{Code: 550, Enhanced: "5.1.2", Text: "Recipient address needs a domain"}
	case errors.Is(err, errHops), errors.Is(err, errLooping):
		return replyLoop
	case errors.Is(err, errAliasLoop), errors.Is(err, errAliasLarge):
		return &smtp.Reply{Code: 550, Enhanced: "5.4.6", Text: "Alias can not be expanded", Cause: err}
	case errors.Is(err, cluster.ErrUnavailable):
		return &smtp.Reply{Code: 451, Enhanced: "4.3.2", Text: "No majority of the cluster in reach, try another node or later", Cause: err}
	case errors.Is(err, errGone):
		return &smtp.Reply{Code: 451, Enhanced: "4.3.0", Text: "A recipient was removed meanwhile, try again", Cause: err}
	}
	return &smtp.Reply{Code: 451, Enhanced: "4.3.0", Text: "Local error in processing, try again", Cause: err}
}
