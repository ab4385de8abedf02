package node

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	"relay/cluster/spool/memory"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/login"
	"relay/node/maildrop"
	"relay/node/replica"
	"relay/node/replica/replicatest"
	"relay/pop3"
)

// nodeWorld is what both services of a node work on, with the user alice.
type nodeWorld struct {
	*replicatest.Fake
	t        testing.TB
	drops    *maildrop.Service
	logins   *login.Service
	throttle *login.Throttle
	confirm  *replica.Confirmer
	later    bool // changes are told later
}

// cheapHash is login.HashPassword for tests, in which hashing is no subject.
func cheapHash(secret string) (string, error) { return login.Argon{Time: 1, Memory: 8}.Hash(secret) }

func newNodeWorld(t testing.TB) *nodeWorld {
	w := &nodeWorld{Fake: replicatest.New(t), t: t}
	w.wire(w, 3)
	w.Session = w.must(spool.KindRegister,
		&pb.Register{Nonce: "x", Member: &pb.Member{Id: "n1", MaxCommand: spool.MaxVersion}}).Epoch
	w.must(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "example.test"}})
	hash, err := cheapHash("secret")
	require.NoError(t, err)
	w.must(spool.KindPutAccount, &pb.PutAccount{
		Account: &pb.Account{Address: "alice@example.test", Password: hash}, Create: true,
	})
	return w
}

// wire makes the services anew, on a replica.
func (w *nodeWorld) wire(r replica.Fenced, free int) {
	var err error
	w.confirm = replica.NewConfirmer(r, zap.NewNop())
	w.logins, err = login.NewService(r, w.confirm, cheapHash)
	require.NoError(w.t, err)
	w.throttle = login.NewThrottle(free, r, "n1", nil, login.NewFamiliar(), zap.NewNop())
	w.drops = maildrop.New(maildrop.Config{
		Replica: r, SessionLost: func() <-chan struct{} { return nil }, Node: "n1", Logins: w.logins, Throttle: w.throttle,
		Log: zap.NewNop(),
	})
}

// Propose tells the maildrops what changed, as a node's store does.
func (w *nodeWorld) Propose(ctx context.Context, f spool.Frame) (*pb.Result, error) {
	res, err := w.Fake.Propose(ctx, f)
	if !w.later {
		w.drops.Changed(w.Machine.Changes())
	}
	return res, err
}

func (w *nodeWorld) must(kind spool.Kind, h proto.Message) *pb.Result {
	w.t.Helper()
	res, err := replica.Propose(context.Background(), w, kind, h)
	require.NoError(w.t, err)
	require.Equal(w.t, pb.Code_OK, res.Code, res.Text)
	return res
}

func (w *nodeWorld) account() (a *pb.Account) {
	w.t.Helper()
	require.NoError(w.t,
		w.View(func(v spool.View) (err error) { a, _, err = v.Account("alice@example.test"); return err }))
	return a
}

func (w *nodeWorld) change(f func(*pb.Account)) {
	w.t.Helper()
	a := w.account()
	f(a)
	w.must(spool.KindPutAccount, &pb.PutAccount{Account: a, Update: true})
}

// behindWorld is a node that applies when it is told to, and when somebody waits
// for it.
type behindWorld struct {
	*nodeWorld
	shown *memory.Store
	at    uint64
	fresh int // times it was brought up to date
}

func newBehindWorld(t *testing.T) *behindWorld {
	f := &behindWorld{nodeWorld: newNodeWorld(t)}
	m, err := f.drops.Login(t.Context(), &pop3.Peer{Session: "s"}, "alice", "secret")
	require.NoError(t, err) // the first one improves the password
	require.NoError(t, m.Close())
	f.wire(f, 3)
	f.later = true
	f.catchUp()
	return f
}

func (f *behindWorld) View(fn func(spool.View) error) error { return fn(spool.View{R: f.shown}) }

func (f *behindWorld) Frozen(fn func(spool.View, uint64) error) error {
	return fn(spool.View{R: f.shown}, f.at)
}

func (f *behindWorld) WaitApplied(context.Context, uint64) error {
	f.catchUp()
	return nil
}

func (f *behindWorld) Now() time.Time { return time.Now() }

func (f *behindWorld) Consistent(context.Context) error {
	f.fresh++
	if f.Fail != nil {
		return f.Fail
	}
	f.catchUp()
	return nil
}

// catchUp applies all there is, and tells of it.
func (f *behindWorld) catchUp() {
	f.shown, f.at = f.Store.Clone(), f.Index
	f.drops.Changed(f.Machine.Changes())
}
