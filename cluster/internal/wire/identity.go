package wire

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"time"
)

// Identity is what a node shows and what it trusts.
type Identity struct {
	Cluster string              // its name in certificates: the cluster id, or of a generation
	Node    string              // node id
	Cert    tls.Certificate     // leaf, then the CA's certificate
	CAs     []*x509.Certificate // at most two
}

// ErrPeer says that the other side is not who it must be.
var ErrPeer = errors.New("wire: peer refused")

var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// ValidName reports whether s may name a node or a cluster: 1 to 63 letters,
// digits, dots, hyphens and underscores, the first a letter or a digit.
func ValidName(s string) bool { return nameRule.MatchString(s) }

// NodeURI is the name a node's certificate carries.
func NodeURI(cluster, node string) *url.URL {
	return &url.URL{Scheme: "relay", Host: cluster, Path: "/" + node}
}

// Peer is what the certificate of the other side says. A Peer without a Serial
// is the name alone of a node that is to be dialled.
type Peer struct {
	Node      string
	Serial    []byte   // 16 octets, big endian
	Key       [32]byte // SHA-256 of the public key (SubjectPublicKeyInfo)
	CA        [32]byte // SHA-256 of the CA's certificate
	NotBefore time.Time
	NotAfter  time.Time
}

// verify checks a peer's chain against the CAs and returns what it says. Dates
// are not judged: a chain is checked as of when its leaf began, because the
// clock of a node may be days off. Options.Allow judges the rest.
func (id *Identity) verify(chain []*x509.Certificate) (Peer, error) {
	if len(chain) == 0 {
		return Peer{}, fmt.Errorf("%w: no certificate", ErrPeer)
	}
	leaf := chain[0]
	if err := PlainKey(leaf.PublicKey); err != nil {
		return Peer{}, err
	}
	err := errors.New("no CA is trusted")
	for _, ca := range id.CAs {
		if err = signedBy(leaf, ca); err == nil {
			return peerOf(leaf, ca, id.Cluster)
		}
	}
	return Peer{}, fmt.Errorf("%w: %w", ErrPeer, err)
}

// Self is what the node's own certificate says.
func (id *Identity) Self() (Peer, error) {
	chain := make([]*x509.Certificate, 0, 1)
	if len(id.Cert.Certificate) > 0 {
		leaf, err := x509.ParseCertificate(id.Cert.Certificate[0])
		if err != nil {
			return Peer{}, err
		}
		chain = append(chain, leaf)
	}
	p, err := id.verify(chain)
	if err == nil && p.Node != id.Node {
		err = fmt.Errorf("%w: the certificate is of node %s, this is %s", ErrPeer, p.Node, id.Node)
	}
	return p, err
}

// signedBy checks that a CA has signed a leaf, as of when both are valid.
func signedBy(leaf, ca *x509.Certificate) error {
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	at := leaf.NotBefore
	if ca.NotBefore.After(at) {
		at = ca.NotBefore // it was signed where the clock was behind
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, CurrentTime: at.Add(time.Second), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err
}

// peerOf reads a leaf that a CA has signed.
func peerOf(leaf, ca *x509.Certificate, cluster string) (Peer, error) {
	node, err := NodeOf(leaf, cluster)
	return Peer{
		Node: node, Serial: serialOf(leaf), Key: sha256.Sum256(leaf.RawSubjectPublicKeyInfo),
		CA: sha256.Sum256(ca.Raw), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
	}, err
}

// plainKey refuses, before any signature is checked, a leaf whose key is not of
// the one kind that nodes have: others can cost much time.
func plainKey(raw [][]byte, _ [][]*x509.Certificate) error {
	if len(raw) == 0 {
		return nil
	}
	leaf, err := x509.ParseCertificate(raw[0])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrPeer, err)
	}
	return PlainKey(leaf.PublicKey)
}

// PlainKey refuses public keys of any kind but ECDSA on P-256.
func PlainKey(key any) error {
	if k, ok := key.(*ecdsa.PublicKey); ok && k.Curve == elliptic.P256() {
		return nil
	}
	return fmt.Errorf("%w: its key is not an ECDSA key on P-256", ErrPeer)
}

// NodeOf reads the node id from a certificate of the given cluster.
func NodeOf(leaf *x509.Certificate, cluster string) (string, error) {
	if leaf.IsCA || len(leaf.URIs) != 1 {
		return "", fmt.Errorf("%w: the certificate names no node", ErrPeer)
	}
	u := leaf.URIs[0]
	if u.Scheme != "relay" || len(u.Path) < 2 || !ValidName(u.Path[1:]) {
		return "", fmt.Errorf("%w: the certificate names no node but %s", ErrPeer, u)
	}
	if later(cluster, u.Host) {
		return "", fmt.Errorf("%w: %w: it is %s now, this is %s", ErrPeer, ErrLater, u.Host, cluster)
	}
	if u.Host != cluster {
		return "", fmt.Errorf("%w: it belongs to cluster %s, this is %s", ErrPeer, u.Host, cluster)
	}
	return u.Path[1:], nil
}

// serialOf reads a serial number as 16 octets, so that leading zeros count.
func serialOf(leaf *x509.Certificate) []byte {
	if leaf.SerialNumber.BitLen() > 8*16 {
		return leaf.SerialNumber.Bytes() // none of ours
	}
	return leaf.SerialNumber.FillBytes(make([]byte, 16))
}
