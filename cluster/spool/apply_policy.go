package spool

import (
	"slices"
	"strings"

	pb "relay/cluster/spool/spoolpb"
)

// Bounds of MTA-STS policies: strangers write them.
const (
	MaxPolicies    = 10_000                       // in a cluster
	policyDrop     = 100                          // of them go at once where there is no room for another
	maxPolicySize  = 8 << 10                      // octets of one
	maxPolicyAgeMs = (366 + 1) * 24 * 3600 * 1000 // RFC 8461 §3.2 has a year
)

func keyPolicy(domain string) []byte { return key(kPolicy, domain) }

// putPolicy keeps the policy of a domain in place of the one before. Of too many the ones that end
// first make room.
func (t *tx) putPolicy(h *pb.PutPolicy) *pb.Result {
	p := h.GetPolicy()
	switch {
	case !t.at(2):
		return t.refuse(pb.Code_INVALID, "the cluster is of version 1")
	case p.GetDomain() == "" || len(p.GetDomain()) > 255 || p.Domain != strings.ToLower(p.Domain) || p.Text == "":
		return t.refuse(pb.Code_INVALID, "a policy needs a domain in lower case, and a text")
	case len(p.Text)+len(p.Id) > maxPolicySize:
		return t.refuse(pb.Code_INVALID, "a policy has %d octets at most", maxPolicySize)
	case p.ExpiresMs > t.clock+maxPolicyAgeMs || p.ExpiresMs <= t.clock:
		return t.refuse(pb.Code_INVALID, "the policy is over, or would count for more than a year")
	}
	if t.get(keyPolicy(p.Domain)) == nil {
		if t.counters[CountPolicies] >= MaxPolicies {
			t.dropPolicies()
		}
		t.count(CountPolicies, 1)
	}
	t.write(keyPolicy(p.Domain), p)
	return t.ok()
}

// dropPolicies makes room: the policies that end first go, equal ones by their domains' order.
func (t *tx) dropPolicies() {
	type end struct {
		key []byte
		ms  int64
	}
	var all []end
	t.scan([]byte{kPolicy}, 0, func(k, v []byte) {
		var p pb.Policy
		if t.unmarshal(k, v, &p) {
			all = append(all, end{slices.Clone(k), p.ExpiresMs})
		}
	})
	slices.SortStableFunc(all, func(a, b end) int { return int(min(max(a.ms-b.ms, -1), 1)) })
	for _, one := range all[:min(len(all), policyDrop)] {
		t.del(one.key)
		t.count(CountPolicies, -1)
	}
}

// Policy returns the MTA-STS policy of a domain as it was fetched last; its life may be over.
func (v View) Policy(domain string) (*pb.Policy, bool, error) {
	return load(v.R, keyPolicy(domain), new(pb.Policy))
}

// Policies calls each for every MTA-STS policy that is kept.
func (v View) Policies(each func(*pb.Policy)) error {
	all, err := list(v.R, []byte{kPolicy}, func() *pb.Policy { return new(pb.Policy) })
	for _, p := range all {
		each(p)
	}
	return err
}
