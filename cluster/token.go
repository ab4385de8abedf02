package cluster

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"time"

	"relay/cluster/pki"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// Token makes a join token that lets in so many nodes until ttl is over. The
// cluster keeps only a hash of its secret.
func (c *Cluster) Token(ctx context.Context, uses int, ttl time.Duration, adm *pb.Admin) (string, error) {
	if uses < 1 || uses > 1000 || ttl <= 0 {
		return "", fmt.Errorf("cluster: a token needs 1 to 1000 uses and a time to live")
	}
	ca, err := pki.ParseCert([]byte(c.id.Credential().CA))
	if err != nil {
		return "", err
	}
	t := pki.Token{Fingerprint: sha256.Sum256(ca.Raw)}
	if _, err := rand.Read(t.Secret[:]); err != nil {
		return "", err
	}
	now := c.Now()
	record := &pb.JoinToken{Hash: t.Hash(), ExpiresMs: now.Add(ttl).UnixMilli(), Uses: uint32(uses)}
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

// CheckToken reports what is wrong with the form of a join token; nil: a cluster may
// have made it. Errors wrap ErrToken and do not repeat it.
func CheckToken(s string) error { return pki.CheckToken(s) }
