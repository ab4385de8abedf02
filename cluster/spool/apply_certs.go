package spool

import (
	pb "relay/cluster/spool/spoolpb"
)

// Bounds of what ACME keeps.
const (
	maxCertData = 64 << 10
	maxCerts    = 2000
	// CertTokenMs is how long the answer to a challenge is of use.
	CertTokenMs = 24 * 3600 * 1000
)

const countCerts = "certs.records"

// putCert keeps a certificate with its key, or takes it away where there is no
// data. A change that no operator makes stands in no audit log.
func (t *tx) putCert(h *pb.PutCert) *pb.Result {
	if h.GetName() == "" || len(h.Name) > 300 || len(h.Data) > maxCertData {
		return t.refuse(pb.Code_INVALID, "a certificate needs a name and at most %d octets", maxCertData)
	}
	k := key(kCert, h.Name)
	known := t.get(k) != nil
	switch {
	case len(h.Data) == 0 && !known:
		return t.refuse(pb.Code_MISSING, "there is no certificate %s", h.Name)
	case len(h.Data) == 0:
		t.del(k)
		t.count(countCerts, -1)
	case !known && t.counters[countCerts] >= maxCerts:
		return t.refuse(pb.Code_INVALID, "there are %d certificates already", maxCerts)
	default:
		t.write(k, &pb.Cert{Name: h.Name, Data: h.Data, Token: h.Token, ChangedMs: t.clock})
		if !known {
			t.count(countCerts, 1)
		}
	}
	t.changes.Directory = true
	if h.Admin != nil {
		t.audit(h.Admin, describe(h))
	}
	return t.ok()
}

// sweepCerts forgets challenges that were not taken away.
func (t *tx) sweepCerts(limit int, res *pb.Result) {
	if t.err != nil || t.counters[countCerts] == 0 {
		return
	}
	var old [][]byte
	t.fail(t.b.Scan([]byte{kCert}, after([]byte{kCert}), func(k, v []byte) bool {
		var c pb.Cert
		if t.unmarshal(k, v, &c) && c.Token && t.since(c.ChangedMs) > CertTokenMs {
			old = append(old, append([]byte(nil), k...))
		}
		return t.err == nil && len(old) < limit
	}))
	for _, k := range old {
		t.del(k)
		t.count(countCerts, -1)
		res.Count++
	}
}

// Cert returns what ACME keeps under a name.
func (v View) Cert(name string) (*pb.Cert, bool, error) {
	return load(v.R, key(kCert, name), new(pb.Cert))
}
