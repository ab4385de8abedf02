package directory

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica/replicatest"
	"relay/node/srs"
)

// TestReturnAddresses: a stranger's sender is rewritten where that is on, leads back also where it is off by now, and
// goes nowhere with a new key. No catch-all takes what was not made here.
func TestReturnAddresses(t *testing.T) {
	w := replicatest.New(t)
	must := func(kind spool.Kind, h proto.Message) {
		t.Helper()
		f, err := spool.Encode(kind, h)
		require.NoError(t, err)
		res, err := w.Propose(t.Context(), f)
		require.NoError(t, err)
		require.Equal(t, pb.Code_OK, res.Code, res.Text)
	}
	set := func(s *pb.Settings) { must(spool.KindPutSettings, &pb.PutSettings{Settings: s}) }
	must(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	must(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	must(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "example.test", CatchAll: "alice@example.test"}})
	must(spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: "alice@example.test"}, Create: true})
	forward := func(sender string) (made string) {
		require.NoError(t, w.View(func(v spool.View) (err error) {
			made, err = Sender(v, sender, replicatest.Start)
			return err
		}))
		return made
	}
	require.Equal(t, "bob@far.example", forward("bob@far.example"), "it is off")
	set(&pb.Settings{SrsDomain: "example.test"})
	require.Equal(t, "bob@far.example", forward("bob@far.example"), "there is no secret yet")
	must(spool.KindPutSecret, &pb.PutSecret{Secret: make([]byte, 32)})
	made := forward("bob@far.example")
	require.True(t, srs.Is(made), made)
	require.Equal(t, "alice@example.test", forward("alice@example.test"), "at home here")
	require.Empty(t, forward(""))

	back := func(address string) ([]Target, error) {
		var targets []Target
		err := w.View(func(v spool.View) (err error) { targets, _, err = Resolve(v, address); return err })
		return targets, err
	}
	for _, s := range []*pb.Settings{{SrsDomain: "example.test"}, {}} {
		set(s)
		targets, err := back(made)
		require.NoError(t, err)
		require.Equal(t, []Target{{Recipient: "bob@far.example"}}, targets)
	}
	require.Equal(t, "bob@far.example", forward("bob@far.example"), "off again")
	set(&pb.Settings{SrsDomain: "gone.test"})
	require.Equal(t, "bob@far.example", forward("bob@far.example"), "its domain is not local any more")
	_, err := back("SRS0=aaaaaaaa=aa=far.example=bob@example.test")
	require.ErrorIs(t, err, ErrNoUser)
	require.ErrorIs(t, err, srs.ErrForged)
	set(&pb.Settings{SrsDomain: "example.test", SrsGeneration: 1})
	_, err = back(made)
	require.ErrorIs(t, err, srs.ErrForged)
	old := &srs.Scheme{Secret: make([]byte, 32), Generation: 1, Domain: "example.test"}
	_, err = back(old.Forward("bob@far.example", replicatest.Start.Add(-23*24*time.Hour)))
	require.ErrorIs(t, err, srs.ErrExpired)
}
