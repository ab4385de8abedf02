package inbound

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/config"
	"relay/node/directory"
	"relay/node/login"
	"relay/node/milter"
	"relay/node/replica"
	"relay/node/tlscert"
	"relay/node/verify"
	"relay/pop3"
	"relay/smtp"
	"relay/smtp/printable"
)

// receiver is the SMTP side of a node. It meets smtp.Backend.
type receiver struct {
	replica    replica.Fenced
	mail       *mailer
	logins     *login.Service
	room       Room
	ready      func(ctx context.Context) error // waits where that is worth it
	starts     *starts
	throttle   *login.Throttle
	confirm    *replica.Confirmer
	relayers   *tlscert.Relayers
	grey       *greylist // nil: none
	filters    milter.Chain
	role       config.Role
	screen     *screen
	submission bool
	bounce     bool // unknown recipients of authenticated senders: accept, and report
	log        *zap.Logger
	own        func() ([]netip.Addr, error) // addresses of this machine; nil: not known
	// callout asks the host of a route for a recipient; nil: none is asked.
	callout func(ctx context.Context, address string) error
	listing func() bool
	took    func(end time.Time) // observes the time from the end of the data to the 250; nil: nobody counts
}

// NewSession implements smtp.Backend. A node that could not keep what it takes
// sends its clients away at once.
func (b *receiver) NewSession(ctx context.Context, p *smtp.Peer) (smtp.Session, error) {
	if err := b.ready(ctx); err != nil {
		r := *replyNotReady
		r.Cause = err
		return nil, &r
	}
	s := &session{receiver: b, peer: p}
	if err := s.xclientLogin(ctx); err != nil {
		return nil, &smtp.Reply{
			Code: 421, Enhanced: "4.3.0", Text: "Cannot look up who you speak for, try another node or later", Cause: err,
			Reason: "unsure",
		}
	}
	if !b.submission { // there nobody gets anywhere without a login
		s.listed = b.screen.asks(p)
	}
	return s, nil
}

// session is one SMTP connection.
type session struct {
	*receiver
	peer    *smtp.Peer
	account *pb.Account // whose password was right
	scram   *pb.Account // who is being authenticated by SCRAM
	env     *envelope
	listed  *verify.Lookup // lists with the client on; nil: not asked
	told    receipt        // of the last message that was answered with a 250
}

// xclientLogin takes over a login that a front end has seen to (XCLIENT). A user who has no
// account here, or a disabled one, is nobody.
func (s *session) xclientLogin(ctx context.Context) error {
	if s.peer.User == "" {
		return nil
	}
	account, err := s.logins.Account(ctx, directory.Canonical(s.peer.User),
		func(a *pb.Account) bool { return !a.Disabled })
	if err != nil {
		return err
	}
	s.peer.User = ""
	if account != nil {
		s.account, s.peer.User = account, account.Address
	}
	return nil
}

// Authenticate implements smtp.Authenticator.
func (s *session) Authenticate(ctx context.Context, user, secret string) error {
	if err := s.throttled(ctx, user); err != nil {
		return err
	}
	defer s.throttle.Dropped(s.peer.Session)
	account, v, err := s.logins.Password(ctx,
		login.Attempt{From: s.peer.Remote.Addr(), Mechanism: "smtp " + s.peer.Mechanism, User: user, Secret: secret})
	switch {
	case err != nil:
		return err
	case v == login.Wrong:
		s.throttle.Failed(s.peer.Session)
		return smtp.ErrCredentials
	case v == login.WrongAgain:
		return login.ErrWrongAgain
	}
	s.throttle.Succeeded(s.peer.Session)
	s.account = s.logins.UpgradeHash(ctx, s.replica, s.mail.node, account, secret, s.log)
	s.peer.User = account.Address
	return nil
}

// Welcome implements smtp.Authenticator.
func (s *session) Welcome() { s.throttle.Succeeded(s.peer.Session) }

// throttled counts a login and holds it back where many have failed, at any node.
func (s *session) throttled(ctx context.Context, user string) error {
	err := s.throttle.Begin(ctx, s.peer.Session, s.peer.Remote.Addr(), user)
	if errors.Is(err, pop3.ErrThrottled) {
		return replyThrottled
	}
	return err
}

// who is logged in; nil for nobody. STARTTLS and XCLIENT take a login back.
func (s *session) who() *pb.Account {
	switch {
	case s.peer.User == "":
		return nil
	case s.account == nil:
		return s.scram
	}
	return s.account
}

// privileged clients may relay and use bare local parts.
func (s *session) privileged() bool {
	return s.peer.Trusted || s.who() != nil || s.relayers.May(s.peer.TLS)
}

// Mail implements smtp.Session.
func (s *session) Mail(ctx context.Context, from string, o *smtp.MailOptions) error {
	s.endTransaction()
	if s.room.Full() {
		return replyFull
	}
	if err := s.ready(ctx); err != nil {
		r := *replyNotReady
		r.Code, r.Cause = 451, err // the session may outlive what is wrong
		return &r
	}
	var announced uint64
	if o != nil {
		announced = uint64(max(o.Size, 0))
	}
	if over, err := s.room.Over(announced); err != nil {
		return mapError(err)
	} else if over {
		return replyFull
	}
	if from != "" && !strings.Contains(from, "@") {
		if !s.privileged() {
			return &smtp.Reply{Code: 550, Enhanced: "5.1.7", Text: "Sender address needs a domain", Reason: "sender_domain"}
		}
		whole := from
		err := s.confirm.Confirm(ctx, func(v spool.View) (err error) { whole, err = directory.Qualify(v, from); return err })
		if err != nil {
			return mapError(err)
		}
		from = whole
	}
	if s.who() != nil {
		err := s.confirm.Confirm(ctx, func(v spool.View) error {
			if err := s.refreshAccount(v); err != nil {
				return err
			}
			return s.checkSender(v, from)
		})
		if err != nil {
			return mapError(err)
		}
	}
	account := s.who()
	env := &envelope{
		sender: from, announced: announced, fixUp: s.submission || account != nil, account: account,
		origin: login.Network(s.peer.Remote.Addr()).String(),
	}
	if account != nil {
		_, env.domain = directory.SplitAddress(account.Address)
		env.origin = account.Address
		env.from = &fromCheck{s.confirm, account, &s.mail.from}
	}
	if o != nil {
		setOptions(&env.options, o)
	}
	env.options.Ours = s.privileged()
	s.env = env
	return s.filtered(ctx, o)
}

// refreshAccount brings the account that is logged in up to date, its limits and sender
// addresses with it. A client whose account was disabled or got another password since
// the login is sent away: a stolen password must not work for as long as a thief keeps
// his connection.
func (s *session) refreshAccount(v spool.View) error {
	login := s.who()
	if login == nil {
		return nil
	}
	now, there, err := v.Account(login.Address)
	switch {
	case err != nil:
		return err
	case there && now.Changed <= login.Changed: // less where the login itself has changed it
		return nil
	case !there || now.Disabled || now.Password != login.Password:
		return replyChanged
	}
	s.account = now
	return nil
}

// checkSender refuses a sender address that belongs to somebody else: a stolen
// password must not speak for the whole domain.
func (s *session) checkSender(v spool.View, from string) error {
	account := s.who()
	if account == nil || from == "" {
		return nil
	}
	if own, err := owns(v, account, from); own || err != nil {
		return err
	}
	return &smtp.Reply{Code: 550, Enhanced: "5.7.1", Text: fmt.Sprintf("%s may not send as this address", account.Address),
		Reason: "sender_denied"}
}

// leadsHome reports whether an alias leads to a mailbox and nowhere else.
func leadsHome(v spool.View, address, mailbox string) (bool, error) {
	targets, _, err := directory.Resolve(v, address)
	if replica.Permanent(err) { // it leads nowhere
		return false, nil
	}
	return len(targets) == 1 && targets[0].Mailbox == mailbox, err
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
	if !o.HoldUntil.IsZero() {
		m.HoldUntilMs = o.HoldUntil.UnixMilli()
	}
	if o.Priority != nil {
		m.Priority = int32(*o.Priority)
	}
	if by := o.DeliverBy; by != nil {
		m.DeliverByMs, m.DeliverByReturn, m.DeliverByTrace = by.Until.UnixMilli(), by.Return, by.Trace
	}
}

// Data implements smtp.Session.
func (s *session) Data(ctx context.Context, r io.Reader) (string, error) {
	env := s.env
	defer s.endTransaction()
	if env.later > 0 {
		return "", replyGreylisted(env.later)
	}
	env.client = s.client()
	s.screened(ctx, env)
	whole := &ending{Reader: r}
	id, err := s.mail.accept(ctx, env, whole)
	if errors.Is(err, errLooping) || errors.Is(err, errTheirRules) {
		err = s.stands(ctx, env, err)
	}
	if err != nil {
		return "", mapError(err)
	}
	s.told = env.receipt
	if s.took != nil && !whole.at.IsZero() {
		s.took(whole.at)
	}
	return id, nil
}

// ending notes when a message's last octet was read.
type ending struct {
	io.Reader
	at time.Time
}

// Holds implements smtp.Holder.
func (e *ending) Holds(octets int) bool {
	h, ok := e.Reader.(smtp.Holder)
	return !ok || h.Holds(octets)
}

// Read implements io.Reader.
func (e *ending) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	if err == io.EOF {
		e.at = time.Now()
	}
	return n, err
}

// Received implements smtp.Receiver.
func (s *session) Received() {
	s.mail.receipts.note(s.told)
	s.told = receipt{}
}

// stands looks whether a whole message is refused by what its recipients still
// lead to, and by rules that still are those of their domains.
func (s *session) stands(ctx context.Context, env *envelope, refusal error) error {
	if err := s.confirm.CatchUp(ctx); err != nil {
		return err
	}
	return s.confirm.Overturned(s.replica.View(func(v spool.View) error {
		for i := range env.rcpts {
			r := &env.rcpts[i]
			targets, _, err := directory.Resolve(v, r.Address)
			if err != nil && !replica.Permanent(err) {
				return err
			}
			policy, _, err := authPolicy(v, r.Address)
			if err != nil {
				return err
			}
			same := slices.EqualFunc(targets, r.Targets,
				func(a, b directory.Target) bool { return a.Mailbox == b.Mailbox && a.Recipient == b.Recipient })
			if !same || env.screen != nil && env.screen.refuse != (policy == pb.AuthPolicy_AUTH_REFUSE) {
				return replica.ErrOutdated
			}
		}
		return refusal
	}))
}

func (s *session) client() *pb.Client {
	return &pb.Client{
		Node: s.mail.node, Address: s.address(), Helo: printable.Text(s.peer.Helo, 255), Tls: tlscert.TLSText(s.peer.TLS),
		User: s.peer.User, Protocol: s.peer.Protocol(), Session: s.peer.Session,
	}
}

// address is the client's, as it is known.
func (s *session) address() string {
	if !s.peer.Remote.Addr().IsValid() { // XCLIENT ADDR=[UNAVAILABLE]
		return "unknown"
	}
	return s.peer.Remote.String()
}

// Reset implements smtp.Session.
func (s *session) Reset() { s.endTransaction() }

// Close implements smtp.Session.
func (s *session) Close() error {
	s.endTransaction()
	s.throttle.Dropped(s.peer.Session)
	s.listed.Close()
	return nil
}
