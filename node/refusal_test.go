package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/login"
	"relay/node/outbound"
	"relay/node/replica"
	"relay/pop3"
	"relay/queue"
	"relay/smtp"
)

// session is an SMTP session at a node that shows what it has applied, which is
// less than there is until it is brought up to date.
func (f *behindWorld) session(more func(*receiver, *smtp.Peer)) *session {
	s, err := f.begin(more)
	require.NoError(f.t, err)
	return s.(*session)
}

func (f *behindWorld) begin(more func(*receiver, *smtp.Peer)) (smtp.Session, error) {
	b := &receiver{
		replica: f, mail: newMailer(f, nil, "n1", "mx.example.test", 50, zap.NewNop()), logins: f.logins,
		throttle: f.throttle,
		confirm:  f.confirm, storage: &storage{}, ready: func(context.Context) error { return nil },
		starts: newStarts(), log: zap.NewNop(),
	}
	p := &smtp.Peer{Remote: home, ESMTP: true}
	if more != nil {
		more(b, p)
	}
	return b.NewSession(f.t.Context(), p)
}

// user logs a session in, as XCLIENT would.
func user(name string) func(*receiver, *smtp.Peer) {
	return func(_ *receiver, p *smtp.Peer) { p.User = name }
}

var heldMail = spool.ID{9}

// wait puts a message into the queue that waits for alice's mailbox.
func (f *behindWorld) wait() {
	frame, err := spool.Encode(spool.KindAccept, &pb.Accept{
		Message: &pb.Message{Id: heldMail[:]}, Inline: true, Epoch: f.Session, Recipients: []*pb.Recipient{{
			Address: "alice@example.test", Route: spool.MailboxRoute, Drop: &pb.Drop{Mailbox: "alice@example.test"},
		}},
	}, []byte("a: b\r\n\r\n"))
	require.NoError(f.t, err)
	res, err := f.Propose(f.t.Context(), frame)
	require.NoError(f.t, err)
	require.Equal(f.t, pb.Code_OK, res.Code, res.Text)
}

func (f *behindWorld) secret(text string) string {
	hash, err := cheapHash(text)
	require.NoError(f.t, err)
	return hash
}

func (f *behindWorld) put(a *pb.Account, create bool) {
	f.must(spool.KindPutAccount, &pb.PutAccount{Account: a, Create: create, Update: !create})
}

func code(err error) string {
	r, ok := err.(*smtp.Reply)
	switch {
	case err == nil:
		return "250"
	case !ok:
		return err.Error()
	}
	return fmt.Sprintf("%d %s", r.Code, r.Enhanced)
}

// TestRefusalsAreTrue: an account made elsewhere a moment ago is not refused by a node
// that has not applied it, and one that is really missing is.
func TestRefusalsAreTrue(t *testing.T) {
	rcpt := func(to string, more func(*receiver, *smtp.Peer)) func(*behindWorld) error {
		return func(f *behindWorld) error {
			s := f.session(more)
			require.NoError(f.t, s.Mail(f.t.Context(), "", nil))
			return s.Rcpt(f.t.Context(), to, nil)
		}
	}
	mail := func(from string) func(*behindWorld) error {
		return func(f *behindWorld) error { return f.session(user("alice")).Mail(f.t.Context(), from, nil) }
	}
	login := func(user, secret string) func(*behindWorld) error {
		return func(f *behindWorld) error { return f.session(nil).Authenticate(f.t.Context(), user, secret) }
	}
	pop := func(user, secret string) func(*behindWorld) error {
		return func(f *behindWorld) error {
			m, err := f.drops.Login(f.t.Context(), &pop3.Peer{Session: "s", Remote: home}, user, secret)
			if err == nil {
				require.NoError(f.t, m.Close())
			}
			return err
		}
	}
	newcomer := func(f *behindWorld) {
		f.put(&pb.Account{Address: "new@example.test", Password: f.secret("secret")},
			true)
	}
	enabled := func(f *behindWorld) { f.change(func(a *pb.Account) { a.Disabled = false }) }
	disabled := func(f *behindWorld) { f.change(func(a *pb.Account) { a.Disabled = true }) }
	for _, c := range []struct {
		name   string
		before func(*behindWorld) // is applied here
		change func(*behindWorld) // is not
		do     func(*behindWorld) error
		old    string // the answer if nothing was changed
	}{
		{"a new account", nil, newcomer, rcpt("new@example.test", nil), "550 5.1.1"},
		{"a new alias", nil, func(f *behindWorld) {
			f.must(spool.KindPutAlias, &pb.PutAlias{
				Alias: &pb.Alias{Address: "sales@example.test", Targets: []string{"alice@example.test"}},
			})
		}, rcpt("sales@example.test", nil), "550 5.1.1"},
		{"a new domain", nil, func(f *behindWorld) {
			f.must(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "new.test", CatchAll: "alice@example.test"}})
		}, rcpt("any@new.test", nil), "550 5.7.1"},
		{"a default domain", func(f *behindWorld) {
			f.must(spool.KindPutSettings,
				&pb.PutSettings{Settings: &pb.Settings{}})
		},
			func(f *behindWorld) {
				f.must(spool.KindPutSettings, &pb.PutSettings{Settings: &pb.Settings{DefaultDomain: "example.test"}})
			}, rcpt("alice", func(_ *receiver, p *smtp.Peer) { p.Trusted = true }), "550 5.1.2"},
		{"an account enabled", disabled, enabled, rcpt("alice@example.test", nil), "550 5.2.1"},
		{"a loop of aliases broken", func(f *behindWorld) {
			f.must(spool.KindPutAlias, &pb.PutAlias{
				Alias: &pb.Alias{Address: "a@example.test", Targets: []string{"b@example.test"}},
			})
			f.must(spool.KindPutAlias, &pb.PutAlias{
				Alias: &pb.Alias{Address: "b@example.test", Targets: []string{"a@example.test"}},
			})
		}, func(f *behindWorld) {
			f.must(spool.KindPutAlias, &pb.PutAlias{
				Alias: &pb.Alias{Address: "b@example.test", Targets: []string{"alice@example.test"}},
			})
		}, rcpt("a@example.test", nil), "550 5.4.6"},
		{"a sender address allowed", nil, func(f *behindWorld) {
			f.change(func(a *pb.Account) { a.Senders = []string{"sales@far.test"} })
		}, mail("sales@far.test"), "550 5.7.1"},
		{"a sender address led home", nil, func(f *behindWorld) {
			f.must(spool.KindPutAlias, &pb.PutAlias{
				Alias: &pb.Alias{Address: "sales@example.test", Targets: []string{"alice@example.test"}},
			})
		}, mail("sales@example.test"), "550 5.7.1"},
		{"VRFY", nil, newcomer, func(f *behindWorld) error {
			_, err := f.session(nil).Verify(f.t.Context(), "new@example.test")
			return err
		}, "550 5.1.1"},
		{"EXPN", nil, newcomer, func(f *behindWorld) error {
			list, err := f.session(nil).Expand(f.t.Context(), "new@example.test")
			require.LessOrEqual(f.t, len(list), 1)
			return err
		}, "550 5.1.1"},
		{"ETRN", nil, func(f *behindWorld) {
			f.must(spool.KindPutRoute, &pb.PutRoute{Route: &pb.Route{Domain: "far.test", Target: "mx"}})
		}, func(f *behindWorld) error {
			_, err := f.session(nil).StartQueue(f.t.Context(), "far.test")
			return err
		}, "459 5.7.1"},
		{"AUTH of a new user", nil, newcomer, login("new", "secret"), smtp.ErrCredentials.Error()},
		{"AUTH by a new password", nil, func(f *behindWorld) {
			f.change(func(a *pb.Account) { a.Password = f.secret("changed") })
		}, login("alice", "changed"), smtp.ErrCredentials.Error()},
		{"AUTH of a user enabled", disabled, enabled, login("alice", "secret"), smtp.ErrCredentials.Error()},
		{"POP3 of a new user", nil, newcomer, pop("new", "secret"), pop3.ErrAuth.Error()},
		{"POP3 by a new password", nil, func(f *behindWorld) {
			f.change(func(a *pb.Account) { a.Password = f.secret("changed") })
		}, pop("alice", "changed"), pop3.ErrAuth.Error()},
		{"POP3 of a user enabled", disabled, enabled, pop("alice", "secret"), pop3.ErrAuth.Error()},
		{"POP3 of a user enabled, by SCRAM", disabled, enabled, func(f *behindWorld) error {
			m, err := f.drops.Proven(f.t.Context(), &pop3.Peer{Session: "s", Remote: home}, "alice")
			if err == nil {
				require.NoError(f.t, m.Close())
			}
			return err
		}, pop3.ErrAuth.Error()},
		{"a client vouched for", nil, newcomer, func(f *behindWorld) error {
			s, err := f.begin(user("new"))
			if err == nil && s.(*session).who() == nil {
				err = pop3.ErrAuth
			}
			return err
		}, pop3.ErrAuth.Error()},
		{"a mailbox whose mail waited", disabled, enabled, func(f *behindWorld) error {
			b := outbound.NewMailboxAgent(nil, f.confirm)
			job := &queue.Job{ID: queue.ID(heldMail), Route: spool.MailboxRoute, Recipients: make([]queue.Recipient, 1)}
			switch v := b.Deliver(f.t.Context(), job)[0]; v.Outcome {
			case queue.Failed:
				require.Equal(f.t, "5.2.1 the mailbox is disabled", v.Reply)
				return directory.ErrDisabled
			case queue.Deferred:
				return errors.New(v.Reply)
			}
			return nil
		}, directory.ErrDisabled.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newBehindWorld(t)
			f.wait()
			if c.before != nil {
				c.before(f)
			}
			f.catchUp()
			before := f.fresh
			require.Equal(t, c.old, code(c.do(f)), "what is so everywhere is refused")
			require.Equal(t, before+1, f.fresh)

			f.Fail = fmt.Errorf("%w: no leader", cluster.ErrUnavailable)
			err := c.do(f)
			require.False(t, isPermanent(err), "%v: nobody can tell", err)
			f.Fail = nil

			before = f.fresh
			c.change(f)
			require.Equal(t, "250", code(c.do(f)))
			require.Equal(t, before+1, f.fresh)
			require.Equal(t, "250", code(c.do(f)))
			require.Equal(t, before+1, f.fresh, "what is not refused costs nothing")
		})
	}
}

// TestReportOnWhoIsThere: a submitter is sent no report on a recipient whom this
// node has not heard of yet.
func TestReportOnWhoIsThere(t *testing.T) {
	f := newBehindWorld(t)
	try := func() (bool, error) {
		s := f.session(func(b *receiver, p *smtp.Peer) { b.bounce, p.User = true, "alice" })
		require.NoError(t, s.Mail(t.Context(), "alice@example.test", nil))
		if err := s.Rcpt(t.Context(), "new@example.test", nil); err != nil {
			return false, err
		}
		return s.env.rcpts[0].Unknown, nil
	}
	unknown, err := try()
	require.NoError(t, err)
	require.True(t, unknown)
	f.Fail = cluster.ErrUnavailable
	_, err = try()
	require.Equal(t, "451 4.3.0", code(err))
	f.Fail = nil
	f.put(&pb.Account{Address: "new@example.test"}, true)
	unknown, err = try()
	require.NoError(t, err)
	require.False(t, unknown)
}

// TestFormIsRefusedOutright: the refusal of a form that no directory can allow asks
// nobody.
func TestFormIsRefusedOutright(t *testing.T) {
	f := newBehindWorld(t)
	f.Fail = cluster.ErrUnavailable
	s := f.session(nil)
	require.NoError(t, s.Mail(t.Context(), "", nil))
	require.Equal(t, "550 5.1.2", code(s.Rcpt(t.Context(), "alice", nil)))
	require.Equal(t, "550 5.7.1", code(s.Rcpt(t.Context(), "a%far.test@example.test", nil)))
	require.Zero(t, f.fresh)
}

// TestMessageRefusedByOldRules: DATA is not refused for good by an alias or a rule
// that was changed since RCPT.
func TestMessageRefusedByOldRules(t *testing.T) {
	f := newBehindWorld(t)
	f.must(spool.KindPutAlias, &pb.PutAlias{
		Alias: &pb.Alias{Address: "sales@example.test", Targets: []string{"alice@example.test"}},
	})
	f.catchUp()
	data := func() error {
		s := f.session(nil)
		require.NoError(t, s.Mail(t.Context(), "", nil))
		require.NoError(t, s.Rcpt(t.Context(), "sales@example.test", nil))
		_, err := s.Data(t.Context(), strings.NewReader("Delivered-To: alice@example.test\r\n\r\n"))
		return err
	}
	require.Equal(t, "554 5.4.6", code(data()))
	f.must(spool.KindPutAlias, &pb.PutAlias{
		Alias: &pb.Alias{Address: "sales@example.test", Targets: []string{"bob@far.test"}},
	})
	require.Equal(t, "451 4.3.0", code(data()))
	require.Equal(t, "250", code(data()))

	f.must(spool.KindPutDomain, &pb.PutDomain{
		Domain: &pb.Domain{Name: "example.test", AuthPolicy: pb.AuthPolicy_AUTH_REFUSE},
	})
	f.catchUp()
	s := f.session(nil)
	require.NoError(t, s.Mail(t.Context(), "", nil))
	require.NoError(t, s.Rcpt(t.Context(), "alice@example.test", nil))
	s.env.screen = &screening{refuse: true}
	refusal := fmt.Errorf("%w: %w", errTheirRules, smtp.NewReply(550, "5.7.26", "no"))
	require.Equal(t, "550 5.7.26", code(mapError(s.stands(t.Context(), s.env, refusal))))
	f.must(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "example.test"}})
	require.Equal(t, "451 4.3.0", code(mapError(s.stands(t.Context(), s.env, refusal))))
}

// TestProofByOldKeys: a proof by SCRAM that does not fit is wrong where the keys
// are those of today.
func TestProofByOldKeys(t *testing.T) {
	f := newBehindWorld(t)
	f.wire(f, 100) // attempts at once
	for name, change := range map[string]func(user string){
		"alice": func(string) {
			f.change(func(a *pb.Account) { a.Scram, _ = login.NewScramKeys("changed") })
		},
		"new": func(string) {
			keys, err := login.NewScramKeys("secret")
			require.NoError(t, err)
			f.put(&pb.Account{Address: "new@example.test", Scram: keys}, true)
		},
	} {
		peer := &pop3.Peer{Session: "s", Remote: home}
		told, err := f.drops.Verifier(t.Context(), peer, name)
		require.NoError(t, err)
		s := f.session(nil)
		keys, err := s.ScramKeys(t.Context(), name)
		require.NoError(t, err)
		failures := f.failures(home)
		require.ErrorIs(t, f.drops.Disproven(t.Context(), peer, name, told), pop3.ErrAuth)
		require.ErrorIs(t, s.Disproven(t.Context(), name, keys), smtp.ErrCredentials)
		require.Equal(t, failures+2, f.failures(home), "one at each service")
		change(name)
		require.ErrorIs(t, f.drops.Disproven(t.Context(), peer, name, told), replica.ErrOutdated)
		require.ErrorIs(t, s.Disproven(t.Context(), name, keys), replica.ErrOutdated)
		require.Equal(t, failures+2, f.failures(home), "that was nobody's mistake")
		f.Fail = cluster.ErrUnavailable
		require.ErrorIs(t, f.drops.Disproven(t.Context(), peer, name, told), replica.ErrUnsure)
		f.Fail = nil
	}
}

// TestUncountedGuess: a password that was not called wrong, because nobody could
// tell, is no earlier attempt of the same by another mechanism.
func TestUncountedGuess(t *testing.T) {
	f := newBehindWorld(t)
	try := func(mechanism string) error {
		_, err := f.drops.Login(t.Context(), &pop3.Peer{Session: "s", Remote: home, Mechanism: mechanism}, "alice", "wrong")
		return err
	}
	f.Fail = cluster.ErrUnavailable
	require.ErrorIs(t, try("PLAIN"), replica.ErrUnsure)
	require.Zero(t, f.failures(home))
	f.Fail = nil
	require.ErrorIs(t, try("USER"), pop3.ErrAuth)
	require.Equal(t, 1, f.failures(home))
	require.ErrorIs(t, try("PLAIN"), pop3.ErrAuth)
	require.Equal(t, 1, f.failures(home), "that is the same by another mechanism")
}

// TestWakeAfterTheFirstLogin: the first login of an account improves its password;
// WAKE does not take that for another password where it is not applied yet.
func TestWakeAfterTheFirstLogin(t *testing.T) {
	f := newBehindWorld(t)
	f.change(func(a *pb.Account) { a.Password = "$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/"; a.Scram = nil })
	f.catchUp()
	m, err := f.drops.Login(t.Context(), &pop3.Peer{Session: "s", Remote: home}, "alice", "password")
	require.NoError(t, err)
	require.NoError(t, m.Commit(t.Context(), nil, true))
	again, err := m.Wake(t.Context())
	require.NoError(t, err)
	require.NoError(t, again.Commit(t.Context(), nil, true))
	f.change(func(a *pb.Account) { a.Password = f.secret("other") })
	f.catchUp()
	_, err = again.Wake(t.Context())
	require.ErrorIs(t, err, pop3.ErrAuth)
}
