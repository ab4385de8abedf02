package spool_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

func (r *replica) policies() (domains []string) {
	require.NoError(r.t, r.view().Policies(func(p *pb.Policy) { domains = append(domains, p.Domain) }))
	require.EqualValues(r.t, len(domains), r.counter(spool.CountPolicies))
	return domains
}

// TestPoliciesAreKept: the newest of each domain, and no nonsense.
func TestPoliciesAreKept(t *testing.T) {
	r := newReplicaAt2(t)
	policy := func(change func(*pb.Policy)) *pb.PutPolicy {
		p := &pb.Policy{Domain: "x.example", Id: "1", Text: "mode: enforce", ExpiresMs: r.now.UnixMilli() + 60_000}
		if change != nil {
			change(p)
		}
		return &pb.PutPolicy{Policy: p}
	}
	require.Equal(t, pb.Code_INVALID, newReplica(t).do(spool.KindPutPolicy, policy(nil)).Code, "of version 1")
	require.Equal(t, pb.Code_OK, r.do(spool.KindPutPolicy, policy(nil)).Code)
	require.Equal(t, pb.Code_OK, r.do(spool.KindPutPolicy, policy(func(p *pb.Policy) { p.Id = "2" })).Code)
	require.Equal(t, []string{"x.example"}, r.policies())
	p, ok, err := r.view().Policy("x.example")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "2", p.Id)
	for name, change := range map[string]func(*pb.Policy){
		"no domain":     func(p *pb.Policy) { p.Domain = "" },
		"upper case":    func(p *pb.Policy) { p.Domain = "X.example" },
		"a long domain": func(p *pb.Policy) { p.Domain = strings.Repeat("x", 256) },
		"no text":       func(p *pb.Policy) { p.Text = "" },
		"a long text":   func(p *pb.Policy) { p.Text = strings.Repeat("x", 9000) },
		"over":          func(p *pb.Policy) { p.ExpiresMs = r.now.UnixMilli() - 1 },
		"for ever":      func(p *pb.Policy) { p.ExpiresMs += 400 * 24 * 3600 * 1000 },
	} {
		require.Equal(t, pb.Code_INVALID, r.do(spool.KindPutPolicy, policy(change)).Code, name)
	}
	require.Equal(t, pb.Code_INVALID, r.do(spool.KindPutPolicy, &pb.PutPolicy{}).Code)
}

// TestPoliciesAreBounded: where there is no room, those go that end first.
func TestPoliciesAreBounded(t *testing.T) {
	r := newReplicaAt2(t)
	end := r.now.UnixMilli() + 3600_000
	for i := range spool.MaxPolicies + 1 {
		r.do(spool.KindPutPolicy, &pb.PutPolicy{Policy: &pb.Policy{
			Domain: fmt.Sprintf("d%05d.example", i), Text: "x", ExpiresMs: end - int64(i)%5000,
		}})
	}
	all := r.policies()
	require.Len(t, all, spool.MaxPolicies+1-100)
	require.NotContains(t, all, "d04999.example")
	require.NotContains(t, all, "d09950.example")
	require.Contains(t, all, "d04949.example")
	require.Contains(t, all, fmt.Sprintf("d%05d.example", spool.MaxPolicies))
}
