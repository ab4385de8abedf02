package spool_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

func (r *replica) tls() (all []string) {
	require.NoError(r.t, r.view().TLS(func(c *pb.Tls) {
		all = append(all, fmt.Sprintf("%s %s %s", c.Domain, c.Source, c.Counts))
	}))
	require.EqualValues(r.t, len(all), r.counter(spool.CountTLS))
	return all
}

// TestCountsOfTLS: the newest of each source is kept, until the domain's day is dropped; nonsense is left out.
func TestCountsOfTLS(t *testing.T) {
	r := newReplicaAt2(t)
	today := uint32(r.now.Unix() / 86400)
	put := func(day uint32, domain, source, counts string) uint64 {
		res := r.do(spool.KindPutTls, &pb.PutTls{Counts: []*pb.Tls{
			{Day: day, Domain: domain, Source: source, Counts: []byte(counts)},
		}})
		require.Equal(t, pb.Code_OK, res.Code)
		return uint64(res.Count)
	}
	require.Equal(t, pb.Code_INVALID, newReplica(t).do(spool.KindPutTls, &pb.PutTls{}).Code, "of version 1")
	require.Equal(t, pb.Code_INVALID, newReplica(t).do(spool.KindDropTls, &pb.DropTls{}).Code, "of version 1")
	for _, counts := range []string{"1", "2"} {
		require.EqualValues(t, 1, put(today, "a.example", "n1", counts))
	}
	put(today, "a.example", "n2", "3")
	put(today, "a.example.org", "n1", "4")
	put(today-1, "a.example", "n1", "5")
	require.ElementsMatch(t, []string{"a.example n1 2", "a.example n2 3", "a.example.org n1 4", "a.example n1 5"}, r.tls())
	r.do(spool.KindDropTls, &pb.DropTls{Day: today, Domain: "a.example"})
	require.ElementsMatch(t, []string{"a.example.org n1 4", "a.example n1 5"}, r.tls())
	for name, n := range map[string]uint64{
		"old":       put(today-5, "a.example", "n1", "x"),
		"ahead":     put(today+5, "a.example", "n1", "x"),
		"no domain": put(today, "", "n1", "x"),
		"a NUL":     put(today, "a\x00b", "n1", "x"),
		"no source": put(today, "a.example", "", "x"),
		"no counts": put(today, "a.example", "n1", ""),
		"too long":  put(today, "a.example", "n1", strings.Repeat("x", spool.MaxTLSSize+1)),
	} {
		require.Zero(t, n, name)
	}
	require.Len(t, r.tls(), 2)
}

func TestCountsOfTLSAreBounded(t *testing.T) {
	r := newReplicaAt2(t)
	for i := range spool.MaxTLS/1000 + 1 {
		h := &pb.PutTls{}
		for k := range 1000 {
			h.Counts = append(h.Counts, &pb.Tls{Day: uint32(r.now.Unix() / 86400), Domain: fmt.Sprint(1000*i + k),
				Source: "n1", Counts: []byte("x")})
		}
		r.do(spool.KindPutTls, h)
	}
	require.Len(t, r.tls(), spool.MaxTLS)
}
