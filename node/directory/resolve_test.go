package directory

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica/replicatest"
)

// directoryWorld has two domains that catch all into each other, one that
// catches into an account, and aliases of every shape.
func directoryWorld(t *testing.T) *replicatest.Fake {
	w := replicatest.New(t)
	must := func(kind spool.Kind, h proto.Message) {
		f, err := spool.Encode(kind, h)
		require.NoError(t, err)
		res, err := w.Propose(t.Context(), f)
		require.NoError(t, err)
		require.Equal(t, pb.Code_OK, res.Code, res.Text)
	}
	must(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "example.test"}})
	must(spool.KindPutSettings, &pb.PutSettings{Settings: &pb.Settings{DefaultDomain: "example.test"}})
	for name, all := range map[string]string{
		"all.test": "alice@example.test", "ping.test": "x@pong.test", "pong.test": "x@ping.test", "bare.test": "",
	} {
		must(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: name, CatchAll: all}})
	}
	for _, a := range []*pb.Account{
		{Address: "alice@example.test"},
		{Address: "bob@example.test"}, {Address: "bob+own@example.test"}, {Address: "gone@example.test", Disabled: true},
		{Address: "jörg@example.test"}, {Address: "owner-choir@example.test"},
	} {
		must(spool.KindPutAccount, &pb.PutAccount{Account: a, Create: true})
	}
	deep := []*pb.Alias{{Address: fmt.Sprintf("deep%d@example.test", MaxDepth+1), Targets: []string{"alice"}}}
	for i := range MaxDepth + 1 {
		deep = append(deep, &pb.Alias{
			Address: fmt.Sprintf("deep%d@example.test", i), Targets: []string{fmt.Sprintf("deep%d@example.test", i+1)},
		})
	}
	for _, a := range append(deep,
		&pb.Alias{Address: "postmaster@example.test", Targets: []string{"alice"}},
		&pb.Alias{
			Address: "team@example.test", Targets: []string{
				"alice", "Bob@Example.TEST", "inner@example.test", "x@far.test", "X@far.test",
			},
		},
		&pb.Alias{
			Address: "inner@example.test", Targets: []string{"bob+tag", "x@FAR.test", "team@example.test", "gone", "nobody"},
			Owner: "inner-owner@example.test",
		},
		&pb.Alias{
			Address: "list@example.test", Targets: []string{"y@far.test", "team@example.test"}, Owner: "owner@example.test",
		},
		&pb.Alias{Address: "club@example.test", Targets: []string{"z@far.test", "choir@example.test"}},
		&pb.Alias{Address: "owner-club@example.test", Targets: []string{"alice"}},
		&pb.Alias{Address: "owner-owner-club@example.test", Targets: []string{"bob"}},
		&pb.Alias{Address: "choir@example.test", Targets: []string{"bob"}},
		&pb.Alias{Address: "self@example.test", Targets: []string{"self@example.test"}},
		&pb.Alias{Address: "ring@example.test", Targets: []string{"ring2@example.test"}},
		&pb.Alias{Address: "ring2@example.test", Targets: []string{"ring@example.test"}},
		&pb.Alias{Address: "left@example.test", Targets: []string{"gone"}},
		&pb.Alias{Address: "void@example.test", Targets: []string{"nobody"}},
	) {
		must(spool.KindPutAlias, &pb.PutAlias{Alias: a})
	}
	return w
}

func TestResolve(t *testing.T) {
	w := directoryWorld(t)
	for _, c := range []struct {
		address string
		want    []string // mailbox, or address "owner" for remote
		err     error
	}{
		{"alice@example.test", []string{"alice@example.test"}, nil},
		{"ALICE@EXAMPLE.TEST", []string{"alice@example.test"}, nil},
		{"alice+a+b@example.test", []string{"alice@example.test"}, nil},
		{"bob+own@example.test", []string{"bob+own@example.test"}, nil},
		{"bob+other@example.test", []string{"bob@example.test"}, nil},
		{"+tag@example.test", nil, ErrNoUser},
		{"JO\u0308RG@example.test", []string{"jörg@example.test"}, nil},
		{"nobody@example.test", nil, ErrNoUser},
		{"gone@example.test", nil, ErrDisabled},
		{"gone+tag@example.test", nil, ErrDisabled},
		{"who@far.test", []string{">who@far.test"}, nil},
		{"Who@FAR.test", []string{">Who@far.test"}, nil},
		// lists: each member once, with the owner nearest to it
		{"team@example.test", []string{
			"alice@example.test", "bob@example.test", ">x@far.test inner-owner@example.test", ">X@far.test",
		}, nil},
		{"list+tag@example.test", []string{
			">y@far.test owner@example.test", "alice@example.test owner@example.test", "bob@example.test owner@example.test",
			">x@far.test inner-owner@example.test", ">X@far.test owner@example.test",
		}, nil},
		// owners by their name
		{"Club+x@example.test", []string{
			">z@far.test owner-club@example.test", "bob@example.test owner-choir@example.test",
		}, nil},
		{"owner-club@example.test", []string{"alice@example.test"}, nil},
		{"self@example.test", nil, ErrAliasLoop},
		{"ring@example.test", nil, ErrAliasLoop},
		{"deep0@example.test", nil, ErrAliasLoop},
		{"deep2@example.test", []string{"alice@example.test"}, nil},
		{"left@example.test", nil, ErrDisabled},
		{"void@example.test", nil, ErrNoUser},
		// catch-alls
		{"anyone@all.test", []string{"alice@example.test"}, nil},
		{"anyone@ping.test", nil, ErrAliasLoop},
		{"anyone@bare.test", nil, ErrNoUser},
		// RFC 5321 §4.5.1
		{"PostMaster@example.test", []string{"alice@example.test"}, nil},
		{"postmaster@bare.test", []string{"alice@example.test"}, nil},
		{"postmaster@ping.test", []string{"alice@example.test"}, nil},
		{"alice", nil, ErrNoDomain},
	} {
		t.Run(c.address, func(t *testing.T) {
			require.NoError(t, w.View(func(v spool.View) error {
				targets, local, err := Resolve(v, c.address)
				if c.err != nil {
					require.ErrorIs(t, err, c.err)
					return nil
				}
				require.NoError(t, err)
				require.Equal(t, c.want[0][0] != '>' || len(targets) > 1, local)
				var got []string
				for _, one := range targets {
					s := one.Mailbox
					if s == "" {
						s = ">" + one.Recipient
					}
					if one.Owner != "" {
						s += " " + one.Owner
					}
					got = append(got, s)
				}
				require.Equal(t, c.want, got)
				return nil
			}))
		})
	}
}
