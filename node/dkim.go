package node

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net/mail"
	"strings"

	"github.com/emersion/go-msgauth/dkim"
	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// Algorithms of signing keys.
const (
	dkimRSA     = "rsa"
	dkimEd25519 = "ed25519"
)

// newDkimKey makes a signing key: RSA of 2048 bits, which everybody can check,
// or Ed25519 (RFC 8463).
func newDkimKey(domain, selector, algorithm string) (*pb.DkimKey, error) {
	var key any
	var err error
	switch algorithm {
	case dkimRSA:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case dkimEd25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		return nil, fmt.Errorf("%q is neither rsa nor ed25519", algorithm)
	}
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return &pb.DkimKey{Domain: domain, Selector: selector, Algorithm: algorithm, Private: der}, err
}

func dkimSigner(k *pb.DkimKey) (crypto.Signer, error) {
	key, err := x509.ParsePKCS8PrivateKey(k.Private)
	if err != nil {
		return nil, fmt.Errorf("signing key %s of %s: %w", k.Selector, k.Domain, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("signing key %s of %s can not sign", k.Selector, k.Domain)
	}
	return signer, nil
}

// dkimRecord is what DNS must say of a key, at SELECTOR._domainkey.DOMAIN.
func dkimRecord(k *pb.DkimKey) (string, error) {
	signer, err := dkimSigner(k)
	if err != nil {
		return "", err
	}
	var public []byte
	switch p := signer.Public().(type) {
	case ed25519.PublicKey:
		public = p // RFC 8463 §4: the bare key
	default:
		if public, err = x509.MarshalPKIXPublicKey(p); err != nil {
			return "", err
		}
	}
	return "v=DKIM1; k=" + k.Algorithm + "; p=" + base64.StdEncoding.EncodeToString(public), nil
}

// dkimHeaders are the fields a signature covers (RFC 6376 §5.4.1).
func dkimHeaders() []string {
	return []string{
		"From", "Sender", "Reply-To", "To", "Cc", "Subject", "Date", "Message-ID", "In-Reply-To", "References",
		"MIME-Version", "Content-Type", "Content-Transfer-Encoding", "Content-ID", "Content-Description",
		"List-Id", "List-Help", "List-Unsubscribe", "List-Subscribe", "List-Post", "List-Owner", "List-Archive",
	}
}

// openSigned opens a message with the signatures of its author's domain on top.
// It is signed when it leaves and not when it comes, so that a key that was
// rotated meanwhile is the new one, and a large body need not be held back until
// it was read to its end. A message that can not be signed goes as it is.
func (o *outbound) openSigned(id spool.ID, m *pb.Message) (io.ReadCloser, error) {
	signatures, err := o.signatures(id, m)
	if err != nil {
		o.log.Warn("message goes unsigned", zap.Stringer("id", id), zap.Error(err))
	}
	return o.replica.OpenBody(id, m.Chunks, signatures)
}

func (o *outbound) signatures(id spool.ID, m *pb.Message) ([]byte, error) {
	domain, err := o.authorDomain(id, m)
	if err != nil || domain == "" {
		return nil, err
	}
	var keys []*pb.DkimKey
	err = o.replica.View(func(v spool.View) (err error) { keys, err = v.DkimKeys(domain); return err })
	if err != nil {
		return nil, err
	}
	var signers []*dkim.Signer
	var all []io.Writer
	for _, k := range keys {
		if k.Retired {
			continue
		}
		key, err := dkimSigner(k)
		if err != nil {
			return nil, err
		}
		s, err := dkim.NewSigner(&dkim.SignOptions{
			Domain: domain, Selector: k.Selector, Signer: key, Hash: crypto.SHA256, HeaderKeys: dkimHeaders(),
			HeaderCanonicalization: dkim.CanonicalizationRelaxed, BodyCanonicalization: dkim.CanonicalizationRelaxed,
		})
		if err != nil {
			return nil, err
		}
		signers, all = append(signers, s), append(all, s)
	}
	if len(signers) == 0 {
		return nil, nil
	}
	return o.sign(id, m, signers, io.MultiWriter(all...))
}

func (o *outbound) sign(id spool.ID, m *pb.Message, signers []*dkim.Signer, to io.Writer) ([]byte, error) {
	body, err := o.replica.OpenBody(id, m.Chunks, nil)
	if err == nil {
		_, err = io.Copy(to, body)
		_ = body.Close()
	}
	var out []byte
	for _, s := range signers { // also after an error: Close ends a goroutine
		if e := s.Close(); e != nil && err == nil {
			err = e
		}
		if err == nil {
			out = append(out, s.Signature()...)
		}
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

const dkimHeaderMost = 256 << 10

// authorDomain is that of the From field, or of the sender where it tells none.
func (o *outbound) authorDomain(id spool.ID, m *pb.Message) (string, error) {
	body, err := o.replica.OpenBody(id, m.Chunks, nil)
	if err != nil {
		return "", err
	}
	defer body.Close()
	address := m.Sender
	if parsed, err := mail.ReadMessage(io.LimitReader(body, dkimHeaderMost)); err == nil {
		if list, err := parsed.Header.AddressList("From"); err == nil && len(list) > 0 {
			address = list[0].Address
		}
	}
	if !strings.Contains(address, "@") {
		return "", nil
	}
	_, domain := splitAddress(address)
	return domain, nil
}
