package cluster

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

const (
	tokenPrefix = "rj1."
	secretSize  = 16
)

// joinToken is what an operator carries from a member to a new node: by whom
// to be let in, and the word that opens.
type joinToken struct {
	fingerprint [sha256.Size]byte // of the CA's certificate
	secret      [secretSize]byte
}

func (t joinToken) String() string {
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(t.fingerprint[:], t.secret[:]...))
}

func (t joinToken) hash() []byte {
	sum := sha256.Sum256(t.secret[:])
	return sum[:]
}

// request tells one use of a token from another: the tries of one joining node
// are one use. A node that does not have the token can't name it.
func (t joinToken) request(id []byte) []byte {
	sum := sha256.Sum256(append(t.hash(), id...))
	return sum[:]
}

// parseToken reads a join token. Errors wrap ErrToken and do not repeat it.
func parseToken(s string) (t joinToken, err error) {
	body, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	if !ok {
		return t, fmt.Errorf("%w: it does not begin with %q: copy it whole, as 'relayctl node token' printed it",
			ErrToken, tokenPrefix)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(b) != len(t.fingerprint)+len(t.secret) {
		return t, fmt.Errorf("%w: it is cut short or mistyped: copy it whole, as 'relayctl node token' printed it", ErrToken)
	}
	copy(t.fingerprint[:], b)
	copy(t.secret[:], b[len(t.fingerprint):])
	return t, nil
}

// CheckToken reports what is wrong with the form of a join token; nil: a cluster may
// have made it. Errors wrap ErrToken and do not repeat it.
func CheckToken(s string) error {
	_, err := parseToken(s)
	return err
}

// Token makes a join token that lets in so many nodes until ttl is over. The
// cluster keeps only a hash of its secret.
func (c *Cluster) Token(ctx context.Context, uses int, ttl time.Duration, adm *pb.Admin) (string, error) {
	if uses < 1 || uses > 1000 || ttl <= 0 {
		return "", fmt.Errorf("cluster: a token needs 1 to 1000 uses and a time to live")
	}
	ca, err := parseCert([]byte(c.id.credential().ca))
	if err != nil {
		return "", err
	}
	t := joinToken{fingerprint: sha256.Sum256(ca.Raw)}
	if _, err := rand.Read(t.secret[:]); err != nil {
		return "", err
	}
	now := c.Now()
	record := &pb.JoinToken{Hash: t.hash(), ExpiresMs: now.Add(ttl).UnixMilli(), Uses: uint32(uses)}
	if c.At(2) {
		record.MadeMs = now.UnixMilli()
	}
	f, err := spool.Encode(spool.KindPutToken, &pb.PutToken{Admin: adm, Token: record})
	if err != nil {
		return "", err
	}
	res, err := c.Propose(ctx, f)
	if err != nil {
		return "", err
	}
	if res.Code != pb.Code_OK {
		return "", fmt.Errorf("cluster: the token was refused: %s", res.Text)
	}
	return t.String(), nil
}
