package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// chunksInFlight is how many parts of one large body travel through the log
// at a time; with spool.MaxInline it bounds what a large message costs.
const chunksInFlight = 4

// Refusals of intake that are not the cluster's.
var (
	errHops    = errors.New("too many hops")
	errLooping = errors.New("mail loops back to a mailbox it has been in")
	errGone    = errors.New("a mailbox was removed meanwhile")
)

// envelope is a message on its way in, apart from its octets.
type envelope struct {
	sender  string
	rcpts   []rcpt
	client  *pb.Client
	options pb.Message // only the fields that MAIL parameters set
	fixUp   bool       // submission: add From, Date and Message-ID where missing
	domain  string     // for a Message-ID that is made here
	detail  string     // for the history line
}

// rcpt is one recipient as RCPT took it, with where it leads.
type rcpt struct {
	address  string
	original string
	notify   uint32
	targets  []target
}

// mailer turns messages into Accept commands. Its methods may be called
// concurrently.
type mailer struct {
	replica  replica
	node     string
	hostname string
	maxHops  int
	log      *zap.Logger
	buffers  sync.Pool // *[]byte
}

func newMailer(r replica, node, hostname string, maxHops int, log *zap.Logger) *mailer {
	m := &mailer{replica: r, node: node, hostname: hostname, maxHops: maxHops, log: log}
	m.buffers.New = func() any { b := make([]byte, 0, 8<<10); return &b }
	return m
}

// accept takes a message in. When it returns nil a majority has the message on
// disk under the returned id; on an error nobody answers for it (but where the
// error wraps cluster.ErrUnknown it may exist all the same).
func (m *mailer) accept(ctx context.Context, env *envelope, body io.Reader) (string, error) {
	id := ulid.Make()
	in := &intake{mailer: m, env: env, id: id, digest: sha256.New(), now: time.Now()}
	buf := m.buffers.Get().(*[]byte)
	in.buf = (*buf)[:0]
	defer func() {
		if cap(in.buf) <= 64<<10 {
			*buf = in.buf
			m.buffers.Put(buf)
		}
	}()
	if err := in.take(ctx, body); err != nil {
		in.abort()
		return "", err
	}
	return id.String(), nil
}

// intake is one message being taken in.
type intake struct {
	*mailer
	env    *envelope
	id     spool.ID
	now    time.Time
	buf    []byte // what is not in the log yet
	digest hash.Hash
	size   uint64
	chunks uint32 // sent ahead
	head   header
}

func (in *intake) take(ctx context.Context, body io.Reader) error {
	in.buf = in.received(in.buf)
	trace := len(in.buf)
	done, err := in.fill(body)
	if err != nil {
		return err
	}
	in.head = parseHeader(in.buf[trace:])
	if err := in.check(); err != nil {
		return err
	}
	in.mend(trace)
	if !done {
		if err := in.sendAhead(ctx, body); err != nil {
			return err
		}
	}
	return in.commit(ctx)
}

// fill reads until the buffer holds spool.MaxInline octets or the body ends.
func (in *intake) fill(body io.Reader) (done bool, err error) {
	for len(in.buf) < spool.MaxInline {
		if len(in.buf) == cap(in.buf) {
			in.buf = slices.Grow(in.buf, min(max(cap(in.buf), 8<<10), spool.MaxInline-len(in.buf)))
		}
		n, err := body.Read(in.buf[len(in.buf):min(cap(in.buf), spool.MaxInline)])
		in.buf = in.buf[:len(in.buf)+n]
		if err == io.EOF {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

// check finds loops: too many Received fields, or a Delivered-To that names a
// mailbox the message is about to enter (RFC 5321 §6.3).
func (in *intake) check() error {
	if in.head.hops > in.maxHops {
		return errHops
	}
	for _, r := range in.env.rcpts {
		for _, t := range r.targets {
			if t.mailbox != "" && slices.Contains(in.head.delivered, t.mailbox) {
				return errLooping
			}
		}
	}
	return nil
}

// mend adds what is missing: the empty line behind the header section, and on
// submission the fields RFC 6409 §8 lets us add. trace is where the client's
// octets begin.
func (in *intake) mend(trace int) {
	if in.head.noGap {
		in.buf = slices.Insert(in.buf, trace+in.head.end, '\r', '\n')
	}
	if !in.env.fixUp {
		return
	}
	var add []byte
	if !in.head.date {
		add = fmt.Appendf(add, "Date: %s\r\n", in.now.Format(time.RFC1123Z))
	}
	if in.head.messageID == "" {
		in.head.messageID = strings.ToLower(in.id.String()) + "@" + in.domainOr()
		add = fmt.Appendf(add, "Message-ID: <%s>\r\n", in.head.messageID)
	}
	if !in.head.from && in.env.sender != "" {
		add = fmt.Appendf(add, "From: <%s>\r\n", in.env.sender)
	}
	in.buf = slices.Insert(in.buf, trace, add...)
}

func (in *intake) domainOr() string {
	if in.env.domain != "" {
		return in.env.domain
	}
	return in.hostname
}

// sendAhead puts a large body into the log in chunks, a few in flight, before
// the Accept that claims them.
func (in *intake) sendAhead(ctx context.Context, body io.Reader) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(chunksInFlight)
	for done := false; ; {
		if err := in.sendChunk(gctx, g); err != nil {
			_ = g.Wait()
			return err
		}
		if done {
			return g.Wait()
		}
		var err error
		if done, err = in.fill(body); err != nil {
			_ = g.Wait()
			return err
		}
		if done && len(in.buf) == 0 {
			return g.Wait()
		}
	}
}

// sendChunk sends the buffer as the next chunk; the frame has its own copy. A
// buffer that mend made larger than a chunk goes in two.
func (in *intake) sendChunk(ctx context.Context, g *errgroup.Group) error {
	for len(in.buf) > 0 {
		part := in.buf[:min(len(in.buf), spool.MaxInline)]
		f, err := spool.Encode(spool.KindChunk, &pb.Chunk{Id: in.id[:], Seq: in.chunks}, part)
		if err != nil {
			return err
		}
		in.chunks++
		in.digest.Write(part)
		in.size += uint64(len(part))
		in.buf = append(in.buf[:0], in.buf[len(part):]...)
		g.Go(func() error {
			_, err := in.replica.Propose(ctx, f)
			return err
		})
	}
	return ctx.Err()
}

// commit proposes the Accept: the instant at which the message exists.
func (in *intake) commit(ctx context.Context) error {
	h := &pb.Accept{Message: in.message(), Epoch: in.replica.Epoch(), Detail: in.env.detail, Inline: in.chunks == 0}
	in.address(h)
	if h.Inline && len(in.buf)+len(h.Recipients)*64 > spool.MaxInline-4096 {
		// Body and envelope together may be over the limit of a frame.
		g, gctx := errgroup.WithContext(ctx)
		if err := in.sendChunk(gctx, g); err != nil {
			return err
		}
		if err := g.Wait(); err != nil {
			return err
		}
		h.Inline, h.Message = false, in.message()
	}
	if h.Inline {
		in.digest.Write(in.buf)
		h.Message.Digest, h.Message.Size, h.Message.Chunks = in.digest.Sum(nil), uint64(len(in.buf)), 1
	}
	var body []byte
	if h.Inline {
		body = in.buf
	}
	res, err := propose(ctx, in.replica, spool.KindAccept, h, body)
	if err != nil {
		return err
	}
	switch res.Code {
	case pb.Code_OK, pb.Code_DUPLICATE:
		in.logAccepted(h.Message)
		return nil
	case pb.Code_MISSING:
		return fmt.Errorf("%w: %s", errGone, res.Text)
	}
	return fmt.Errorf("accept refused: %s %s", res.Code, res.Text)
}

func (in *intake) message() *pb.Message {
	o := &in.env.options
	return &pb.Message{
		Id: in.id[:], CreatedMs: in.now.UnixMilli(), Sender: in.env.sender,
		Size: in.size, Chunks: in.chunks, Digest: in.digest.Sum(nil), MessageId: in.head.messageID, Client: in.env.client,
		Smtputf8: o.Smtputf8, Body: o.Body, Ret: o.Ret, Envid: o.Envid, Requiretls: o.Requiretls,
		DeliverByMs: o.DeliverByMs, DeliverByReturn: o.DeliverByReturn, HoldUntilMs: o.HoldUntilMs, Priority: o.Priority,
	}
}

// address splits the recipients into mailboxes here and the queue, each
// address once (RFC 5321 §4.5.5 leaves that to us).
func (in *intake) address(h *pb.Accept) {
	seen := map[string]bool{}
	for _, r := range in.env.rcpts {
		for _, t := range r.targets {
			if t.owner != "" && in.env.sender != "" {
				h.Message.Sender = t.owner
			}
		}
	}
	for _, r := range in.env.rcpts {
		for _, t := range r.targets {
			if t.mailbox != "" {
				if !seen["m"+t.mailbox] {
					seen["m"+t.mailbox] = true
					h.Drops = append(h.Drops, newDrop(h.Message.Sender, t))
				}
				continue
			}
			if seen[t.recipient] {
				continue
			}
			seen[t.recipient] = true
			h.Recipients = append(h.Recipients, &pb.Recipient{
				Address: t.recipient, Original: r.original, Notify: r.notify, NextMs: max(in.env.options.HoldUntilMs, 0),
			})
		}
	}
}

// newDrop makes a mailbox place with the fields final delivery adds
// (RFC 5321 §4.4).
func newDrop(sender string, t target) *pb.Drop {
	return &pb.Drop{
		Mailbox: t.mailbox, Recipient: t.recipient,
		Header: []byte("Return-Path: <" + sender + ">\r\nDelivered-To: " + t.mailbox + "\r\n"),
	}
}

func (in *intake) logAccepted(m *pb.Message) {
	if !in.log.Core().Enabled(zap.InfoLevel) {
		return
	}
	in.log.Info("accepted", zap.String("id", in.id.String()), zap.String("sender", m.Sender),
		zap.Int("recipients", len(in.env.rcpts)), zap.Uint64("size", m.Size), zap.String("message_id", m.MessageId),
		zap.String("session", m.Client.GetSession()), zap.String("remote", m.Client.GetAddress()))
}

// abort gives up chunks that went ahead. It is best effort: Sweep finds what
// stays behind.
func (in *intake) abort() {
	if in.chunks == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := propose(ctx, in.replica, spool.KindAbort, &pb.Abort{Id: in.id[:]}); err != nil {
		in.log.Debug("abort not applied", zap.Stringer("id", in.id), zap.Error(err))
	}
}

// received appends the trace field (RFC 5321 §4.4). It bears the socket's
// address; what HELO said is only cleaned.
func (in *intake) received(b []byte) []byte {
	c := in.env.client
	b = append(b, "Received: from "...)
	helo := clean(c.GetHelo(), 255)
	if helo == "" {
		helo = "unknown"
	}
	host, _, _ := strings.Cut(c.GetAddress(), "]")
	host = strings.TrimPrefix(host, "[")
	if i := strings.LastIndexByte(c.GetAddress(), ':'); i > 0 && !strings.HasPrefix(c.GetAddress(), "[") {
		host = c.GetAddress()[:i]
	}
	if strings.Contains(host, ":") {
		host = "IPv6:" + host
	}
	b = append(append(append(append(b, strings.ReplaceAll(helo, " ", "_")...), " (["...), host...), "])\r\n\tby "...)
	b = append(append(append(b, in.hostname...), " with "...), c.GetProtocol()...)
	b = append(append(b, " id "...), in.id.String()...)
	if c.GetTls() != "" {
		b = append(append(append(b, "\r\n\t("...), c.GetTls()...), ')')
	}
	if len(in.env.rcpts) == 1 {
		b = append(append(append(b, "\r\n\tfor <"...), in.env.rcpts[0].address...), '>')
	}
	b = append(b, ";\r\n\t"...)
	b = in.now.AppendFormat(b, "Mon, 02 Jan 2006 15:04:05 -0700")
	return append(b, "\r\n"...)
}
