package inbound

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/mailheader"
	"relay/node/milter"
	"relay/node/plan"
	"relay/node/replica"
	"relay/node/statelog"
	"relay/smtp"
	"relay/smtp/printable"
)

// chunksInFlight is how many parts of one large body travel through the log
// at a time; with spool.MaxInline it bounds what a large message costs.
const chunksInFlight = 4

// Refusals of intake that are not the cluster's, for now.
var (
	errGone  = errors.New("a mailbox was removed meanwhile")
	errFull  = errors.New("mailbox full")
	errSpent = errors.New("the account has sent what it may for today")
	errWide  = errors.New("too many recipients behind one message")
)

// loopError refuses mail that goes in circles, for good.
type loopError string

const (
	errHops    = loopError("too many hops")
	errLooping = loopError("mail loops back to a mailbox it has been in")
)

func (e loopError) Error() string   { return string(e) }
func (e loopError) Permanent() bool { return true }

// envelope is a message on its way in, apart from its octets.
type envelope struct {
	sender    string
	rcpts     []plan.Recipient
	weight    int // of rcpts
	client    *pb.Client
	options   pb.Message  // only the fields that MAIL parameters set
	announced uint64      // octets, by MAIL; 0: not
	fixUp     bool        // submission: add From, Date and Message-ID where missing
	domain    string      // for a Message-ID that is made here
	detail    string      // for the history line
	account   *pb.Account // whose daily send limit counts; nil: nobody's
	from      *fromCheck  // whose address may stand in From; nil: anybody's
	origin    string      // who may send it again and mean the same (RFC 1047); empty: nobody
	screen    *screening  // what strangers' mail goes through; nil: nothing
	greyed
	filter  *milter.Transaction // content filters; nil: none
	receipt receipt             // what the client's reading of the 250 will prove; set by accept
}

// mailer turns messages into Accept commands. Its methods may be called
// concurrently.
type mailer struct {
	replica  replica.Replica
	receipts *receipts
	node     string
	hostname string
	maxHops  int
	log      *zap.Logger
	took     func(begin time.Time) // observes a commit; nil: nobody counts
	buffers  buffers
	from     fromStats
}

func newMailer(r replica.Replica, receipts *receipts, node, hostname string, maxHops int, log *zap.Logger) *mailer {
	return &mailer{replica: r, receipts: receipts, node: node, hostname: hostname, maxHops: maxHops, log: log}
}

// accept takes a message in. When it returns nil a majority has the message on
// disk under the returned id; on an error nobody answers for it (but where the
// error wraps cluster.ErrUnknown it may exist all the same).
func (m *mailer) accept(ctx context.Context, env *envelope, body io.Reader) (string, error) {
	now := m.replica.Now()
	in := &intake{mailer: m, env: env, id: replica.NewID(now), digest: sha256.New(), now: now}
	in.holder, _ = body.(smtp.Holder)
	in.buf = m.buffers.get(smallestBuffer)
	defer func() { m.buffers.put(in.buf) }()
	err := in.take(ctx, body)
	if errors.Is(err, errDiscarded) {
		err = in.discard(ctx)
	}
	if err != nil {
		in.abort()
		return "", err
	}
	return in.id.String(), nil
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
	tail   []byte // the last two octets sent ahead, the top apart
	chunks uint32 // sent ahead
	head   mailheader.Header
	plan   *pb.Accept  // without what only the whole body tells
	twin   hash.Hash   // of the client's octets; nil: a repeat is not looked for
	key    []byte      // of it, and of the envelope
	asked  bool        // other nodes were
	sample []byte      // the beginning of a large message, for reports
	holder smtp.Holder // is told what is held; nil: nobody counts
	top    []byte      // the beginning of a large message, held back until its end is known
	held   uint32      // how many chunks it is
	found  string      // what screening found, for the history
	looped []string    // mailboxes that the message has been in, and does not enter again

	given     []string // recipients as the client gave them, before a filter's verdict
	dropped   []string // of them, those that a filter took away
	discarder string   // who throws the message away
}

func (in *intake) take(ctx context.Context, body io.Reader) error {
	in.buf = in.received(in.buf)
	trace := len(in.buf)
	done, err := in.fill(body)
	if err != nil {
		return err
	}
	in.buf = mailheader.NameMailboxLine(in.buf, trace)
	in.head = mailheader.Parse(in.buf[trace:])
	if err := in.check(); err != nil {
		return err
	}
	in.beginTwin(in.buf[trace:])
	if err := in.beginScreen(trace, done); err != nil {
		return err
	}
	in.mend(trace, done)
	if err := in.checkFrom(ctx, trace, done); err != nil {
		return err
	}
	in.address()
	if err := in.beginFilter(ctx, trace, done); err != nil {
		return err
	}
	if !done {
		in.sample = slices.Clone(in.buf[:min(len(in.buf), sampleSize)])
		in.hold(trace)
		if err := in.sendAhead(ctx, body); err != nil {
			return err
		}
	}
	if err := in.endFilter(ctx, trace); err != nil {
		return err
	}
	if err := in.endScreen(ctx); err != nil {
		return err
	}
	return in.commit(ctx)
}

// fill reads until the buffer holds spool.MaxInline octets or the body ends.
func (in *intake) fill(body io.Reader) (done bool, err error) {
	for len(in.buf) < spool.MaxInline {
		if len(in.buf) == cap(in.buf) {
			in.buf = in.buffers.grow(in.buf)
		}
		in.holds()
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

// holds tells who counts what is held in memory until more has come.
func (in *intake) holds() {
	if in.holder != nil {
		in.holder.Holds(cap(in.buf) + cap(in.top) + cap(in.sample))
	}
}

// mend adds what is missing: the empty line behind the header section, and on
// submission the fields RFC 6409 §8 lets us add. trace is where the client's
// octets begin; done says that all of them are at hand. Nothing is added to a
// header section whose end is out of sight: the field may be there.
func (in *intake) mend(trace int, done bool) {
	if in.head.NoGap {
		in.buf = slices.Insert(in.buf, trace+in.head.End, '\r', '\n')
		in.head.End += 2
	}
	if !in.env.fixUp || !in.head.Whole && !done {
		return
	}
	var add []byte
	if !in.head.Date {
		add = fmt.Appendf(add, "Date: %s\r\n", in.now.Format(time.RFC1123Z))
	}
	if !in.head.ID {
		in.head.MessageID = strings.ToLower(in.id.String()) + "@" + in.domainOr()
		add = fmt.Appendf(add, "Message-ID: <%s>\r\n", in.head.MessageID)
	}
	if !in.head.From && in.env.sender != "" {
		add = fmt.Appendf(add, "From: <%s>\r\n", in.env.sender)
	}
	in.buf = slices.Insert(in.buf, trace, add...)
	in.head.End += len(add)
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
		if in.twin != nil {
			in.twin.Write(in.buf)
		}
		in.env.filter.Body(ctx, in.buf)
		in.env.screen.body(in.buf)
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
		if err := in.proposeChunk(ctx, g, in.chunks, part); err != nil {
			return err
		}
		in.chunks++
		in.tail = lastTwo(in.tail, part)
		in.buf = append(in.buf[:0], in.buf[len(part):]...)
	}
	return ctx.Err()
}

func (in *intake) proposeChunk(ctx context.Context, g *errgroup.Group, seq uint32, part []byte) error {
	if in.env.filter.Discarded() { // nobody will claim it
		in.size += uint64(len(part))
		return nil
	}
	for _, id := range in.ids() {
		f, err := spool.Encode(spool.KindChunk, &pb.Chunk{Id: id, Seq: seq}, part)
		if err != nil {
			return err
		}
		g.Go(func() error {
			_, err := in.replica.Propose(ctx, f)
			return err
		})
	}
	in.digest.Write(part)
	in.size += uint64(len(part))
	return nil
}

// commit proposes the Accept: the instant at which the message exists.
func (in *intake) commit(ctx context.Context) error {
	h := in.plan
	h.Detail, h.Inline = in.detail(), in.chunks == 0
	in.report(h)
	if err := in.fit(ctx, h); err != nil {
		return err
	}
	if h.Inline {
		in.digest.Write(in.buf)
		in.size = uint64(len(in.buf))
		in.tail = lastTwo(nil, in.buf)
	}
	in.number(ctx, in.twinKey(in.recipients()), h.Inline)
	unended, err := in.unended()
	if err != nil {
		return err
	}
	in.sign(h, unended)
	for {
		h.Twin = numbered(in.key, in.env.receipt.n)
		res, err := in.propose(ctx, h)
		if err != nil {
			return err
		}
		switch res.Code {
		case pb.Code_OK:
			in.logAccepted(h)
			return nil
		case pb.Code_DUPLICATE:
			if !in.again(ctx, res) {
				in.repeated(res.Id)
				return nil
			}
			if !h.Inline {
				in.chunks = 0
				return errMeantTwice
			}
		case pb.Code_MISSING:
			return fmt.Errorf("%w: %s", errGone, res.Text)
		case pb.Code_OVER_LIMIT:
			return fmt.Errorf("%w: %s", errSpent, res.Text)
		case pb.Code_OVER_QUOTA:
			if !in.withoutFull(h, res.Drops) {
				return errFull
			}
		default:
			return fmt.Errorf("accept refused: %s %s", res.Code, res.Text)
		}
	}
}

func (in *intake) propose(ctx context.Context, h *pb.Accept) (*pb.Result, error) {
	if len(h.Recipients)+len(h.Drops) == 0 && len(h.Notices) > 0 {
		return in.proposeReport(ctx, h)
	}
	if in.took != nil {
		defer in.took(time.Now())
	}
	h.Epoch = in.replica.Epoch()
	if h.Inline {
		return replica.Propose(ctx, in.replica, spool.KindAccept, h, in.buf)
	}
	return replica.Propose(ctx, in.replica, spool.KindAccept, h)
}

// fit puts the body into chunks where it and the envelope together may be over
// the limit of a frame, and refuses an envelope that is over it alone.
func (in *intake) fit(ctx context.Context, h *pb.Accept) error {
	const slack = 4096 // what sign fills in
	envelope := proto.Size(h) + slack
	if envelope > spool.MaxFrame {
		return errWide
	}
	if !h.Inline || envelope+len(in.buf) <= spool.MaxFrame {
		return nil
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(chunksInFlight)
	if err := in.sendChunk(gctx, g); err != nil {
		_ = g.Wait()
		return err
	}
	h.Inline = false
	return g.Wait()
}

// lastTwo returns the last two octets of a text in two parts.
func lastTwo(before, part []byte) []byte {
	if len(part) < 2 {
		part = slices.Concat(before, part)
	}
	return slices.Clone(part[max(0, len(part)-2):])
}

// unended reports whether the message ends otherwise than by CRLF, where the
// cluster keeps that on record. DATA always ends so; BDAT need not.
func (in *intake) unended() (is bool, err error) {
	if string(lastTwo(lastTwo(nil, in.top), in.tail)) == "\r\n" {
		return false, nil
	}
	return is, in.replica.View(func(v spool.View) error {
		record, _, err := v.Cluster()
		is = spool.VersionOf(record) >= 2
		return err
	})
}

// sign fills in what is known of the body when all of it was read.
func (in *intake) sign(h *pb.Accept, unended bool) {
	digest := in.digest.Sum(nil)
	chunks := in.chunks
	if h.Inline {
		chunks = 1
	}
	for _, one := range append([]*pb.Accept{h}, h.Copies...) {
		m := in.message()
		m.Id, m.Sender = one.Message.Id, one.Message.Sender
		m.Size, m.Digest, m.DigestTop, m.Chunks = in.size, digest, uint64(len(in.top)), chunks
		m.Unended = unended
		if one != h {
			m.Envid, m.Ret = "", "" // RFC 3461 §5.2.7.3: a list's mail begins anew
		}
		one.Message = m
	}
	if a := in.env.account; a != nil && a.SendLimitDay > 0 {
		h.Spender, h.Spends, h.SpendLimit = a.Address, uint32(len(in.env.rcpts)), a.SendLimitDay
	}
}

// recipients are the addresses as the client gave them.
func (in *intake) recipients() []string {
	if in.given != nil {
		return in.given
	}
	all := make([]string, 0, len(in.env.rcpts))
	for i := range in.env.rcpts {
		all = append(all, in.env.rcpts[i].Address)
	}
	return all
}

func (in *intake) message() *pb.Message {
	o := &in.env.options
	return &pb.Message{
		Id: in.id[:], CreatedMs: in.now.UnixMilli(), Sender: in.env.sender,
		MessageId: in.head.MessageID, Client: in.env.client,
		Smtputf8: o.Smtputf8, Body: o.Body, Ret: o.Ret, Envid: o.Envid, Requiretls: o.Requiretls,
		DeliverByMs: o.DeliverByMs, DeliverByReturn: o.DeliverByReturn, DeliverByTrace: o.DeliverByTrace,
		HoldUntilMs: o.HoldUntilMs, Priority: o.Priority, Ours: o.Ours,
	}
}

// logAccepted tells what was committed: of a message to nobody here that is its
// report alone.
func (in *intake) logAccepted(h *pb.Accept) {
	if len(h.Recipients)+len(h.Drops) == 0 && len(h.Notices) > 0 {
		statelog.LogNotice(in.log, h.Notices[0])
		return
	}
	statelog.LogAccepted(in.log, h, in.recipients())
}

// abort gives up chunks that went ahead. It is best effort: Sweep finds what
// stays behind.
func (in *intake) abort() {
	if in.chunks == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, id := range in.ids() {
		if _, err := replica.Propose(ctx, in.replica, spool.KindAbort, &pb.Abort{Id: id}); err != nil {
			in.log.Debug("abort not applied", zap.Stringer("id", in.id), zap.Error(err))
		}
	}
}

// received appends the trace field (RFC 5321 §4.4). It bears the socket's
// address; what HELO said is only cleaned.
func (in *intake) received(b []byte) []byte {
	c := in.env.client
	b = append(b, "Received: from "...)
	helo := printable.Text(c.GetHelo(), 255)
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
	// An address in UTF-8 would keep a message with a plain header from hops
	// without SMTPUTF8, where an alias may send it.
	if len(in.env.rcpts) == 1 && smtp.IsASCII(in.env.rcpts[0].Address) {
		b = append(append(append(b, "\r\n\tfor <"...), in.env.rcpts[0].Address...), '>')
	}
	b = append(b, ";\r\n\t"...)
	b = in.now.AppendFormat(b, "Mon, 02 Jan 2006 15:04:05 -0700")
	return append(b, "\r\n"...)
}
