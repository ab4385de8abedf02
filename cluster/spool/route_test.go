package spool_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// TestRoutesForSomeSenders stand beside the one for all, and neither replaces the other.
func TestRoutesForSomeSenders(t *testing.T) {
	r := newReplicaAt2(t)
	for _, one := range []*pb.Route{
		{Domain: "*", Target: "smtp:a"}, {Domain: "*", Target: "smtp:b", From: "@x.example"},
		{Domain: "*", Target: "smtp:c", Login: "u@x.example"},
		{Domain: "*", Target: "smtp:d", From: "@x.example", Login: "u@x.example"},
		{Domain: "low.example", Target: "smtp:e", From: "@x.example"},
	} {
		require.Equal(t, pb.Code_OK, r.do(spool.KindPutRoute, &pb.PutRoute{Route: one}).Code)
		got, ok, err := r.view().RouteTo(one.Domain, one.From, one.Login)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, one.Target, got.Target)
	}
	plain, ok, err := r.view().Route("below.low.example")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "smtp:a", plain.Target, "whoever the mail is from")
	all, err := r.view().Routes()
	require.NoError(t, err)
	require.Len(t, all, 5)

	drop := &pb.DropRoute{Domain: "*", From: "@x.example"}
	require.Equal(t, pb.Code_OK, r.do(spool.KindDropRoute, drop).Code)
	res := r.do(spool.KindDropRoute, drop)
	require.Equal(t, pb.Code_MISSING, res.Code)
	require.Contains(t, res.Text, "there is no route * --from @x.example")
	all, err = r.view().Routes()
	require.NoError(t, err)
	require.Len(t, all, 4)
	require.Equal(t, pb.Code_INVALID,
		r.do(spool.KindPutRoute, &pb.PutRoute{Route: &pb.Route{Domain: "a\x00b", Target: "mx"}}).Code)
}

// TestListsOfRecipients: addresses come and go, each domain having its own, and those of other domains are refused.
func TestListsOfRecipients(t *testing.T) {
	put := func(add, remove []string) *pb.PutRecipients {
		return &pb.PutRecipients{Domain: "x.example", Add: add, Remove: remove}
	}
	v1 := newReplica(t)
	require.Equal(t, pb.Code_INVALID, v1.do(spool.KindPutRecipients, put([]string{"a@x.example"}, nil)).Code)
	r := newReplicaAt2(t)
	from := func(domain, after string) (all []string) {
		require.NoError(t, r.view().ListedFrom(domain, after, func(one string) bool {
			all = append(all, one)
			return len(all) < 2
		}))
		return all
	}
	res := r.do(spool.KindPutRecipients, put([]string{"c@x.example", "a@x.example", "b@x.example", "a@x.example"}, nil))
	require.Equal(t, pb.Code_OK, res.Code, res.Text)
	require.EqualValues(t, 3, res.Count)
	for _, bad := range []string{"a@y.example", "@x.example", "a\x00@x.example", "x.example", "a@b.x.example"} {
		require.Equal(t, pb.Code_INVALID, r.do(spool.KindPutRecipients, put([]string{bad}, nil)).Code, bad)
	}
	require.Equal(t, pb.Code_INVALID,
		r.do(spool.KindPutRecipients, put(slices.Repeat([]string{"q@x.example"}, spool.MaxListed+1), nil)).Code)
	other := &pb.PutRecipients{Domain: "x.example.org", Add: []string{"z@x.example.org"}}
	require.Equal(t, pb.Code_OK, r.do(spool.KindPutRecipients, other).Code)
	require.Equal(t, []string{"a", "b"}, from("x.example", ""))
	require.Equal(t, []string{"c"}, from("x.example", "b"))
	require.Equal(t, []string{"z"}, from("x.example.org", ""))
	res = r.do(spool.KindPutRecipients, put([]string{"d@x.example"}, []string{"a@x.example", "q@x.example"}))
	require.EqualValues(t, 2, res.Count)
	for local, want := range map[string]bool{"a": false, "b": true, "d": true, "q": false} {
		is, err := r.view().Listed("x.example", local)
		require.NoError(t, err)
		require.Equal(t, want, is, local)
	}
}
