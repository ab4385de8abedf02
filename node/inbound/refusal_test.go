package inbound

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/login"
	"relay/node/replica"
	"relay/pop3"
	"relay/smtp"
)

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
	rcpt := func(to string, more func(*receiver, *smtp.Peer)) func(*follower) error {
		return func(f *follower) error {
			s := f.session(more)
			require.NoError(f.t, s.Mail(f.t.Context(), "", nil))
			return s.Rcpt(f.t.Context(), to, nil)
		}
	}
	mail := func(from string) func(*follower) error {
		return func(f *follower) error { return f.session(user("alice")).Mail(f.t.Context(), from, nil) }
	}
	login := func(user, secret string) func(*follower) error {
		return func(f *follower) error { return f.session(nil).Authenticate(f.t.Context(), user, secret) }
	}
	newcomer := func(f *follower) {
		f.Put(&pb.Account{Address: "new@example.test", Password: f.Account().Password}, true)
	}
	enabled := func(f *follower) { f.Change(func(a *pb.Account) { a.Disabled = false }) }
	disabled := func(f *follower) { f.Change(func(a *pb.Account) { a.Disabled = true }) }
	for _, c := range []struct {
		name   string
		before func(*follower) // is applied here
		change func(*follower) // is not
		do     func(*follower) error
		old    string // the answer if nothing was changed
	}{
		{"a new account", nil, newcomer, rcpt("new@example.test", nil), "550 5.1.1"},
		{"a new alias", nil, func(f *follower) {
			f.alias("sales@example.test", "alice@example.test")
		}, rcpt("sales@example.test", nil), "550 5.1.1"},
		{"a new domain", nil, func(f *follower) {
			f.Must(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "new.test", CatchAll: "alice@example.test"}})
		}, rcpt("any@new.test", nil), "550 5.7.1"},
		{"a default domain", func(f *follower) {
			f.Must(spool.KindPutSettings,
				&pb.PutSettings{Settings: &pb.Settings{}})
		},
			func(f *follower) {
				f.Must(spool.KindPutSettings, &pb.PutSettings{Settings: &pb.Settings{DefaultDomain: "example.test"}})
			}, rcpt("alice", func(_ *receiver, p *smtp.Peer) { p.Trusted = true }), "550 5.1.2"},
		{"an account enabled", disabled, enabled, rcpt("alice@example.test", nil), "550 5.2.1"},
		{"a loop of aliases broken", func(f *follower) {
			f.Must(spool.KindPutAlias, &pb.PutAlias{
				Alias: &pb.Alias{Address: "a@example.test", Targets: []string{"b@example.test"}},
			})
			f.Must(spool.KindPutAlias, &pb.PutAlias{
				Alias: &pb.Alias{Address: "b@example.test", Targets: []string{"a@example.test"}},
			})
		}, func(f *follower) {
			f.Must(spool.KindPutAlias, &pb.PutAlias{
				Alias: &pb.Alias{Address: "b@example.test", Targets: []string{"alice@example.test"}},
			})
		}, rcpt("a@example.test", nil), "550 5.4.6"},
		{"a sender address allowed", nil, func(f *follower) {
			f.Change(func(a *pb.Account) { a.Senders = []string{"sales@far.test"} })
		}, mail("sales@far.test"), "550 5.7.1"},
		{"a sender address led home", nil, func(f *follower) {
			f.alias("sales@example.test", "alice@example.test")
		}, mail("sales@example.test"), "550 5.7.1"},
		{"VRFY", nil, newcomer, func(f *follower) error {
			_, err := f.session(nil).Verify(f.t.Context(), "new@example.test")
			return err
		}, "550 5.1.1"},
		{"EXPN", nil, newcomer, func(f *follower) error {
			list, err := f.session(nil).Expand(f.t.Context(), "new@example.test")
			require.LessOrEqual(f.t, len(list), 1)
			return err
		}, "550 5.1.1"},
		{"ETRN", nil, func(f *follower) {
			f.Must(spool.KindPutRoute, &pb.PutRoute{Route: &pb.Route{Domain: "far.test", Target: "mx"}})
		}, func(f *follower) error {
			_, err := f.session(nil).StartQueue(f.t.Context(), "far.test")
			return err
		}, "459 5.7.1"},
		{"AUTH of a new user", nil, newcomer, login("new", "secret"), smtp.ErrCredentials.Error()},
		{"AUTH by a new password", nil, func(f *follower) {
			f.Change(func(a *pb.Account) { a.Password = f.secret("changed") })
		}, login("alice", "changed"), smtp.ErrCredentials.Error()},
		{"AUTH of a user enabled", disabled, enabled, login("alice", "secret"), smtp.ErrCredentials.Error()},
		{"a client vouched for", nil, newcomer, func(f *follower) error {
			s, err := f.begin(user("new"))
			if err == nil && s.(*session).who() == nil {
				err = pop3.ErrAuth
			}
			return err
		}, pop3.ErrAuth.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFollower(t)
			if c.before != nil {
				c.before(f)
			}
			f.CatchUp()
			before := f.Fresh
			require.Equal(t, c.old, code(c.do(f)), "what is so everywhere is refused")
			require.Equal(t, before+1, f.Fresh)

			f.Fail = fmt.Errorf("%w: no leader", cluster.ErrUnavailable)
			err := c.do(f)
			require.False(t, replica.Permanent(err), "%v: nobody can tell", err)
			f.Fail = nil

			before = f.Fresh
			c.change(f)
			require.Equal(t, "250", code(c.do(f)))
			require.Equal(t, before+1, f.Fresh)
			require.Equal(t, "250", code(c.do(f)))
			require.Equal(t, before+1, f.Fresh, "what is not refused costs nothing")
		})
	}
}

// TestReportOnWhoIsThere: a submitter is sent no report on a recipient whom this
// node has not heard of yet.
func TestReportOnWhoIsThere(t *testing.T) {
	f := newFollower(t)
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
	f.Put(&pb.Account{Address: "new@example.test"}, true)
	unknown, err = try()
	require.NoError(t, err)
	require.False(t, unknown)
}

// TestFormIsRefusedOutright: the refusal of a form that no directory can allow asks
// nobody.
func TestFormIsRefusedOutright(t *testing.T) {
	f := newFollower(t)
	f.Fail = cluster.ErrUnavailable
	s := f.session(nil)
	require.NoError(t, s.Mail(t.Context(), "", nil))
	require.Equal(t, "550 5.1.2", code(s.Rcpt(t.Context(), "alice", nil)))
	require.Equal(t, "550 5.7.1", code(s.Rcpt(t.Context(), "a%far.test@example.test", nil)))
	require.Zero(t, f.Fresh)
}

// TestMessageRefusedByOldRules: DATA is not refused for good by an alias or a rule
// that was changed since RCPT.
func TestMessageRefusedByOldRules(t *testing.T) {
	f := newFollower(t)
	f.Must(spool.KindPutAlias, &pb.PutAlias{
		Alias: &pb.Alias{Address: "sales@example.test", Targets: []string{"alice@example.test"}},
	})
	f.CatchUp()
	data := func() error {
		s := f.session(nil)
		require.NoError(t, s.Mail(t.Context(), "", nil))
		require.NoError(t, s.Rcpt(t.Context(), "sales@example.test", nil))
		_, err := s.Data(t.Context(), strings.NewReader("Delivered-To: alice@example.test\r\n\r\n"))
		return err
	}
	require.Equal(t, "554 5.4.6", code(data()))
	f.Must(spool.KindPutAlias, &pb.PutAlias{
		Alias: &pb.Alias{Address: "sales@example.test", Targets: []string{"bob@far.test"}},
	})
	require.Equal(t, "451 4.3.0", code(data()))
	require.Equal(t, "250", code(data()))

	f.Must(spool.KindPutDomain, &pb.PutDomain{
		Domain: &pb.Domain{Name: "example.test", AuthPolicy: pb.AuthPolicy_AUTH_REFUSE},
	})
	f.CatchUp()
	s := f.session(nil)
	require.NoError(t, s.Mail(t.Context(), "", nil))
	require.NoError(t, s.Rcpt(t.Context(), "alice@example.test", nil))
	s.env.screen = &screening{refuse: true}
	refusal := fmt.Errorf("%w: %w", errTheirRules, smtp.NewReply(550, "5.7.26", "no"))
	require.Equal(t, "550 5.7.26", code(mapError(s.stands(t.Context(), s.env, refusal))))
	f.Must(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "example.test"}})
	require.Equal(t, "451 4.3.0", code(mapError(s.stands(t.Context(), s.env, refusal))))
}

// TestProofByOldKeys: a proof by SCRAM that does not fit is wrong where the keys
// are those of today.
func TestProofByOldKeys(t *testing.T) {
	f := newFollower(t)
	f.wire(f, 100) // attempts at once
	for name, change := range map[string]func(user string){
		"alice": func(string) {
			f.Change(func(a *pb.Account) { a.Scram, _ = login.NewScramKeys("changed") })
		},
		"new": func(string) {
			keys, err := login.NewScramKeys("secret")
			require.NoError(t, err)
			f.Put(&pb.Account{Address: "new@example.test", Scram: keys}, true)
		},
	} {
		s := f.session(nil)
		keys, err := s.ScramKeys(t.Context(), name)
		require.NoError(t, err)
		failures := f.failures(home)
		require.ErrorIs(t, s.Disproven(t.Context(), name, keys), smtp.ErrCredentials)
		require.Equal(t, failures+1, f.failures(home))
		change(name)
		require.ErrorIs(t, s.Disproven(t.Context(), name, keys), replica.ErrOutdated)
		require.Equal(t, failures+1, f.failures(home), "that was nobody's mistake")
		f.Fail = cluster.ErrUnavailable
		require.ErrorIs(t, s.Disproven(t.Context(), name, keys), replica.ErrUnsure)
		f.Fail = nil
	}
}
