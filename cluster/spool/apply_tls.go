package spool

import (
	"encoding/binary"
	"strings"

	pb "relay/cluster/spool/spoolpb"
)

// Bounds of counts for TLS-RPT.
const (
	MaxTLS     = 10_000  // in a cluster
	MaxTLSSize = 8 << 10 // octets of one
	tlsDays    = 5       // what is older, or as much ahead, is not kept
)

func keyTLSDomain(day uint32, domain string) []byte {
	k := binary.BigEndian.AppendUint32([]byte{kTLS}, day)
	return append(append(k, domain...), 0)
}

// putTLS keeps counts, each in place of what its source has counted before. One that has no room is left out: it is
// missing in a report.
func (t *tx) putTLS(h *pb.PutTls) *pb.Result {
	if !t.at(2) {
		return t.refuse(pb.Code_INVALID, "the cluster is of version 1")
	}
	res := t.ok()
	for _, c := range h.Counts {
		if !t.keepsTLS(c) {
			continue
		}
		k := append(keyTLSDomain(c.Day, c.Domain), c.Source...)
		if t.get(k) == nil {
			if t.counters[CountTLS] >= MaxTLS {
				continue
			}
			t.count(CountTLS, 1)
		}
		t.write(k, c)
		res.Count++
	}
	return res
}

func (t *tx) keepsTLS(c *pb.Tls) bool {
	today := t.clock / dayMs
	return c.Domain != "" && len(c.Domain) <= 255 && !strings.Contains(c.Domain, "\x00") &&
		c.Source != "" && len(c.Source) <= 255 && len(c.Counts) > 0 && len(c.Counts) <= MaxTLSSize &&
		int64(c.Day) > today-tlsDays && int64(c.Day) < today+tlsDays
}

func (t *tx) dropTLS(h *pb.DropTls) *pb.Result {
	if !t.at(2) {
		return t.refuse(pb.Code_INVALID, "the cluster is of version 1")
	}
	t.scan(keyTLSDomain(h.Day, h.Domain), 0, func(k, _ []byte) {
		t.del(k)
		t.count(CountTLS, -1)
	})
	return t.ok()
}

// TLS calls each for all counts that are kept for TLS-RPT, by day and domain.
func (v View) TLS(each func(*pb.Tls)) error {
	all, err := list(v.R, []byte{kTLS}, func() *pb.Tls { return new(pb.Tls) })
	for _, c := range all {
		each(c)
	}
	return err
}
