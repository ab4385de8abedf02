package outbound

import (
	"crypto"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/emersion/go-msgauth/dkim"
	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/dkimkey"
	"relay/node/mailheader"
)

// dkimHeaders are the fields a signature covers (RFC 6376 §5.4.1): each as often
// as it is there, and once more, so that nobody can add one (§8.15). Fields that
// mailing lists and gateways add are only named where they are there.
func dkimHeaders(header []byte) (keys []string) {
	counts := map[string]int{}
	for name := range mailheader.Fields(header) {
		counts[strings.ToLower(string(name))]++
	}
	for _, name := range []string{"From", "Reply-To", "Subject", "To", "Cc"} {
		keys = append(keys, slices.Repeat([]string{name}, counts[strings.ToLower(name)]+1)...)
	}
	for _, name := range []string{
		"Sender", "Date", "Message-ID", "In-Reply-To", "References",
		"MIME-Version", "Content-Type", "Content-Transfer-Encoding", "Content-ID", "Content-Description",
		"List-Id", "List-Help", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Subscribe", "List-Post",
		"List-Owner", "List-Archive",
	} {
		if n := counts[strings.ToLower(name)]; n > 0 {
			keys = append(keys, slices.Repeat([]string{name}, n+1)...)
		}
	}
	return keys
}

// openSigned opens a message with the signatures of its author's domain on top.
// It is signed when it leaves and not when it comes, so that a key that was
// rotated meanwhile is the new one, and a large body need not be held back until
// it was read to its end. A message that can not be signed goes as it is.
//
// DKIM signatures are made when a message leaves: a large body need not be held back at intake, and a
// rotated key is the new one. It costs a reading more for each attempt. Only what somebody we know
// handed in is signed, by the domain of its From field.
func (o *Spool) openSigned(id spool.ID, m *pb.Message) (io.ReadCloser, error) {
	signatures, err := o.signatures(id, m)
	if err != nil {
		o.log.Warn("message goes unsigned", zap.Stringer("id", id), zap.Error(err))
	}
	return o.replica.OpenBody(id, m.Chunks, signatures)
}

func (o *Spool) signatures(id spool.ID, m *pb.Message) ([]byte, error) {
	header, err := o.header(id, m)
	domain := authorDomain(header, m.Sender)
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
		key, err := dkimkey.Signer(k)
		if err != nil {
			return nil, err
		}
		s, err := dkim.NewSigner(&dkim.SignOptions{
			Domain: domain, Selector: k.Selector, Signer: key, Hash: crypto.SHA256, HeaderKeys: dkimHeaders(header),
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

func (o *Spool) sign(id spool.ID, m *pb.Message, signers []*dkim.Signer, to io.Writer) ([]byte, error) {
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

func (o *Spool) header(id spool.ID, m *pb.Message) ([]byte, error) {
	body, err := o.replica.OpenBody(id, m.Chunks, nil)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return readHeader(body)
}

// readHeader reads the header section of a message, and little more.
func readHeader(body io.Reader) ([]byte, error) {
	b := make([]byte, 0, 4096)
	for len(b) < dkimHeaderMost {
		n := len(b)
		b = slices.Grow(b, 1)
		b = b[:cap(b)]
		got, err := io.ReadFull(body, b[n:])
		b = b[:n+got]
		if h := mailheader.Parse(b); h.Whole {
			return b[:h.End], nil
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return b, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}

// authorDomain is that of the From field, or of the sender where there is none.
// It is empty where it is not clear who the author is.
func authorDomain(header []byte, sender string) string {
	list, absent, err := mailheader.Authors(header)
	switch {
	case absent && strings.Contains(sender, "@"):
		list = []string{sender}
	case err != nil:
		return ""
	}
	_, domain := directory.SplitAddress(list[0])
	return domain
}
