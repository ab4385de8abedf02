package spool

import (
	"slices"

	pb "relay/cluster/spool/spoolpb"
)

// FailureMs is how long failed logins from a network count, from the last one.
const FailureMs = 10 * 60 * 1000

// maxNetworks bounds the table: a guesser with more networks than that is not slowed
// down by counting them.
const maxNetworks = 20000

// countNetworks counts the records of networks.
const countNetworks = "logins.networks"

// countFailures takes what a node has counted of failed logins.
func (t *tx) countFailures(h *pb.Tally) *pb.Result {
	if h.GetNode() == "" || len(h.Node) > 255 {
		return t.refuse(pb.Code_INVALID, "a Tally needs a node")
	}
	var last pb.Failures
	mark := key(kFailures, "\x00"+h.Node)
	t.read(mark, &last)
	if h.Seq == last.Seq {
		return t.refuse(pb.Code_DUPLICATE, "done before")
	}
	t.write(mark, &pb.Failures{LastMs: t.clock, Seq: h.Seq})
	res := t.ok()
	for _, one := range h.Tried {
		if n := one.GetNetwork(); n == "" || n[0] == 0 || len(n) > 50 {
			continue
		}
		t.countNetwork(one)
		res.Count++
	}
	return res
}

// countNetwork counts for one network.
func (t *tx) countNetwork(one *pb.Tried) {
	k := key(kFailures, one.Network)
	var f pb.Failures
	known := t.read(k, &f)
	if one.Clear || t.since(f.LastMs) > FailureMs {
		f.Count = 0
	}
	f.Count += min(one.Count, 1<<20)
	switch {
	case f.Count > 0 && (known || t.counters[countNetworks] < maxNetworks):
		f.LastMs = t.clock
		t.write(k, &f)
		if !known {
			t.count(countNetworks, 1)
		}
	case f.Count == 0 && known:
		t.del(k)
		t.count(countNetworks, -1)
	}
}

// sweepFailures forgets what no longer counts.
func (t *tx) sweepFailures(limit int, res *pb.Result) {
	var old [][]byte
	t.fail(t.b.Scan([]byte{kFailures}, after([]byte{kFailures}), func(k, v []byte) bool {
		var f pb.Failures
		if t.unmarshal(k, v, &f) && t.since(f.LastMs) > FailureMs {
			old = append(old, slices.Clone(k))
		}
		return t.err == nil && len(old) < limit
	}))
	for _, k := range old {
		t.del(k)
		if k[1] != 0 {
			t.count(countNetworks, -1)
		}
		res.Count++
	}
}
