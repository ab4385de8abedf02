package spool

import (
	"bytes"
	"crypto/sha256"
	"encoding/pem"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	pb "relay/cluster/spool/spoolpb"
)

// The steps of a rotation of the CA, as Cluster.ca_step counts them.
const (
	CASettled = 0 // one CA is trusted, and signs
	CATrust   = 1 // the next one is trusted beside it, and does not sign yet
	CASign    = 2 // the next one signs; the one before is still trusted
)

// keepCertificate carries what is on record of a node's certificate into a new
// member record. If nothing is, the one by which the node was let in counts.
func (t *tx) keepCertificate(m *pb.Member) {
	var old pb.Member
	if !t.read(key(kMember, m.Id), &old) || len(old.Serial) == 0 {
		m.OldSerial, m.OldKey, m.IssuedMs = nil, nil, 0
		t.changes.Members = true
		return
	}
	m.Serial, m.Key, m.Ca = old.Serial, old.Key, old.Ca
	m.OldSerial, m.OldKey, m.IssuedMs = old.OldSerial, old.OldKey, old.IssuedMs
}

// certify records a new certificate of a member. The one that the node has when
// it asks counts on, until the node shows the new one: an answer can be lost.
func (t *tx) certify(h *pb.Certify) *pb.Result {
	var m pb.Member
	k := key(kMember, h.Node)
	switch {
	case !t.at(2):
		return t.refuse(pb.Code_INVALID, "no certificate is on record before cluster version 2")
	case len(h.Serial) == 0 || len(h.Key) == 0 || len(h.Old) == 0:
		return t.refuse(pb.Code_INVALID, "a Certify needs a serial, a key and the serial before")
	case !t.read(k, &m):
		return t.refuse(pb.Code_MISSING, "there is no member %s", h.Node)
	case bytes.Equal(m.Serial, h.Serial):
		return t.refuse(pb.Code_DUPLICATE, "done before")
	case len(m.Serial) == 0 || bytes.Equal(m.Serial, h.Old):
		m.OldSerial, m.OldKey = h.Old, h.OldKey
	case !bytes.Equal(m.OldSerial, h.Old):
		return t.refuse(pb.Code_STALE, "node %s shows a certificate that is not the one on record", h.Node)
	}
	m.Serial, m.Key, m.Ca, m.IssuedMs = h.Serial, h.Key, h.Ca, h.IssuedMs
	t.write(k, &m)
	t.changes.Members = true
	return t.ok()
}

// putCa takes a step of a rotation: compare and swap, on the step and on the CA
// that it leads to.
func (t *tx) putCa(h *pb.PutCa) *pb.Result {
	c := proto.CloneOf(t.cluster)
	switch {
	case !t.at(2):
		return t.refuse(pb.Code_INVALID, "the CA is not rotated before cluster version 2")
	case c.Id == "":
		return t.refuse(pb.Code_MISSING, "there is no cluster yet")
	case h.FromStep != c.CaStep || c.CaStep != CASettled && !bytes.Equal(h.NextCert, c.NextCert):
		return t.refuse(pb.Code_STALE, "the rotation of the CA is at step %d", c.CaStep)
	case h.FromStep == CASettled && h.ToStep == CATrust &&
		len(h.NextCert) > 0 && len(h.NextKey) > 0 && len(h.CrossCert) > 0:
		c.NextCert, c.NextKey, c.CrossCert = h.NextCert, h.NextKey, h.CrossCert
	case h.FromStep == CATrust && h.ToStep == CASign:
	case h.FromStep == CASign && h.ToStep == CASettled:
		// Tokens that were made before need the CA that they name.
		c.CrossCert = slices.Concat(c.CrossCert, c.CaCert)
		c.CaCert, c.CaKey, c.NextCert, c.NextKey = c.NextCert, c.NextKey, nil, nil
	default:
		return t.refuse(pb.Code_INVALID, "a rotation of the CA has no step from %d to %d", h.FromStep, h.ToStep)
	}
	c.CaStep = h.ToStep
	t.cluster = c
	t.write(key(kMeta, "cluster"), c)
	t.forgetSaid()
	t.changes.Members = true
	return t.ok()
}

// forgetSaid forgets what nodes said of the CA in the step before.
func (t *tx) forgetSaid() {
	for _, node := range slices.Sorted(maps.Keys(t.sessions)) {
		if one := t.sessions[node]; len(one.Ca) > 0 {
			one.Ca = nil
			t.write(key(kSession, node), one)
		}
	}
}

// Fingerprint is the SHA-256 of the first certificate in PEM; nil: there is none.
func Fingerprint(certPEM []byte) []byte {
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return nil
	}
	sum := sha256.Sum256(block.Bytes)
	return sum[:]
}

// SaysOfCA is what a node says in its renewals during a step of a rotation; nil:
// nothing is to be said. serial is that of its certificate, ca the SHA-256 of the
// CA that signed it.
func SaysOfCA(c *pb.Cluster, serial, ca []byte) []byte {
	next := Fingerprint(c.GetNextCert())
	switch {
	case next == nil || c.CaStep == CASettled:
		return nil
	case c.CaStep == CATrust:
		return next
	case bytes.Equal(ca, next):
		return slices.Concat(next, serial)
	}
	return nil
}
