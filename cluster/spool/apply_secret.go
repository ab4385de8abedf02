package spool

import (
	"bytes"

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

// reseal puts secrets into records under another key. It leaves those that were set meanwhile.
func (t *tx) reseal(h *pb.Reseal) *pb.Result {
	for _, item := range h.Items {
		var r pb.Route
		k := keyRoute(item.Domain, item.From, item.Login)
		if len(item.Old) == 0 || !t.read(k, &r) {
			continue
		}
		switch {
		case bytes.Equal(r.Password, item.Old):
			r.Password = item.Sealed
		case bytes.Equal(r.ClientKey, item.Old):
			r.ClientKey = item.Sealed
		default:
			continue
		}
		t.write(k, &r)
		t.changes.Directory, t.changes.Routes = true, true
	}
	return t.ok()
}

// Sealed lists what is sealed in the state.
func (v View) Sealed() (all [][]byte, err error) {
	routes, err := v.Routes()
	for _, r := range routes {
		for _, one := range [][]byte{r.Password, r.ClientKey} {
			if len(one) > 0 {
				all = append(all, one)
			}
		}
	}
	return all, err
}
