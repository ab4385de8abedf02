package operator

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/mailheader"
	"relay/node/operator/edit"
	"relay/node/operator/ids"
	"relay/node/replica"
	"relay/node/statelog"
)

// importProtocol marks messages that were put into a mailbox by hand.
const importProtocol = "IMPORT"

// PutMail implements admin.Content: one Accept with one Drop, without
// recipients in the queue and without fields of our own. Line ends become
// CRLF. Quotas do not hold an operator up. The same request with the same
// message is taken once. A full disk does: a write beyond it stops the node.
func (o *Operator) PutMail(ctx context.Context, by admin.By, user string, received admin.Time,
	message io.Reader) (string, error) {
	user, err := o.Address(user)
	if err != nil {
		return "", err
	}
	adm, err := o.edit.Admin(by)
	if err != nil {
		return "", err
	}
	if err := o.certain(ctx, func(v spool.View) error { _, _, err := openBox(v, user); return err }); err != nil {
		return "", err
	}
	if err := o.room(); err != nil {
		return "", err
	}
	im := &importing{Operator: o, digest: sha256.New(), body: newCRLF(message)}
	if err := im.first(adm, user); err != nil {
		return "", err
	}
	if err := im.ahead(ctx); err != nil {
		im.abort(ctx)
		return "", edit.ProposalError(err)
	}
	if received.IsZero() {
		received = admin.At(o.Now())
	}
	h := im.accept(adm, user, received)
	res, err := o.propose(ctx, h, im.inline())
	if err != nil {
		if !errors.Is(err, admin.ErrUnknown) {
			im.abort(ctx)
		}
		return "", err
	}
	if res.Code == pb.Code_OK {
		statelog.LogAccepted(o.Log, h, []string{user})
	}
	return im.id.String(), o.edit.CaughtUp(ctx, res.Index)
}

// room refuses where the disk is full.
func (o *Operator) room() error {
	if o.Full == nil || !o.Full() {
		return nil
	}
	return admin.Full("the disk of node " + o.Node + " is past the watermark of [storage]")
}

// propose proposes an Accept.
func (o *Operator) propose(ctx context.Context, h *pb.Accept, body []byte) (*pb.Result, error) {
	res, err := replica.Propose(ctx, o.Replica, spool.KindAccept, h, body)
	if err != nil {
		return nil, edit.ProposalError(err)
	}
	return res, edit.Refusal(res)
}

// importing is one message on its way into a mailbox.
type importing struct {
	*Operator
	id     spool.ID
	body   io.Reader
	buf    []byte // not yet in the log
	done   bool   // buf is the last
	digest hash.Hash
	size   uint64
	chunks uint32 // sent ahead
	head   mailheader.Header
}

// first reads the beginning and fixes the id. That is made of the request and
// of what the message begins with, so that a request that comes again meets
// the message it made, and no two messages share their parts.
func (im *importing) first(adm *pb.Admin, user string) error {
	im.buf = make([]byte, 0, 16<<10)
	if err := im.fill(); err != nil {
		return err
	}
	if len(im.buf) == 0 {
		return admin.Invalid("the message is empty")
	}
	im.head = mailheader.Parse(im.buf)
	im.id = replica.NewID(im.Now())
	var request ulid.ULID
	copy(request[:], adm.Request)
	if drift := im.Now().Sub(ids.Time(request)).Abs(); drift > time.Hour {
		return nil // a strange clock must not sort the message far away
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s %s\n", request, user)
	sum.Write(im.buf)
	_ = im.id.SetTime(request.Time())
	return im.id.SetEntropy(sum.Sum(nil)[:10])
}

// fill reads until buf holds a whole chunk or the message ends.
func (im *importing) fill() error {
	for len(im.buf) < spool.MaxInline {
		if len(im.buf) == cap(im.buf) {
			grown := make([]byte, len(im.buf), min(4*cap(im.buf), spool.MaxInline))
			copy(grown, im.buf)
			im.buf = grown
		}
		n, err := im.body.Read(im.buf[len(im.buf):cap(im.buf)])
		im.buf = im.buf[:len(im.buf)+n]
		if errors.Is(err, io.EOF) {
			im.done = true
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the message: %w", err)
		}
	}
	return nil
}

// ahead sends a body that is too large for an Accept in chunks.
func (im *importing) ahead(ctx context.Context) error {
	for {
		im.digest.Write(im.buf)
		im.size += uint64(len(im.buf))
		if im.done && im.chunks == 0 {
			return nil
		}
		if len(im.buf) > 0 {
			res, err := replica.Propose(ctx, im.Replica, spool.KindChunk, &pb.Chunk{Id: im.id[:], Seq: im.chunks}, im.buf)
			if err == nil {
				err = edit.Refusal(res)
			}
			if err != nil {
				return err
			}
			im.chunks++
		}
		if im.done {
			return nil
		}
		if err := im.room(); err != nil {
			return err
		}
		im.buf = im.buf[:0]
		if err := im.fill(); err != nil {
			return err
		}
	}
}

// inline is the body where it rides in the Accept.
func (im *importing) inline() []byte {
	if im.chunks > 0 {
		return nil
	}
	return im.buf
}

func (im *importing) accept(adm *pb.Admin, user string, received admin.Time) *pb.Accept {
	detail := "imported by " + adm.Who
	if adm.Why != "" {
		detail += ": " + adm.Why
	}
	return &pb.Accept{
		Message: &pb.Message{
			Id: im.id[:], CreatedMs: received.UnixMilli(), Size: im.size, Chunks: max(im.chunks, 1), Digest: im.digest.Sum(nil),
			MessageId: im.head.MessageID, Client: &pb.Client{
				Node: im.Node, Address: "local", User: adm.Who, Protocol: importProtocol,
			},
			Body: pb.Body_BODY_8BITMIME,
		},
		Drops: []*pb.Drop{{Mailbox: user, Recipient: user}}, Inline: im.chunks == 0,
		Epoch: im.Replica.Epoch(), Detail: detail,
	}
}

// abort gives up chunks that went ahead; Sweep finds what stays behind.
func (im *importing) abort(ctx context.Context) {
	if im.chunks == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if _, err := replica.Propose(ctx, im.Replica, spool.KindAbort, &pb.Abort{Id: im.id[:]}); err != nil {
		im.Log.Debug("abort not applied", zap.Stringer("id", im.id), zap.Error(err))
	}
}

// crlf hands text on with CRLF line ends, also at its end. A CR that stands
// alone is left as it is.
type crlf struct {
	in   *bufio.Reader
	last byte
	held bool // an LF is to follow the CR just handed out
	end  bool
	seen bool // anything at all
}

func newCRLF(r io.Reader) *crlf { return &crlf{in: bufio.NewReaderSize(r, 32<<10)} }

// Read implements io.Reader.
func (c *crlf) Read(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		if c.held {
			b[n], c.held, c.last = '\n', false, '\n'
			n++
			continue
		}
		if c.end {
			break
		}
		if n > 0 && c.in.Buffered() == 0 {
			return n, nil // do not wait while there is something to hand on
		}
		one, err := c.in.ReadByte()
		if errors.Is(err, io.EOF) {
			c.end = true
			if !c.seen || c.last == '\n' {
				break
			}
			one, c.held = '\r', true
			if c.last == '\r' {
				one, c.held = '\n', false
			}
		} else if err != nil {
			return n, err
		}
		if one == '\n' && c.last != '\r' && !c.end {
			one, c.held = '\r', true
		}
		b[n], c.last, c.seen = one, one, true
		n++
	}
	if n == 0 && c.end && len(b) > 0 {
		return 0, io.EOF
	}
	return n, nil
}
