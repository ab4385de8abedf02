package spool

import (
	pb "relay/cluster/spool/spoolpb"
)

// entomb remembers, for good, which certificates of a member that is dropped count
// no more.
func (t *tx) entomb(m *pb.Member) {
	k := key(kTomb, m.Id)
	tomb := &pb.Tomb{}
	t.read(k, tomb)
	tomb.Node, tomb.AtMs, tomb.Index, tomb.Registered = m.Id, t.clock, t.index, m.Registered
	for _, serial := range [][]byte{m.Serial, m.OldSerial} {
		tomb.Serials = withOctets(tomb.Serials, serial)
	}
	for _, pub := range [][]byte{m.Key, m.OldKey} {
		tomb.Keys = withOctets(tomb.Keys, pub)
	}
	t.write(k, tomb)
}

func withOctets(all [][]byte, one []byte) [][]byte {
	if len(one) == 0 {
		return all
	}
	for _, have := range all {
		if string(have) == string(one) {
			return all
		}
	}
	return append(all, one)
}

// Tombs returns the nodes that were removed, by id.
func (v View) Tombs() ([]*pb.Tomb, error) {
	return list(v.R, []byte{kTomb}, func() *pb.Tomb { return new(pb.Tomb) })
}
