package remote

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"relay/queue"
	"relay/queue/remote/mtasts"
	"relay/smtp"
	"relay/smtp/printable"
)

const (
	maxRecipients = 100             // in a transaction, RFC 5321 §4.5.3.1.8
	afterDot      = 5 * time.Second // for the answer to the dot when the right to act ends
)

// delivery is one call of Deliver.
type delivery struct {
	a        *Agent
	job      *queue.Job
	verdicts []queue.Verdict
	open     []int          // recipients without a verdict, by their place in the job
	next     []int          // of them, those for whom the host at hand has said later
	said     map[int]*fault // what a host has said last of a recipient that is open
	met      bool           // the host at hand got as far as a transaction
	lacked   bool           // it lacks what a recipient, or the message, needs
	link     Link           // by the route
	target   Target         // the same
	spread   *Spread        // by the route; nil: none
	proofs   map[hop]proved // by asked, of DANE; nil: none was asked for
	outside  []string       // hosts that the policy of the domain does not have
	told     []string       // hosts of which Config.Tally has heard why they get no mail
	sts      *mtasts.Policy // of the domain; nil: it has none
	looked   bool           // for sts
	start    time.Time
	plain    int8 // header is ASCII: 0 not looked at, 1 yes, -1 no
}

func newDelivery(a *Agent, job *queue.Job) *delivery {
	d := &delivery{
		a: a, job: job, start: time.Now(), verdicts: make([]queue.Verdict, len(job.Recipients)),
		open: make([]int, len(job.Recipients)),
	}
	for i := range job.Recipients {
		d.verdicts[i].Ref = queue.Ref{ID: job.ID, Recipient: job.Recipients[i].N}
		d.open[i] = i
	}
	return d
}

// set gives the i-th recipient its verdict.
func (d *delivery) set(i int, v queue.Verdict) {
	v.Ref, v.At = d.verdicts[i].Ref, time.Now()
	d.verdicts[i] = v
}

// all gives every open recipient the same verdict.
func (d *delivery) all(v queue.Verdict) {
	for _, i := range d.open {
		d.set(i, v)
	}
	d.open = nil
}

// rest settles what no hop has settled. A host's word on a recipient counts more than
// that another host could not be reached.
func (d *delivery) rest(ctx context.Context, f *fault) {
	switch {
	case len(d.open) == 0:
		return
	case ctx.Err() != nil:
		f = &fault{outcome: queue.Deferred, untried: true, text: "4.3.2 broken off: this node may not act any more"}
		d.said = nil
	case f == nil:
		f = &fault{outcome: queue.Deferred, text: "4.3.0 no host could be tried"}
	}
	for _, i := range d.open {
		g := f
		if said := d.said[i]; said != nil && !f.untried && (said.outcome != queue.Failed || !f.next && !f.left) {
			g = said // what one host lacks, another one that is away may have
		}
		d.set(i, queue.Verdict{Outcome: g.outcome, Reply: g.text, Host: g.host, NextHop: g.next, Untried: g.untried})
	}
	d.open = nil
}

// tryAll tries the hops in their order until every recipient has a verdict. It
// returns the last fault.
func (d *delivery) tryAll(ctx context.Context, hops []hop) *fault {
	var last *fault
	sessions := 0
	d.prefer(ctx, hops)
	for i := 0; i < len(hops); i++ {
		if len(d.open) == 0 || ctx.Err() != nil {
			break
		}
		if i > 0 && (sessions == d.a.conf.Sessions || time.Since(d.start) > d.a.conf.Patience) {
			if i = nextLast(hops, i); i < 0 {
				return cmp.Or(last, &fault{outcome: queue.Deferred, left: true, text: "4.3.0 not all hosts could be tried"})
			}
			sessions = 0
		}
		d.met, d.lacked = false, false
		f := d.try(ctx, hops[i])
		d.open = merge(d.open, d.next)
		d.next = nil
		if f != nil && f.limited {
			if last != nil || len(d.said) > 0 { // it has had its attempt
				f = cmp.Or(last, &fault{outcome: queue.Deferred, left: true, text: "4.3.0 not all hosts could be tried"})
			}
			return f
		}
		// A no of one host is the last word only where no other host said
		// later.
		if f != nil && (last == nil || f.outcome != queue.Failed) {
			last = f
		}
		if f != nil && f.final { // the login that was refused is not the fallback's
			if i = nextLast(hops, i+1) - 1; i < 0 {
				return f
			}
			sessions = 0
			continue
		}
		if d.met {
			sessions++
		}
		if d.met || d.lacked {
			othersFirst(hops[i+1:], hops[i])
		}
	}
	return last
}

// prefer puts that address of the first host in front to which a connection is
// open: which one comes first was left to chance anyway.
func (d *delivery) prefer(ctx context.Context, hops []hop) {
	if len(hops) < 2 || !hops[0].sameHost(hops[1]) {
		return
	}
	k, f := d.key(ctx, hops[0])
	if f == nil {
		d.a.prefer(hops, k)
	}
}

// key is how a hop is connected to. A fault: it must not be.
func (d *delivery) key(ctx context.Context, h hop) (key, *fault) {
	k := key{hop: h, verified: d.job.RequireTLS, link: d.link}
	if h.last {
		k.link = d.spread.Fallback.Link
	}
	var f *fault
	k.proof, f = d.proof(ctx, h, k.link)
	return k, f
}

// merge puts two sorted lists together.
func merge(a, b []int) []int {
	if len(b) == 0 {
		return a
	}
	a = append(a, b...)
	slices.Sort(a)
	return a
}

// othersFirst moves the other addresses of a host to the end: it has said what it
// has to say.
func othersFirst(hops []hop, one hop) {
	slices.SortStableFunc(hops, func(x, y hop) int {
		if x.last != y.last {
			if x.last {
				return 1
			}
			return -1
		}
		switch same := x.sameHost(one); {
		case same == y.sameHost(one):
			return 0
		case same:
			return 1
		}
		return -1
	})
}

// try gives one hop everything that is open. A fault: the open rest is better
// tried with the next.
func (d *delivery) try(ctx context.Context, h hop) *fault {
	k, f := d.key(ctx, h)
	if f != nil {
		if !slices.Contains(d.told, h.name) { // the same is so of its other addresses
			d.told = append(d.told, h.name)
			d.tally(h, k, nil, f)
		}
		d.lacked = f.name
		return f
	}
	fresh := d.alone()
	for len(d.open) > 0 {
		c, f := d.a.connect(ctx, k, fresh, d.job.Limits.Pass)
		d.tally(h, k, c, f)
		if f != nil {
			return f
		}
		again, f := d.converse(ctx, c)
		if f != nil || !again {
			return f
		}
		fresh = true // a connection that had been used was of no use any more
	}
	return nil
}

// converse sends one transaction after another on a connection and gives it
// back. again: one that had been used before turned out dead, or the host would
// not begin another transaction on it; try a fresh one.
func (d *delivery) converse(ctx context.Context, c *conn) (again bool, f *fault) {
	for len(d.open) > 0 {
		before := len(d.open)
		usable, f := d.transaction(ctx, c)
		if f == anew {
			d.a.pool.quit(c)
			return true, nil
		}
		if !usable {
			_ = c.client.Close()
			if c.reused() && f != nil && f.next && ctx.Err() == nil {
				return true, nil
			}
			return false, f
		}
		c.sent++
		c.total++
		full := c.spent || c.total >= d.a.conf.Messages || d.alone() || c.place.Over()
		for _, most := range [...]int{c.client.MaxTransactions(), d.job.Limits.Pass.PerConnection()} {
			full = full || most > 0 && c.total >= most
		}
		done := f != nil || len(d.open) == 0 || len(d.open) == before
		if full {
			d.a.pool.quit(c)
			return len(d.open) > 0 && !done, f
		}
		if done {
			d.a.pool.put(c)
			return false, f
		}
	}
	return false, nil
}

// alone: the message has a connection of its own, since it has to go by BDAT. An answer too
// many to the message before, that comes late, would be taken for the next command's, and in
// the end a recipient's 250 for that to the message: unlike DATA, BDAT has no 354 in between.
func (d *delivery) alone() bool {
	return d.job.Binary || d.job.Unended && d.a.conf.Client.Chunking
}

// anew says that a transaction was refused at its beginning, on a connection that
// had been used, which is no answer yet.
var anew = &fault{}

// transaction sends the message once, to as many of the open recipients as go
// into one transaction.
func (d *delivery) transaction(ctx context.Context, c *conn) (usable bool, f *fault) {
	group := d.open
	most := maxRecipients
	if n := c.client.MaxRecipients(); n > 0 {
		most = min(most, n)
	}
	group = group[:min(len(group), most)]
	if key := d.job.Limits.Pass.Start(len(group)); key != "" {
		return true, stopped(key)
	}
	if d.job.RequireTLS {
		if _, ok := c.client.Has("REQUIRETLS"); !ok {
			// RFC 8689 §4.2.1: another host may offer it.
			return true, &fault{
				outcome: queue.Failed, host: c.hop.String(),
				text: "5.7.30 the message requires TLS all the way, and the host does not offer REQUIRETLS",
			}
		}
	}
	env := d.envelope(c, group)
	body, err := d.job.Open()
	if err != nil {
		return true, unreadable(err)
	}
	defer body.Close()
	in := &watched{Reader: body}
	sendCtx, beforeDot, done := d.fence(ctx)
	replies, err := c.client.Send(sendCtx, env, in, beforeDot)
	done()
	d.met = d.met || slices.ContainsFunc(replies, func(r *smtp.Reply) bool { return !errors.Is(r, smtp.ErrLacking) })
	if errors.Is(err, smtp.ErrStalled) && (!c.reused() || timedOut(err)) {
		d.a.slow.add(c.hop)
	}
	if ctx.Err() == nil && (c.reused() && mailRefused(c, len(replies)) || usedUp(c, replies)) {
		return err == nil, anew
	}
	f = d.take(ctx, c, group, replies, err)
	if f != nil && in.err != nil {
		f = unreadable(in.err)
	}
	return err == nil, f
}

// mailRefused: the host did not begin the transaction.
func mailRefused(c *conn, n int) bool {
	for k := range n {
		if stage, _ := c.client.Fate(k); stage == smtp.StageMail {
			return true
		}
	}
	return false
}

// usedUp: a host that counts the recipients of a connection has had enough of them before
// this message, and has taken none of its. To wait would be no cure while other messages
// keep the connection busy.
func usedUp(c *conn, replies []*smtp.Reply) bool {
	for k := range replies {
		if stage, took := c.client.Fate(k); stage != smtp.StageRcpt || took {
			return false
		}
	}
	return c.idle && c.sent == 0 && slices.ContainsFunc(replies, saysTooMany)
}

// watched remembers that the message could not be read: not the hop's fault.
type watched struct {
	io.Reader
	err error
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	if err != nil && err != io.EOF {
		w.err = err
	}
	return n, err
}

func unreadable(err error) *fault {
	return &fault{outcome: queue.Deferred, text: "4.3.0 the message could not be read: " + plain(err)}
}

// fence makes the context for a Send. Before the final dot it ends with ctx;
// after it there is nothing to save any more, and the answer is worth a wait.
func (d *delivery) fence(ctx context.Context) (context.Context, func() error, func()) {
	sendCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	var sent atomic.Bool
	stop := context.AfterFunc(ctx, func() {
		if !sent.Load() {
			cancel(context.Cause(ctx))
			return
		}
		time.AfterFunc(afterDot, func() { cancel(context.Cause(ctx)) })
	})
	beforeDot := func() error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if d.job.Live != nil {
			if err := d.job.Live(); err != nil {
				return &notLive{err}
			}
		}
		sent.Store(true)
		return nil
	}
	return sendCtx, beforeDot, func() { stop(); cancel(nil) }
}

// notLive says that the node had lost its right to act.
type notLive struct{ error }

func (e *notLive) Unwrap() error { return e.error }

func (d *delivery) envelope(c *conn, group []int) *smtp.Envelope {
	j := d.job
	e := &smtp.Envelope{From: j.Sender, Size: j.Size, To: make([]smtp.Rcpt, len(group)), Dots: c.total > 0}
	e.Options.Ret, e.Options.EnvID, e.Options.RequireTLS = j.Ret, j.EnvID, j.RequireTLS
	// The final delivery of LMTP is at once; it needs no promise for later.
	if by := j.DeliverBy; by != nil && !c.hop.lmtp {
		e.Options.DeliverBy = &smtp.DeliverBy{Until: by.Until, Return: by.Return, Trace: by.Trace}
	}
	if j.Priority != 0 {
		priority := int(j.Priority)
		e.Options.Priority = &priority
	}
	for k, i := range group {
		r := &j.Recipients[i]
		e.To[k] = smtp.Rcpt{Address: r.Address, Options: smtp.RcptOptions{Notify: r.Notify, ORCPT: r.Original}}
	}
	_, eight := c.client.Has("8BITMIME")
	switch {
	case j.Binary:
		e.Options.Body = smtp.BodyBinaryMIME
	case j.EightBit && eight:
		// To a host without 8BITMIME the message goes as it is, as most relays
		// do it: hosts that really cut the eighth bit are gone, and a bounce
		// or a rewritten body would harm the mail for certain.
		e.Options.Body = smtp.Body8BitMIME
	}
	_, utf8 := c.client.Has("SMTPUTF8")
	// The message may have asked for SMTPUTF8 without a need.
	e.Options.UTF8 = j.UTF8 && (utf8 || !d.plainHeader())
	return e
}

// plainHeader reports whether the message's header is ASCII.
func (d *delivery) plainHeader() bool {
	if d.plain == 0 {
		d.plain = -1
		if d.readHeader() {
			d.plain = 1
		}
	}
	return d.plain > 0
}

func (d *delivery) readHeader() bool {
	body, err := d.job.Open()
	if err != nil {
		return false
	}
	defer body.Close()
	in := bufio.NewReader(io.LimitReader(body, 1<<20))
	for {
		line, err := in.ReadSlice('\n')
		for _, c := range line {
			if c >= 0x80 {
				return false
			}
		}
		if err != nil && err != bufio.ErrBufferFull {
			return err == io.EOF
		}
		if len(line) <= 2 && strings.Trim(string(line), "\r\n") == "" {
			return true
		}
	}
}

// take turns replies into verdicts. Recipients that another host, or another
// transaction, may still take stay open; then the fault says why.
func (d *delivery) take(ctx context.Context, c *conn, group []int, replies []*smtp.Reply, err error) (f *fault) {
	later := d.open[len(group):]
	progress := slices.ContainsFunc(replies, (*smtp.Reply).Positive)
	accepted := false
	var left []int
	for k, i := range group {
		r := replies[k]
		stage, took := c.client.Fate(k)
		switch {
		case r.Positive():
			d.set(i, d.verdict(c, r, queue.Delivered))
		case errors.Is(r, smtp.ErrMaybeSent):
			v := d.verdict(c, r, queue.Deferred)
			v.Reply = "4.4.2 no answer to the end of the message: it may have been delivered"
			d.set(i, v)
		case accepted && stage != smtp.StageEnd && progress && tooMany(r):
			left = append(left, i) // goes into the next transaction
		case errors.Is(r, smtp.ErrLacking):
			d.lacks(c, i, r)
		case !r.Temporary() && !d.doubtful(c, stage, r) &&
			!(stage == smtp.StageRcpt && (accepted && tooMany(r) || c.reused() && saysTooMany(r))):
			v := d.verdict(c, r, queue.Failed)
			v.ThisOne = stage == smtp.StageRcpt || stage == smtp.StageEnd && c.hop.lmtp
			d.set(i, v)
		case ctx.Err() != nil || isNotLive(r):
			f = &fault{outcome: queue.Deferred, untried: true, text: "4.3.2 broken off: this node may not act any more"}
			left = append(left, i)
		default:
			g := d.later(c, i, r, err)
			if stage != smtp.StageRcpt { // it concerns them all
				f = g
			}
			if g.next {
				left = append(left, i)
			} else {
				d.next = append(d.next, i)
			}
		}
		accepted = accepted || took
	}
	d.open = merge(left, later)
	if f == nil && err != nil && len(d.open)+len(d.next) > 0 {
		f = &fault{
			outcome: queue.Deferred, text: "4.4.2 the connection failed: " + plain(err), host: c.hop.String(), next: true,
		}
	}
	return f
}

// later notes why a recipient goes on to the next host.
func (d *delivery) later(c *conn, i int, r *smtp.Reply, err error) *fault {
	f := &fault{
		outcome: queue.Deferred, text: text(r), host: c.hop.String(), next: r.Cause != nil && err != nil || r.Code == 421,
	}
	d.a.greyed.note(c, f.text)
	if !f.next {
		if d.said == nil {
			d.said = make(map[int]*fault)
		}
		d.said[i] = f
	}
	return f
}

// lacks notes that a host cannot take what a recipient, or the message, needs,
// which is no word of the host's: another one may (RFC 5321 §5.1, RFC 6531 §3.2).
func (d *delivery) lacks(c *conn, i int, r *smtp.Reply) {
	d.lacked = true
	if d.said == nil {
		d.said = make(map[int]*fault)
	}
	if d.said[i] == nil {
		d.said[i] = &fault{outcome: queue.Failed, text: text(r), host: c.hop.String()}
	}
	d.next = append(d.next, i)
}

// doubtful: a no that a host gave in clear is not the last word where it offers
// TLS, or has done so within a day, and it did not come about; the next attempt tries
// TLS again. So it is where we use no TLS at all and just that is what the host minds.
func (d *delivery) doubtful(c *conn, s smtp.Stage, r *smtp.Reply) bool {
	_, has := c.client.Has("STARTTLS")
	switch {
	case s < smtp.StageMail || s > smtp.StageData || c.tls != "":
		return false
	case d.a.never(c.key):
		return has && r.Code == 530
	case !c.offers:
		return false
	}
	c.spent = true
	d.a.clear.remove(c.hop)
	return true
}

// tooMany: RFC 5321 §4.5.3.1.10, where 552 is to be taken for 452. An enhanced
// code may be missing, or say nothing of its own.
func tooMany(r *smtp.Reply) bool {
	if r.Code != 452 && r.Code != 552 {
		return false
	}
	_, detail, _ := strings.Cut(r.Enhanced, ".")
	return detail == "" || detail == "0.0" || detail == "5.0" || saysTooMany(r)
}

// saysTooMany: it can mean nothing else. Some hosts count the recipients of a connection, so that
// none is taken in the next transaction.
func saysTooMany(r *smtp.Reply) bool {
	_, detail, _ := strings.Cut(r.Enhanced, ".")
	return (r.Code == 452 || r.Code == 552) &&
		(detail == "5.3" || strings.Contains(strings.ToLower(r.Text), "too many recipients"))
}

func isNotLive(r *smtp.Reply) bool {
	_, ok := errors.AsType[*notLive](error(r))
	return ok
}

func (d *delivery) verdict(c *conn, r *smtp.Reply, o queue.Outcome) queue.Verdict {
	v := queue.Verdict{Outcome: o, Reply: text(r), Host: c.hop.String(), TLS: d.how(c), Final: c.hop.lmtp}
	_, v.Passed = c.client.Has("DSN")
	return v
}

// text is a reply as the queue keeps it: with its code where a host said it,
// without where it is our own word.
func text(r *smtp.Reply) string {
	s := r.Error()
	if r.Cause != nil && len(s) > 4 {
		return s[4:]
	}
	return s
}

// plain is an error for people.
func plain(err error) string {
	s := strings.TrimPrefix(err.Error(), "smtp: ")
	return printable.Text(s, len(s))
}
