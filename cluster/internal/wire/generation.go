package wire

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrLater says that a peer, whose certificate our CA has signed, is of a later
// generation of our cluster: it was recovered without this node's data.
var ErrLater = errors.New("wire: the cluster was recovered without this node's data")

// generationMark stands between a cluster's id and the number of its generation.
const generationMark = ".g"

// Generation is the name of a cluster in certificates from its n-th recovery on:
// ID.gN-HEX. The octets in hex are of a hash over the id, N and the peers, so that
// survivors that are told the same peers have the same name without talking, and
// others can't mix.
func Generation(cluster string, n uint64, peers []string) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%d\n", cluster, n)
	for _, p := range slices.Sorted(slices.Values(peers)) {
		fmt.Fprintln(sum, p)
	}
	return fmt.Sprintf("%s%s%d-%x", cluster, generationMark, n, sum.Sum(nil)[:4])
}

// GenerationOf takes the name of a cluster in certificates apart. A cluster that
// was never recovered is of generation 0.
func GenerationOf(name string) (cluster string, n uint64) {
	cluster, rest, _ := strings.Cut(name, generationMark)
	number, _, _ := strings.Cut(rest, "-")
	n, _ = strconv.ParseUint(number, 10, 64)
	return cluster, n
}

// later reports whether other names a later generation of the same cluster.
func later(own, other string) bool {
	cluster, n := GenerationOf(own)
	same, m := GenerationOf(other)
	return cluster == same && m > n
}

// heraldTime is how long a herald waits for the other side to look.
const heraldTime = 5 * time.Second

// Herald shows this node's certificate to whoever answers at an address with a
// certificate of our CA, of whichever generation, and says nothing else. A node
// of a former generation learns so that there is a later one.
func (p *Port) Herald(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, heraldTime)
	defer cancel()
	raw, err := p.o.Dial(ctx, addr)
	if err != nil {
		return err
	}
	tune(raw)
	if !p.track(raw, Peer{}, "") {
		return errors.Join(errors.New("wire: the port is closed"), raw.Close())
	}
	defer p.forget(raw)
	conf := p.clientConfig(RPC, "")
	conf.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return ErrPeer
		}
		for _, ca := range p.id.Load().CAs {
			if signedBy(s.PeerCertificates[0], ca) == nil {
				return nil
			}
		}
		return ErrPeer
	}
	t := tls.Client(raw, conf)
	defer t.Close()
	if err := t.HandshakeContext(ctx); err != nil {
		return err
	}
	// The other side looks at the certificate after this side's handshake is done.
	deadline, _ := ctx.Deadline()
	_ = t.SetReadDeadline(deadline)
	_, _ = t.Read(make([]byte, 1))
	return nil
}
