package edit

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/replica"
	"relay/node/replica/replicatest"
)

// TestUpdateIsMadeAnew: where somebody else has changed the record meanwhile, the change is made on what they wrote.
// It is given up where that goes on, and never loses theirs.
func TestUpdateIsMadeAnew(t *testing.T) {
	rep := replicatest.New(t)
	put := func(d *pb.PutDomain) {
		res, err := replica.Propose(t.Context(), rep, spool.KindPutDomain, d)
		require.NoError(t, err)
		require.Equal(t, pb.Code_OK, res.Code, res.Text)
	}
	put(&pb.PutDomain{Domain: &pb.Domain{Name: "a.test"}, Create: true})
	e := New("n1", rep, zap.NewNop())
	var d *pb.Domain
	reads := 0
	update := func(meanwhile int) error {
		return e.Update(t.Context(), admin.By{Who: "olga"}, spool.KindPutDomain, func(v spool.View) (err error) {
			d, _, err = v.Domain("a.test")
			reads++
			return err
		}, func(adm *pb.Admin) proto.Message {
			if meanwhile--; meanwhile >= 0 {
				put(&pb.PutDomain{Domain: &pb.Domain{Name: "a.test", CatchAll: "x@a.test"}, Update: true,
					ExpectChanged: d.Changed})
			}
			d.AuthPolicy = pb.AuthPolicy_AUTH_REFUSE
			return &pb.PutDomain{Admin: adm, Domain: d, Update: true, ExpectChanged: d.Changed}
		})
	}
	require.NoError(t, update(1))
	require.Equal(t, 2, reads)
	require.NoError(t, rep.View(func(v spool.View) (err error) { d, _, err = v.Domain("a.test"); return err }))
	require.Equal(t, "x@a.test", d.CatchAll)
	require.Equal(t, pb.AuthPolicy_AUTH_REFUSE, d.AuthPolicy)
	reads = 0
	require.ErrorIs(t, update(updateTries), admin.ErrConflict)
	require.Equal(t, updateTries, reads)
}

// TestFingerprintsInNotes: the audit log shows them as they are given, to be compared.
func TestFingerprintsInNotes(t *testing.T) {
	r := &pb.Route{Domain: "hub.example", NoEhlo: []string{"DSN"}, Fingerprints: [][]byte{{0x00, 0xab}, {0x1f}}}
	require.Equal(t, []string{"no_ehlo [DSN]", "fingerprints [00ab 1f]"}, valuesOf(r))
}

func TestWhatExistsNamesTheNextStep(t *testing.T) {
	for text, next := range map[string]string{
		"user bob@a.test exists": "'relayctl user show bob@a.test' shows it, 'relayctl user set' and 'passwd' change it",
		"domain a.test exists":   "'relayctl domain ls' shows it, 'relayctl domain set a.test' changes it",
		"the unique id is taken": "",
	} {
		var e *admin.Error
		require.ErrorAs(t, Refusal(&pb.Result{Code: pb.Code_EXISTS, Text: text}), &e)
		require.Equal(t, text, e.Detail)
		require.Equal(t, next, e.Next)
	}
}
