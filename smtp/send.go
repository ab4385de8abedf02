package smtp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"relay/smtp/mailaddr"
)

// Envelope is what goes around a message.
type Envelope struct {
	From    string // empty: the null path
	Options MailOptions
	To      []Rcpt
	Size    int64 // octets of the message; 0: not known
	// Dots sends by DATA what need not go by BDAT, whatever ClientOptions.Chunking says: its
	// 354 shows whether replies are still those to our commands.
	Dots bool
}

// Rcpt is one recipient of an Envelope.
type Rcpt struct {
	Address string
	Options RcptOptions
}

// ErrMaybeSent is wrapped by the Cause of replies for recipients who may have
// got the message: the connection failed after the end of the message went out
// and before it was answered (RFC 5321 section 4.5.3.2.6, RFC 1047).
const ErrMaybeSent = constError("smtp: no answer to the end of the message")

// Stage says which command a reply answered.
type Stage uint8

// The stages of a transaction.
const (
	StageNone Stage = iota // none: it is our own word
	StageMail
	StageRcpt
	StageData
	StageEnd // the end of the message, or a chunk of it
)

// fate is what became of one recipient.
type fate struct {
	stage    Stage
	accepted bool // RCPT went well
}

// Fate tells which command the reply to the i-th recipient of the last Send
// answered, and whether the server had taken the recipient before that.
func (c *Client) Fate(i int) (stage Stage, accepted bool) {
	return c.fate[i].stage, c.fate[i].accepted
}

// ErrStalled is wrapped by the error of Send where the connection failed, or the
// time was up, while several commands waited for their replies. A server that
// cannot do with PIPELINING what it announces fails like that.
const ErrStalled = constError("smtp: pipelined commands were not answered")

// Send hands a message over. It returns one Reply for each recipient, in their
// order, never nil. The error is not nil exactly if the connection is of no use
// afterwards; recipients whose fate had not been told by then have a 4xx reply.
//
// Each reply is matched to its command. If the server says something that no
// command accounts for, before the end of the message goes out or right behind
// the last reply, none of its replies is believed: they could belong to other
// commands. The connection ends, with ErrStray.
//
// A need of this message that the server can not meet is found before anything is
// sent, and gives 5xx replies of our own. body is read to its end; it needs no
// particular line ends, except with BINARYMIME. If it fails, the connection is cut and
// the message is not ended. beforeDot, if not nil, is called right before the end of
// the message goes out, and only then; its error cuts the connection, too.
func (c *Client) Send(ctx context.Context, e *Envelope, body io.Reader, beforeDot func() error) ([]*Reply, error) {
	t := &transaction{Client: c, ctx: ctx, env: e, replies: make([]*Reply, len(e.To)), beforeDot: beforeDot}
	t.fate = append(t.fate[:0], make([]fate, len(e.To))...)
	if err := c.usable(); err != nil {
		return t.end(err)
	}
	if r := c.lacking(e); r != nil {
		t.all(r)
		return t.replies, nil
	}
	t.screen()
	if t.open() == 0 {
		return t.replies, nil
	}
	defer c.watch(ctx)()
	t.large = c.opt.Buffers.pool.get()
	defer c.opt.Buffers.pool.put(t.large)
	return t.end(t.run(body))
}

// ErrLacking is wrapped by the Cause of replies that we gave in the next hop's
// place: it has not said that it can do what the message needs.
const ErrLacking = constError("smtp: the next hop lacks what the message needs")

func lacks(code int, enhanced, text string) *Reply {
	return &Reply{Code: code, Enhanced: enhanced, Text: text, Cause: ErrLacking}
}

// lacking returns the refusal for a message that this server cannot take.
func (c *Client) lacking(e *Envelope) *Reply {
	o := &e.Options
	_, utf8 := c.Has("SMTPUTF8")
	_, requireTLS := c.Has("REQUIRETLS")
	_, deliverBy := c.Has("DELIVERBY")
	size, _ := c.Has("SIZE")
	switch most, ok := digits(size, 20); {
	case ok && most > 0 && e.Size > most:
		return lacks(552, "5.3.4", "message too large for the next hop, which takes "+size+" octets")
	case !utf8 && !mailaddr.IsASCII(e.From):
		return lacks(553, "5.6.7", "the next hop does not take addresses that are not ASCII")
	case !utf8 && o.UTF8:
		return lacks(550, "5.6.9", "the next hop does not take header fields in UTF-8")
	case o.RequireTLS && (c.tls == nil || !requireTLS): // RFC 8689 section 4.2.1
		return lacks(550, "5.7.30", "REQUIRETLS is needed, and the next hop does not offer it")
	case o.DeliverBy != nil && o.DeliverBy.Return && !deliverBy: // RFC 2852 section 4.1.4.1
		return lacks(550, "5.3.3", "the next hop does not offer DELIVERBY")
	}
	return c.lackingBody(o.Body)
}

func (c *Client) lackingBody(b BodyType) *Reply {
	_, eight := c.Has("8BITMIME")
	_, binary := c.Has("BINARYMIME")
	switch {
	case b == Body8BitMIME && !eight && !binary:
		return lacks(554, "5.6.3", "the next hop does not take 8-bit text, and the message cannot be converted")
	case b == BodyBinaryMIME && (!binary || !c.chunking()):
		return lacks(554, "5.6.3", "the next hop does not take binary messages, and this one cannot be converted")
	}
	return nil
}

func (c *Client) chunking() bool {
	_, ok := c.Has("CHUNKING")
	return ok
}

// transaction is one Send.
type transaction struct {
	*Client
	ctx       context.Context
	env       *Envelope
	replies   []*Reply // nil: not decided
	accepted  []int    // recipients whose RCPT went well
	ended     bool     // the end of the message went out
	beforeDot func() error
	large     *[largeBuffer]byte
}

// open counts the recipients without a reply.
func (t *transaction) open() int {
	n := 0
	for _, r := range t.replies {
		if r == nil {
			n++
		}
	}
	return n
}

// all gives r to every recipient without a reply.
func (t *transaction) all(r *Reply) {
	for i, have := range t.replies {
		if have == nil {
			t.replies[i] = r
		}
	}
}

// give is all for a reply that came over the wire.
func (t *transaction) give(r *Reply, s Stage) {
	for i, have := range t.replies {
		if have == nil {
			t.replies[i], t.fate[i].stage = r, s
		}
	}
}

// distrust takes back what the server said: it may have meant other commands.
func (t *transaction) distrust(err error) {
	for i := range t.replies {
		f := &t.fate[i]
		switch {
		case f.accepted && t.ended:
			t.replies[i] = &Reply{
				Code: 451, Enhanced: "4.4.2", Text: "the reply to the message is in doubt",
				Cause: fmt.Errorf("%w: %w", ErrMaybeSent, err),
			}
		case f.accepted || f.stage != StageNone:
			t.replies[i] = &Reply{
				Code: 451, Enhanced: "4.5.0", Text: "the next hop gave more replies than it was asked for", Cause: err,
			}
		}
		f.stage = StageNone
	}
}

// end makes the result of Send.
func (t *transaction) end(err error) ([]*Reply, error) {
	if err == nil {
		err = t.usable()
	}
	if errors.Is(err, ErrStray) {
		t.distrust(err)
	}
	switch r, last := errors.AsType[*Reply](t.err); {
	case err == nil:
	case last: // 421, what came after it does not matter
		t.all(r)
	case t.ended:
		t.all(&Reply{
			Code: 451, Enhanced: "4.4.2", Text: "no answer to the end of the message",
			Cause: fmt.Errorf("%w: %w", ErrMaybeSent, err),
		})
	default:
		t.all(&Reply{Code: 451, Enhanced: "4.4.2", Text: "connection to the next hop failed: " + err.Error(), Cause: err})
	}
	t.all(&Reply{Code: 451, Enhanced: "4.5.0", Text: "the next hop gave no verdict", Cause: ErrProtocol})
	return t.replies, err
}

// screen refuses recipients that cannot be named to this server, or that are
// more than it takes in one transaction.
func (t *transaction) screen() {
	most := t.MaxRecipients()
	_, utf8 := t.Has("SMTPUTF8")
	n := 0
	for i, to := range t.env.To {
		switch {
		case strings.ContainsAny(to.Address, "\r\n\x00") || to.Address == "":
			t.replies[i] = NewReply(553, "5.1.3", "not an address")
		case !utf8 && !mailaddr.IsASCII(to.Address):
			t.replies[i] = lacks(553, "5.6.7", "the next hop does not take addresses that are not ASCII")
		case most > 0 && n >= most:
			t.replies[i] = NewReply(452, "4.5.3", "more recipients than the next hop takes at once")
		default:
			n++
		}
	}
}

// run does the transaction. Its error is of the kind that ends a connection.
func (t *transaction) run(body io.Reader) error {
	if strings.ContainsAny(t.env.From, "\r\n\x00") {
		t.all(NewReply(553, "5.1.7", "not an address"))
		return nil
	}
	bdat := t.chunking() && (t.opt.Chunking && !t.env.Dots || t.env.Options.Body == BodyBinaryMIME)
	_, pipelining := t.Has("PIPELINING")
	var err error
	var ready bool // the server waits for the message
	if pipelining {
		if ready, err = t.envelopePipelined(bdat); err != nil && t.ctx.Err() == nil && !errors.Is(err, ErrStray) {
			err = fmt.Errorf("%w: %w", ErrStalled, err)
		}
	} else {
		ready, err = t.envelopeStepwise(bdat)
	}
	if err != nil || t.err != nil {
		return err
	}
	if !ready {
		return nil
	}
	if bdat {
		return t.sendChunks(body)
	}
	return t.sendDots(body)
}

// envelopePipelined sends the whole envelope in one go (RFC 2920). For DATA that
// includes the command: a server that says 354 without a recipient gets an empty
// message, which reaches nobody. A chunk waits until all recipients are answered:
// unlike DATA it has no reply of its own kind that would show a shift.
func (t *transaction) envelopePipelined(bdat bool) (ready bool, err error) {
	var asked []int
	for i := range t.env.To {
		if t.replies[i] == nil {
			asked = append(asked, i)
		}
	}
	var mail *Reply
	for first := true; first || len(asked) > 0; first = false {
		group := asked[:min(len(asked), maxGroup)]
		asked = asked[len(group):]
		if first {
			t.out = t.mailCommand(t.out)
		}
		for _, i := range group {
			t.out = t.rcptCommand(t.out, i)
		}
		if len(asked) == 0 && !bdat {
			t.out = append(t.out, "DATA\r\n"...)
		}
		if err := t.flush(t.ctx, t.opt.MailTimeout); err != nil {
			return false, err
		}
		if first {
			if mail, err = t.read(t.ctx, t.opt.MailTimeout); err != nil {
				return false, err
			}
		}
		if err := t.rcptReplies(group, mail); err != nil || t.err != nil {
			return false, err
		}
	}
	switch {
	case !bdat:
		return t.dataReply()
	case len(t.accepted) == 0:
		return false, t.abandon()
	}
	return true, nil
}

// maxGroup bounds what is sent before answers are read: two sides that both
// write and do not read would wait for ever (RFC 2920 section 3.1).
const maxGroup = 250

func (t *transaction) rcptReplies(group []int, mail *Reply) error {
	for _, i := range group {
		if t.err != nil {
			return nil
		}
		r, err := t.read(t.ctx, t.opt.RcptTimeout)
		if err != nil {
			return err
		}
		t.take(i, mail, r)
	}
	return nil
}

// take notes what became of a recipient's RCPT.
func (t *transaction) take(i int, mail, rcpt *Reply) {
	switch {
	case !mail.Positive():
		t.replies[i], t.fate[i].stage = unexpected(mail), StageMail
	case !rcpt.Positive():
		t.replies[i], t.fate[i].stage = unexpected(rcpt), StageRcpt
	default:
		t.fate[i].accepted = true
		t.accepted = append(t.accepted, i)
	}
}

// dataReply reads the answer to DATA.
func (t *transaction) dataReply() (ready bool, err error) {
	r, err := t.read(t.ctx, t.opt.DataTimeout)
	switch {
	case err != nil:
		return false, err
	case r.Code == 354 && len(t.accepted) > 0:
		return true, nil
	case r.Code == 354: // RFC 2920 section 3.1
		if _, err = t.ask(t.ctx, t.opt.EndTimeout, "."); err == nil && t.err == nil {
			err = t.quiet(t.ctx)
		}
		return false, err
	case r.Code < 400:
		return false, t.outOfStep("DATA", r)
	}
	t.give(unexpected(r), StageData)
	return false, t.abandon()
}

// outOfStep ends the connection after a reply that cannot be the one to its
// command.
func (t *transaction) outOfStep(verb string, r *Reply) error {
	return t.broken(fmt.Errorf("%w: %s was answered %.60q", ErrStray, verb, r.Error()))
}

// envelopeStepwise waits for each answer, as a server without PIPELINING needs.
func (t *transaction) envelopeStepwise(bdat bool) (ready bool, err error) {
	t.out = t.mailCommand(t.out)
	mail, err := t.step(t.opt.MailTimeout)
	if err != nil {
		return false, err
	}
	if !mail.Positive() {
		t.give(unexpected(mail), StageMail)
		return false, t.settled()
	}
	for i := range t.env.To {
		if t.replies[i] != nil {
			continue
		}
		t.out = t.rcptCommand(t.out, i)
		r, err := t.step(t.opt.RcptTimeout)
		if err != nil {
			return false, err
		}
		t.take(i, mail, r)
		if t.err != nil {
			return false, nil
		}
	}
	switch {
	case len(t.accepted) == 0:
		return false, t.abandon()
	case bdat:
		return true, nil
	}
	t.out = append(t.out, "DATA\r\n"...)
	if err := t.flush(t.ctx, t.opt.DataTimeout); err != nil {
		return false, err
	}
	return t.dataReply()
}

func (t *transaction) step(wait time.Duration) (*Reply, error) {
	if err := t.flush(t.ctx, wait); err != nil {
		return nil, err
	}
	return t.read(t.ctx, wait)
}

// abandon resets the server after a transaction that came to nothing. The reply
// shows whether the server is in step: a no to RSET is most likely the answer to
// a command before it, and the refusal of a recipient then, too.
func (t *transaction) abandon() error {
	if t.err != nil {
		return nil
	}
	r, err := t.ask(t.ctx, t.opt.MailTimeout, "RSET")
	switch {
	case err != nil || t.err != nil:
		return err
	case r.Positive():
		return t.settled()
	case t.refusesAll():
		return t.broken(unexpected(r))
	}
	return t.outOfStep("RSET", r)
}

// refusesAll: MAIL was refused. A server that says no to everything says so in
// any order.
func (t *transaction) refusesAll() bool {
	return !slices.ContainsFunc(t.fate, func(f fate) bool { return f.stage > StageMail })
}

// settled looks for replies behind the last one before any of them is believed.
func (t *transaction) settled() error {
	if t.err != nil {
		return nil
	}
	err := t.quiet(t.ctx)
	if errors.Is(err, ErrStray) {
		return err
	}
	return nil // that it has hung up is known the next time
}

func (t *transaction) mailCommand(b []byte) []byte {
	b = append(b, "MAIL FROM:<"...)
	b = append(b, t.env.From...)
	b = append(b, '>')
	o := &t.env.Options
	if t.has("SIZE") && t.env.Size > 0 {
		b = strconv.AppendInt(append(b, " SIZE="...), t.env.Size, 10)
	}
	if o.Body != Body7Bit {
		b = append(append(b, " BODY="...), o.Body.String()...)
	}
	if t.has("SMTPUTF8") && (o.UTF8 || !t.ascii()) {
		b = append(b, " SMTPUTF8"...)
	}
	if o.RequireTLS {
		b = append(b, " REQUIRETLS"...)
	}
	if t.has("DSN") {
		b = appendParam(b, "RET", o.Ret)
		b = appendParam(b, "ENVID", mailaddr.EncodeXtext(o.EnvID))
	}
	if t.has("AUTH") && t.user {
		auth := o.Auth
		if auth != "<>" {
			auth = mailaddr.EncodeXtext(auth)
		}
		b = appendParam(b, "AUTH", auth)
	}
	if t.has("DELIVERBY") && o.DeliverBy != nil {
		b = append(b, formatBy(o.DeliverBy, t.opt.Now())...)
	}
	if t.has("MT-PRIORITY") && o.Priority != nil {
		b = strconv.AppendInt(append(b, " MT-PRIORITY="...), int64(*o.Priority), 10)
	}
	return append(b, '\r', '\n')
}

func (t *transaction) has(ext string) bool {
	_, ok := t.ext[ext]
	return ok
}

// ascii reports whether all addresses are.
func (t *transaction) ascii() bool {
	return mailaddr.IsASCII(t.env.From) &&
		!slices.ContainsFunc(t.env.To, func(r Rcpt) bool { return !mailaddr.IsASCII(r.Address) })
}

func appendParam(b []byte, key, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, ' ')
	b = append(b, key...)
	b = append(b, '=')
	return append(b, value...)
}

// formatBy: the rest of the time goes on (RFC 2852 section 4.1.4).
func formatBy(by *DeliverBy, now time.Time) string {
	mode := ";N"
	if by.Return {
		mode = ";R"
	}
	if by.Trace {
		mode += "T"
	}
	seconds := int64(by.Until.Sub(now) / time.Second)
	if by.Return {
		seconds = max(seconds, 1) // 0 would be no mode R; the queue looks at the clock
	}
	return " BY=" + strconv.FormatInt(min(max(seconds, -999999999), 999999999), 10) + mode
}

func (t *transaction) rcptCommand(b []byte, i int) []byte {
	to := &t.env.To[i]
	b = append(b, "RCPT TO:<"...)
	b = append(b, to.Address...)
	b = append(b, '>')
	if t.has("DSN") {
		b = appendParam(b, "NOTIFY", formatNotify(to.Options.Notify))
		if to.Options.ORCPT != "" {
			// UTF-8 is longer in ASCII; a parameter that is too long would be refused, and the
			// recipient with it.
			if v := mailaddr.EncodeORCPT(to.Options.ORCPT); len(v) <= maxORCPT {
				b = appendParam(b, "ORCPT", v)
			}
		}
	}
	return append(b, '\r', '\n')
}

// sendDots sends the message as DATA wants it.
func (t *transaction) sendDots(body io.Reader) error {
	var w dotWriter
	out := t.opt.Buffers.pool.get()
	defer t.opt.Buffers.pool.put(out)
	block := t.large[:largeBuffer/2-8] // stuffing may double it
	pending := out[:0]
	for {
		n, err := body.Read(block)
		pending = w.append(pending, block[:n])
		if err == io.EOF {
			return t.finish(w.end(pending))
		}
		if err != nil {
			return t.cut(err)
		}
		if len(pending) > largeBuffer/2-16 {
			if err := t.write(pending); err != nil {
				return t.early(err)
			}
			pending = out[:0]
		}
	}
}

// finish sends the last block with the end of the message in it.
func (t *transaction) finish(block []byte) error {
	if t.beforeDot != nil {
		if err := t.beforeDot(); err != nil {
			return t.cut(err)
		}
	}
	if err := context.Cause(t.ctx); err != nil {
		return t.cut(err) // a write may go through although the time is up
	}
	if err := t.quiet(t.ctx); err != nil {
		return t.unasked(err)
	}
	t.ended = true
	if err := t.write(block); err != nil {
		return t.early(err)
	}
	return t.verdict()
}

// unasked ends a transaction in which the server spoke before the message was
// sent to its end.
func (t *transaction) unasked(err error) error {
	if r, ok := errors.AsType[*Reply](err); ok { // a goodbye
		t.all(r)
		return err
	}
	return t.cut(err)
}

// cut ends the connection without ending the message.
func (t *transaction) cut(cause error) error {
	t.all(&Reply{Code: 451, Enhanced: "4.3.0", Text: "the message could not be sent to its end", Cause: cause})
	return t.broken(fmt.Errorf("smtp: message cut off: %w", cause))
}

func (t *transaction) write(block []byte) error {
	if err := t.deadline(t.ctx, t.opt.BlockTimeout); err != nil {
		return err
	}
	_, err := t.conn.Write(block)
	return err
}

// early looks whether the server said why it no longer reads. A no may be
// believed; a yes to a message that is not complete may not.
func (t *transaction) early(cause error) error {
	cause = t.cause(t.ctx, cause)
	if t.ctx.Err() == nil && t.err == nil {
		if r, err := t.read(t.ctx, 2*time.Second); err == nil && r.Code >= 400 {
			t.give(r, StageEnd)
		}
	}
	return t.broken(cause)
}

// verdict reads what became of the message. Lines in front of the reply that are
// none are passed over, as other clients do it: they shift nothing, and a server
// that writes them would be sent the message again and again.
func (t *transaction) verdict() error {
	for n, i := range t.accepted {
		t.odd = maxOdd
		r, err := t.read(t.ctx, t.opt.EndTimeout)
		t.odd = 0
		switch {
		case err != nil:
			return err
		case r.Code/100 == 3:
			return t.outOfStep("the end of the message", r)
		}
		if !t.opt.LMTP {
			for _, i := range t.accepted[n:] {
				t.replies[i], t.fate[i].stage = r, StageEnd
			}
			break
		}
		t.replies[i], t.fate[i].stage = r, StageEnd
	}
	return t.confirm()
}

const maxOdd = 20 // lines

// confirm looks for replies behind the last one, before that is believed. A
// server that says the same twice, yes or no, has said it whichever of the
// replies was the one to the message; more is not known, and which of them is one
// to come cannot be told either: the connection ends.
func (t *transaction) confirm() error {
	last := t.replies[t.accepted[len(t.accepted)-1]]
	more, whole := t.surplus(t.ctx)
	if len(more) == 0 && whole || len(more) == 1 && whole && more[0].Code == 421 {
		return nil
	}
	same := whole && !t.opt.LMTP
	for _, r := range more {
		same = same && r.Code/100 == last.Code/100
	}
	err := fmt.Errorf("%w: behind the reply to the message", ErrStray)
	if same || whole && t.allYes(more) {
		err = fmt.Errorf("%w: the reply to the message came twice", ErrProtocol)
	}
	return t.broken(err)
}

// allYes: every reply to the message, and what came behind them, is a yes.
func (t *transaction) allYes(more []*Reply) bool {
	no := func(r *Reply) bool { return !r.Positive() }
	return !slices.ContainsFunc(more, no) && !slices.ContainsFunc(t.accepted, func(i int) bool { return no(t.replies[i]) })
}

// sendChunks sends the message as BDAT chunks (RFC 3030). Each waits for the
// answer to the one before: all answers are 250, so that one too many would be
// taken for that to a chunk under way. To make up for it chunks are large where
// the size of the message is known.
func (t *transaction) sendChunks(body io.Reader) error {
	for left := t.env.Size; ; {
		size := nextChunk(left)
		left -= size
		if size > 0 {
			if failed, err := t.sendLarge(body, size); failed || err != nil {
				return err
			}
			continue
		}
		n, err := io.ReadFull(body, t.large[chunkHead:])
		last := err == io.EOF || err == io.ErrUnexpectedEOF
		switch {
		case err != nil && !last:
			return t.cut(err)
		case last:
			return t.finish(t.chunk(int64(n), n, true))
		}
		if failed, err := t.beginChunk(t.chunk(int64(n), n, false)); failed || err != nil {
			return err
		}
		if failed, err := t.chunkReply(); failed || err != nil {
			return err
		}
	}
}

const (
	chunkHead = 32 // room for the command in front of its chunk
	maxChunk  = 8 << 20
)

// nextChunk is the size of the next chunk of a message of which left octets are to
// come; 0: what fits a buffer. It leaves something for the last chunk.
func nextChunk(left int64) int64 {
	if left <= largeBuffer {
		return 0
	}
	return min(maxChunk, int64(1)<<(bits.Len64(uint64(left-1))-1))
}

// sendLarge sends a chunk that is larger than the buffer.
func (t *transaction) sendLarge(body io.Reader, size int64) (failed bool, err error) {
	left := size
	for left > 0 {
		block := t.large[chunkHead:]
		block = block[:min(left, int64(len(block)))]
		if n, err := io.ReadFull(body, block); err == io.EOF || err == io.ErrUnexpectedEOF {
			return true, t.cut(fmt.Errorf("the message is %d octets shorter than its size", left-int64(n)))
		} else if err != nil {
			return true, t.cut(err)
		}
		if left == size {
			failed, err = t.beginChunk(t.chunk(size, len(block), false))
		} else if err = t.write(block); err != nil {
			err = t.early(err)
		}
		if failed || err != nil {
			return true, err
		}
		left -= int64(len(block))
	}
	return t.chunkReply()
}

// beginChunk sends the beginning of a chunk, or all of it.
func (t *transaction) beginChunk(block []byte) (failed bool, err error) {
	if err := t.quiet(t.ctx); err != nil {
		return true, t.unasked(err)
	}
	if err := t.write(block); err != nil {
		return true, t.early(err)
	}
	return false, nil
}

// chunk puts the command for size octets right in front of n octets behind
// chunkHead.
func (t *transaction) chunk(size int64, n int, last bool) []byte {
	var buf [chunkHead]byte
	line := strconv.AppendInt(append(buf[:0], "BDAT "...), size, 10)
	if last {
		line = append(line, " LAST"...)
	}
	line = append(line, '\r', '\n')
	copy(t.large[chunkHead-len(line):], line)
	return t.large[chunkHead-len(line) : chunkHead+n]
}

// chunkReply reads the answer to a chunk. A no fails the message. The answer comes
// when the chunk has gone through: that may take longer than a block, for all that
// the buffers on the way hold is waited for.
func (t *transaction) chunkReply() (failed bool, err error) {
	r, err := t.read(t.ctx, t.opt.EndTimeout)
	if err != nil || t.err != nil {
		return true, err
	}
	if r.Positive() {
		return false, nil
	}
	t.give(unexpected(r), StageEnd)
	if err := t.settled(); err != nil {
		return true, err
	}
	// The server's opinion of the rest is not worth finding out.
	return true, t.broken(fmt.Errorf("smtp: chunk refused: %w", ErrProtocol))
}
