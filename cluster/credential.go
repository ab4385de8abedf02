package cluster

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"

	"relay/cluster/internal/wire"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// credential is what a node shows and trusts, in PEM.
type credential struct{ ca, next, cross, cert, key string }

// wire makes the TLS side of a node's credential.
func (c credential) wire(cluster, node string) (wire.Identity, error) {
	me := wire.Identity{Cluster: cluster, Node: node}
	var err error
	if me.CAs, err = parseCerts(c.ca + c.next); err != nil {
		return me, fmt.Errorf("cluster: the CA's certificate: %w", err)
	}
	if len(me.CAs) == 0 {
		return me, errors.New("cluster: the identity has no CA")
	}
	if me.Cert, err = tls.X509KeyPair([]byte(c.cert), []byte(c.key)); err != nil {
		return me, fmt.Errorf("cluster: the node's certificate: %w", err)
	}
	cross, err := parseCerts(c.cross)
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
type keyPair struct{ cert, key []byte }

// signing is the CA that signs at the present step of a rotation.
func signing(record *pb.Cluster) keyPair {
	if record.CaStep == spool.CASign {
		return keyPair{record.NextCert, record.NextKey}
	}
	return keyPair{record.CaCert, record.CaKey}
}

func fingerprint(certPEM []byte) []byte { return spool.Fingerprint(certPEM) }
