package wire

import (
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
	Cluster string          // cluster id
	Node    string          // node id
	Cert    tls.Certificate // leaf, then the CA's certificate
	CA      *x509.Certificate
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

// verify checks a peer's chain against the CA and returns its node id.
func (id *Identity) verify(chain []*x509.Certificate) (string, error) {
	if len(chain) == 0 {
		return "", fmt.Errorf("%w: no certificate", ErrPeer)
	}
	roots := x509.NewCertPool()
	roots.AddCert(id.CA)
	leaf := chain[0]
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots:       roots,
		CurrentTime: time.Now(),
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrPeer, err)
	}
	return NodeOf(leaf, id.Cluster)
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
	if u.Host != cluster {
		return "", fmt.Errorf("%w: it belongs to cluster %s, this is %s", ErrPeer, u.Host, cluster)
	}
	return u.Path[1:], nil
}
