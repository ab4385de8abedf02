package spool_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

func putSuppressed(domain, address string, life time.Duration) *pb.PutSuppressed {
	return &pb.PutSuppressed{Admin: &pb.Admin{Who: "ann", Why: "asked"}, Suppressed: &pb.Suppressed{
		Domain: domain, Address: address, LifeMs: life.Milliseconds()}}
}

// suppressed lists what is on the list of a domain, and that the counter agrees.
func (r *replica) suppressed(domain string) (all []string) {
	n := int64(0)
	require.NoError(r.t, r.view().AllSuppressed("", "", func(*pb.Suppressed) bool { n++; return true }))
	require.Equal(r.t, n, r.counter(spool.CountSuppressed))
	require.Equal(r.t, 2*int(n), countKeys(r, 'V'), "each has its entry by time")
	require.NoError(r.t, r.view().AllSuppressed(domain, "", func(s *pb.Suppressed) bool {
		all = append(all, s.Address)
		return true
	}))
	return all
}

// TestSuppressionList: it is kept by sender domain, ends by itself, and by an operator's word.
func TestSuppressionList(t *testing.T) {
	r := newReplicaAt2(t)
	for _, put := range []*pb.PutSuppressed{
		putSuppressed("a.example", "x@far.example", time.Hour), putSuppressed("a.example", "y@far.example", 3*time.Hour),
		putSuppressed("a.example.net", "z@far.example", time.Hour),
		putSuppressed("a.example", "x@far.example", 2*time.Hour), // again
	} {
		require.Equal(t, pb.Code_OK, r.do(spool.KindPutSuppressed, put).Code)
	}
	require.Equal(t, []string{"x@far.example", "y@far.example"}, r.suppressed("a.example"))
	one, ok, err := r.view().Suppressed("a.example", "x@far.example", r.now.UnixMilli())
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, []string{"ann", "asked"}, []string{one.Who, one.Why})
	require.Equal(t, one.SinceMs+2*time.Hour.Milliseconds(), one.ExpiresMs)
	_, ok, err = r.view().Suppressed("a.example", "x@far.example", one.ExpiresMs)
	require.NoError(t, err)
	require.False(t, ok, "it is over before a Sweep comes")

	require.Equal(t, pb.Code_MISSING,
		r.do(spool.KindDropSuppressed, &pb.DropSuppressed{Domain: "b.example", Address: "x@far.example"}).Code)
	require.Equal(t, pb.Code_OK,
		r.do(spool.KindDropSuppressed, &pb.DropSuppressed{Domain: "a.example.net", Address: "z@far.example"}).Code)
	for _, c := range []struct {
		after time.Duration
		want  []string
	}{{time.Hour, []string{"x@far.example", "y@far.example"}}, {time.Hour, []string{"y@far.example"}}, {time.Hour, nil}} {
		for range int(c.after / (30 * time.Second)) { // the clock goes by steps
			r.now = r.now.Add(30 * time.Second)
			r.do(spool.KindSweep, &pb.Sweep{Limit: 10, Ages: true})
		}
		require.Equal(t, c.want, r.suppressed("a.example"), "after %s more", c.after)
	}
}

// TestVerdictsSuppress: the end of a recipient and its place on the list are one step, and a verdict that is not taken
// puts nobody there.
func TestVerdictsSuppress(t *testing.T) {
	r := newReplicaAt2(t)
	one, two := r.register("n1", "a"), r.register("n2", "a")
	settle := func(epoch uint64, id spool.ID, st pb.State, s *pb.Suppressed) pb.Code {
		return r.do(spool.KindSettle, &pb.Settle{Epoch: epoch, Node: "n", Verdicts: []*pb.Verdict{{
			Id: id[:], Attempt: 1, State: st, AtMs: r.now.UnixMilli(), NextMs: r.now.UnixMilli() + 1000, Suppress: s,
		}}}).Codes[0]
	}
	says := func(address string) *pb.Suppressed {
		return &pb.Suppressed{Domain: "a.example", Address: address, LifeMs: 3_600_000, Reply: "550 5.1.1 no", Who: "forged"}
	}
	for i := range byte(5) {
		r.do(spool.KindAccept, acceptOf(newID(i+1), one, []string{fmt.Sprintf("x%d@far.example", i)}), []byte("body"))
	}
	require.Equal(t, pb.Code_STALE, settle(two, newID(1), pb.State_BOUNCED, says("x0@far.example")))
	require.Equal(t, pb.Code_OK, settle(one, newID(1), pb.State_BOUNCED, says("x0@far.example")))
	require.Equal(t, pb.Code_OK, settle(one, newID(2), pb.State_DEFERRED, says("x1@far.example")))
	require.Equal(t, pb.Code_OK, settle(one, newID(3), pb.State_DELIVERED, says("x2@far.example")))
	require.Equal(t, pb.Code_OK, settle(one, newID(4), pb.State_BOUNCED, says(strings.Repeat("x", 400))))
	require.Equal(t, pb.Code_OK, settle(one, newID(5), pb.State_BOUNCED, nil))
	require.Equal(t, []string{"x0@far.example"}, r.suppressed("a.example"))
	s, _, err := r.view().Suppressed("a.example", "x0@far.example", r.now.UnixMilli())
	require.NoError(t, err)
	id := newID(1)
	require.Equal(t, id[:], s.Id)
	require.Empty(t, s.Who)
}

// TestSuppressionsThatSayNothing are refused, whoever proposes them.
func TestSuppressionsThatSayNothing(t *testing.T) {
	v1 := newReplica(t)
	require.Equal(t, pb.Code_INVALID,
		v1.do(spool.KindPutSuppressed, putSuppressed("a.example", "x@far.example", time.Hour)).Code)
	r := newReplicaAt2(t)
	for _, put := range []*pb.PutSuppressed{
		{}, putSuppressed("", "x@far.example", time.Hour), putSuppressed("a.example", "", time.Hour),
		putSuppressed("a.example", "x@far.example", 0), putSuppressed("a.example", "x@far.example", 11*365*24*time.Hour),
		putSuppressed("a\x00b", "x@far.example", time.Hour), putSuppressed("a.example", "x\r\n@far.example", time.Hour),
	} {
		require.Equal(t, pb.Code_INVALID, r.do(spool.KindPutSuppressed, put).Code)
	}
	require.Empty(t, r.suppressed(""))
}
