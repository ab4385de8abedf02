package pki

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"

	"relay/cluster/internal/wire"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// Credential is what a node shows and trusts, in PEM.
type Credential struct{ CA, Next, Cross, Cert, Key string }

// Wire makes the TLS side of a node's credential.
func (c Credential) Wire(cluster, node string) (wire.Identity, error) {
	me := wire.Identity{Cluster: cluster, Node: node}
	var err error
	if me.CAs, err = parseCerts(c.CA + c.Next); err != nil {
		return me, fmt.Errorf("cluster: the CA's certificate: %w", err)
	}
	if len(me.CAs) == 0 {
		return me, errors.New("cluster: the identity has no CA")
	}
	if me.Cert, err = tls.X509KeyPair([]byte(c.Cert), []byte(c.Key)); err != nil {
		return me, fmt.Errorf("cluster: the node's certificate: %w", err)
	}
	cross, err := parseCerts(c.Cross)
	if err != nil {
		return me, fmt.Errorf("cluster: the former CA's certificate: %w", err)
	}
	// Joining nodes, which know only the fingerprint of a CA, need to see it.
	for _, ca := range slices.Concat(me.CAs, cross) {
		me.Cert.Certificate = append(me.Cert.Certificate, ca.Raw)
	}
	return me, nil
}

// keyPair is a CA as the state has it.
type keyPair struct{ Cert, Key []byte }

// Signing is the CA that signs at the present step of a rotation.
func Signing(record *pb.Cluster) keyPair {
	if record.CaStep == spool.CASign {
		return keyPair{record.NextCert, record.NextKey}
	}
	return keyPair{record.CaCert, record.CaKey}
}

// Fingerprint names a CA by its certificate.
func Fingerprint(certPEM []byte) []byte { return spool.Fingerprint(certPEM) }
