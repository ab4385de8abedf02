package replicatest

import (
	"context"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// Alice is the user whom AddAlice makes.
const Alice = "alice@example.test"

// Must applies a command, which must go well.
func (r *Fake) Must(kind spool.Kind, h proto.Message, body ...[]byte) *pb.Result {
	r.t.Helper()
	f, err := spool.Encode(kind, h, body...)
	require.NoError(r.t, err)
	res, err := r.Propose(context.Background(), f)
	require.NoError(r.t, err)
	require.Equal(r.t, pb.Code_OK, res.Code, res.Text)
	return res
}

// Register begins the session of node n1 that Epoch tells from now on.
func (r *Fake) Register() {
	r.t.Helper()
	r.Session = r.Must(spool.KindRegister,
		&pb.Register{Nonce: "x", Member: &pb.Member{Id: "n1", MaxCommand: spool.MaxVersion}}).Epoch
}

// AddAlice makes the domain example.test, and Alice with the hash of her password.
func (r *Fake) AddAlice(password string) {
	r.t.Helper()
	r.Must(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "example.test"}})
	r.Put(&pb.Account{Address: Alice, Password: password}, true)
}

// Put makes an account, or changes one.
func (r *Fake) Put(a *pb.Account, create bool) {
	r.t.Helper()
	r.Must(spool.KindPutAccount, &pb.PutAccount{Account: a, Create: create, Update: !create})
}

// Account is Alice's, with all that was applied.
func (r *Fake) Account() (a *pb.Account) {
	r.t.Helper()
	require.NoError(r.t, r.View(func(v spool.View) (err error) { a, _, err = v.Account(Alice); return err }))
	return a
}

// Change changes Alice's account.
func (r *Fake) Change(f func(*pb.Account)) {
	r.t.Helper()
	a := r.Account()
	f(a)
	r.Put(a, false)
}
