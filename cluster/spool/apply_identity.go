package spool

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	pb "relay/cluster/spool/spoolpb"
)

// mistaken says why a Register must not be taken; nil: it may. From version 2 on
// the member's record keeps the nonce of the last Register, whatever becomes of
// the session: a node that does not know it is another copy of that node's directory,
// or an older one. And a session that is there goes over only to whoever names it as
// it is now, so that nobody takes it from a node that still renews it.
func (t *tx) mistaken(h *pb.Register, old *pb.Session) *pb.Result {
	if !t.at(2) {
		return nil
	}
	m := &pb.Member{}
	t.read(key(kMember, h.Member.Id), m)
	switch {
	case m.Nonce == "" || slices.Contains(h.Previous, m.Nonce):
	case len(h.Previous) == 0:
		// It has not seen the Raise yet, or it would have said more.
		return t.refuse(pb.Code_BUSY, "catch up with cluster version 2 first")
	default:
		return t.refuse(pb.Code_STALE, "another copy of this data directory registered at %s at %s",
			m.Address, t.registeredAt(old, m))
	}
	if old != nil && (h.OverEpoch != old.Epoch || h.OverRenewed != old.Renewed) {
		res := t.refuse(pb.Code_BUSY, "node %s has a session, last renewed at %d", old.Node, old.Renewed)
		res.Epoch, res.Renewed, res.Node = old.Epoch, old.Renewed, m.Address
		return res
	}
	return nil
}

// registeredAt names the time, as far as it is known, of a member's last Register.
func (t *tx) registeredAt(old *pb.Session, m *pb.Member) string {
	if old == nil {
		return fmt.Sprintf("entry %d", m.Registered)
	}
	return time.UnixMilli(old.RenewedMs).UTC().Format(time.RFC3339)
}

// enrol writes the record of a node that registers. What Apply itself has put
// there is kept; the words on its log are kept only while it has that log.
func (t *tx) enrol(h *pb.Register) {
	k := key(kMember, h.Member.Id)
	if !t.at(2) {
		t.write(k, h.Member)
		return
	}
	old, m := &pb.Member{}, proto.CloneOf(h.Member)
	t.read(k, old)
	m.Nonce, m.Registered, m.DrainMs = h.Nonce, t.index, old.DrainMs
	t.keepCertificate(m)
	if m.Log == old.Log {
		m.Term, m.Last = old.Term, old.Last
	}
	t.write(k, m)
}

// outlive keeps in the member's record what a session that ends said of the
// node's log.
func (t *tx) outlive(one *pb.Session) {
	m := &pb.Member{}
	if !t.at(2) || one.Term == 0 || !t.read(key(kMember, one.Node), m) {
		return
	}
	m.Term, m.Last = one.Term, one.Last
	t.write(key(kMember, one.Node), m)
}
