package spool

import (
	"google.golang.org/protobuf/proto"

	pb "relay/cluster/spool/spoolpb"
)

// minSecret is what a secret has to have in octets.
const minSecret = 16

// putSecret gives the cluster its secret. It is for good: keys made of it must look
// the same for ever.
func (t *tx) putSecret(h *pb.PutSecret) *pb.Result {
	switch {
	case !t.at(2):
		return t.refuse(pb.Code_INVALID, "the cluster is of version 1")
	case len(h.Secret) < minSecret:
		return t.refuse(pb.Code_INVALID, "a secret needs %d octets", minSecret)
	case len(t.cluster.Secret) > 0:
		return t.refuse(pb.Code_DUPLICATE, "the cluster has a secret")
	}
	t.cluster = proto.CloneOf(t.cluster)
	t.cluster.Secret = h.Secret
	t.write(key(kMeta, "cluster"), t.cluster)
	return t.ok()
}
