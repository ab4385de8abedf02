package node

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/login"
	"relay/node/outbound"
	"relay/node/replica"
	"relay/pop3"
	"relay/queue"
)

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

// TestRefusalsAreTrue: an account made elsewhere a moment ago is not refused by a node
// that has not applied it, and one that is really missing is.
func TestRefusalsAreTrue(t *testing.T) {
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
		old    error // the answer if nothing was changed
	}{
		{"POP3 of a new user", nil, newcomer, pop("new", "secret"), pop3.ErrAuth},
		{"POP3 by a new password", nil, func(f *behindWorld) {
			f.change(func(a *pb.Account) { a.Password = f.secret("changed") })
		}, pop("alice", "changed"), pop3.ErrAuth},
		{"POP3 of a user enabled", disabled, enabled, pop("alice", "secret"), pop3.ErrAuth},
		{"POP3 of a user enabled, by SCRAM", disabled, enabled, func(f *behindWorld) error {
			m, err := f.drops.Proven(f.t.Context(), &pop3.Peer{Session: "s", Remote: home}, "alice")
			if err == nil {
				require.NoError(f.t, m.Close())
			}
			return err
		}, pop3.ErrAuth},
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
		}, directory.ErrDisabled},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newBehindWorld(t)
			f.wait()
			if c.before != nil {
				c.before(f)
			}
			f.catchUp()
			before := f.fresh
			require.ErrorIs(t, c.do(f), c.old, "what is so everywhere is refused")
			require.Equal(t, before+1, f.fresh)

			f.Fail = fmt.Errorf("%w: no leader", cluster.ErrUnavailable)
			err := c.do(f)
			require.False(t, replica.Permanent(err), "%v: nobody can tell", err)
			f.Fail = nil

			before = f.fresh
			c.change(f)
			require.NoError(t, c.do(f))
			require.Equal(t, before+1, f.fresh)
			require.NoError(t, c.do(f))
			require.Equal(t, before+1, f.fresh, "what is not refused costs nothing")
		})
	}
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
		failures := f.failures(home)
		require.ErrorIs(t, f.drops.Disproven(t.Context(), peer, name, told), pop3.ErrAuth)
		require.Equal(t, failures+1, f.failures(home))
		change(name)
		require.ErrorIs(t, f.drops.Disproven(t.Context(), peer, name, told), replica.ErrOutdated)
		require.Equal(t, failures+1, f.failures(home), "that was nobody's mistake")
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
