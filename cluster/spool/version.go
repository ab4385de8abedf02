package spool

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	pb "relay/cluster/spool/spoolpb"
)

// The cluster version is part of the state: a Raise sets it, and Apply of an
// entry follows the version in the state at that entry, never the build. Under
// each number stands one line for each change of what Apply does, or of what a
// command may hold.
//
// Version 2:
//   - Raise sets the cluster version.
//   - Register and Renew say how long they hold (lease_ms). A Renew whose seq is not above the session's is
//     DUPLICATE and changes nothing; an Expire that comes too late is told the session's renewal.
//   - Register records serial and key of the node's certificate where none is on record, and keeps what is; Certify
//     replaces them. PutCa takes the steps of a rotation of the CA; Renew says how far a node is (ca).
//   - Outside of Apply: term and vote have checksums (disk.Log.SealPromises).
//   - Register and Renew leave the node's wall clock in its session.
const (
	MinVersion = 1 // the oldest cluster version whose entries this build applies
	MaxVersion = 2 // the newest
)

// since says from which version on a kind of command may be used; kinds that
// are not here are of version 1. A Raise is of version 1: it leads to version 2.
var since = map[Kind]uint32{
	KindCertify: 2,
	KindPutCa:   2,
}

// needs is the version that a command needs: of its kind, and of the fields
// that it uses. It stands in the frame's first octet.
func needs(kind Kind, header proto.Message) uint32 {
	v := max(1, since[kind])
	newer := false
	switch h := header.(type) {
	case *pb.Register:
		newer = h.WallMs != 0 || len(h.Previous) > 0 || h.OverEpoch != 0 || h.OverRenewed != 0 || h.LeaseMs != 0 ||
			h.Term != 0 || h.Last != 0 || certified(h.GetMember())
	case *pb.Renew:
		newer = h.WallMs != 0 || h.LeaseMs != 0 || h.Term != 0 || h.Last != 0 || h.Seq != 0 || h.SumIndex != 0 ||
			h.Sum != 0 || len(h.Ca) > 0
	case *pb.Sweep:
		newer = h.Ages || h.OrphansAgeMs != 0
	case *pb.PutToken:
		newer = h.GetToken().GetMadeMs() != 0
	}
	if newer {
		v = max(v, 2)
	}
	return v
}

// certified reports whether a member record that a command brings has a
// certificate.
func certified(m *pb.Member) bool { return len(m.GetSerial())+len(m.GetKey())+len(m.GetCa()) > 0 }

// Version is the version that a frame needs, 0 where it is cut short.
func (f Frame) Version() uint32 {
	if len(f) < preamble {
		return 0
	}
	return uint32(f[0])
}

// at reports whether the cluster version of the state has reached v.
func (s *state) at(v uint32) bool { return s.cluster.GetVersion() >= v }

// ErrVersion says that the cluster goes on with a version that this build does
// not know: the node must end before it applies the entry.
var ErrVersion = errors.New("spool: the cluster goes on with a version that this relayd does not know")

// raise sets the cluster version, and nothing else of the cluster's record.
func (t *tx) raise(h *pb.Raise) *pb.Result {
	switch {
	case t.cluster.GetId() == "":
		return t.refuse(pb.Code_MISSING, "there is no cluster yet")
	case h.From != t.cluster.Version:
		return t.refuse(pb.Code_STALE, "the cluster version is %d", t.cluster.Version)
	case h.To < h.From:
		return t.refuse(pb.Code_INVALID, "the cluster version never falls")
	case h.To > MaxVersion:
		t.fail(fmt.Errorf("%w: it goes on with version %d, this relayd knows %d to %d: install the newer one",
			ErrVersion, h.To, MinVersion, MaxVersion))
		return nil
	}
	t.cluster = proto.CloneOf(t.cluster)
	t.cluster.Version = h.To
	t.write(key(kMeta, "cluster"), t.cluster)
	t.changes.Version = h.To
	return t.ok()
}
