package spool

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	pb "relay/cluster/spool/spoolpb"
)

// generation begins the cluster's life after a recovery. The members' certificates
// on record are of the generation before, and the survivors have made new ones by
// themselves: none is on record until they register.
func (t *tx) generation(h *pb.Generation) *pb.Result {
	switch {
	case !t.at(2):
		return t.refuse(pb.Code_INVALID, "there are no generations before cluster version 2")
	case h.Number <= t.cluster.Generation:
		return t.refuse(pb.Code_STALE, "the cluster is of generation %d", t.cluster.Generation)
	}
	t.cluster = proto.CloneOf(t.cluster)
	t.cluster.Generation = h.Number
	t.write(key(kMeta, "cluster"), t.cluster)
	members, err := View{R: t.b}.Members()
	if err != nil {
		t.fail(err)
		return nil
	}
	for _, m := range members {
		m.Serial, m.OldSerial, m.Key, m.OldKey, m.Ca, m.IssuedMs = nil, nil, nil, nil, nil, 0
		t.write(key(kMember, m.Id), m)
	}
	t.audit(&pb.Admin{Who: "cluster", Why: "a majority was gone for ever"},
		fmt.Sprintf("recover --peers %s", strings.Join(h.Peers, ",")))
	t.changes.Sessions, t.changes.Members = true, true
	return t.ok()
}
