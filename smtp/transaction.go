package smtp

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"relay/smtp/mailaddr"
)

func (c *conn) mail(arg []byte) {
	growStack(false)
	c.mailFrom(arg, "FROM:")
}

func (c *conn) mailLegacy(arg []byte) { c.mailFrom(arg, "") }

func (c *conn) mailFrom(arg []byte, keyword string) {
	addr, rest, _, err := c.path(arg, keyword)
	if err != nil {
		c.noteSender(unreadable(arg))
		c.failSyntax(err, "5.1.7")
		return
	}
	c.noteSender(addr)
	now := c.cfg.Now()
	opts, err := parseMailParams(rest, c.srv.params, c.offered(), now)
	switch {
	case err != nil:
	case !opts.UTF8 && !mailaddr.IsASCII(addr):
		err = mailaddr.ErrNeedUTF8
	case !opts.UTF8 && !mailaddr.IsASCII(string(rest)):
		err = syntaxf("A parameter of MAIL in UTF-8 needs SMTPUTF8")
	default:
		err = c.checkTimes(opts, now)
	}
	if err != nil {
		c.failSyntax(err, "5.5.4")
		return
	}
	if addr, err = c.qualify(addr, false); err != nil {
		c.failSyntax(err, "5.1.7")
		return
	}
	if !c.mayMail(opts) {
		return
	}
	if opts.Auth != "" && !c.inner() {
		opts.Auth = "<>" // RFC 4954 section 5
	}
	c.peer.UTF8 = opts.UTF8
	ctx, cancel := c.call()
	defer cancel()
	c.state = stateMail // so that Reset follows in any case
	if err := c.sess.Mail(ctx, addr, opts); err != nil {
		c.say(err, "mail")
		c.reset()
		return
	}
	c.body = opts.Body
	c.put("250 2.1.0 Ok\r\n")
}

// mayMail answers for the limits.
func (c *conn) mayMail(opts *MailOptions) bool {
	switch {
	case opts.Size > c.cfg.MaxSize:
		c.fail(552, "5.3.4", "Message too large")
	case c.cfg.MaxTransactions > 0 && c.count >= c.cfg.MaxTransactions:
		c.say(&Reply{
			Code: 452, Enhanced: "4.5.3", Text: "Too many messages on one connection, use another", Reason: ReasonMessages,
		}, "mail")
	default:
		if r := c.excess(countMessages, 1, "Too much mail"); r != nil {
			c.say(r, "mail")
			return false
		}
		if r := c.excess(countBytes, 0, "Too much mail"); r != nil {
			c.say(r, "mail")
			return false
		}
		c.count++
		return true
	}
	return false
}

// excess counts, and returns the refusal where that is more than may be.
func (c *conn) excess(q quantity, n int64, what string) *Reply {
	if c.peer.Trusted {
		return nil
	}
	switch c.srv.meters.add(c.peer.Remote.Addr(), q, n) {
	case overNet:
		return &Reply{Code: 450, Enhanced: "4.7.1", Text: what + " from your network, try again later", Reason: ReasonRate}
	case overAll:
		return &Reply{
			Code: 450, Enhanced: "4.3.2", Text: what + " from everybody at the moment, try again later", Reason: ReasonRate,
		}
	}
	return nil
}

// checkTimes holds what the parameters ask for against what was announced.
func (c *conn) checkTimes(o *MailOptions, now time.Time) error {
	if o.HoldUntil.After(now.Add(c.cfg.MaxHold)) {
		return syntaxf("cannot hold a message for so long")
	}
	if by := o.DeliverBy; by != nil && by.Return && by.Until.Before(now.Add(c.cfg.MinDeliverBy)) {
		return syntaxf("cannot promise delivery so soon")
	}
	return nil
}

func (c *conn) rcpt(arg []byte) {
	c.rcptTo(arg, "TO:")
}

func (c *conn) rcptLegacy(arg []byte) { c.rcptTo(arg, "") }

func (c *conn) rcptTo(arg []byte, keyword string) {
	addr, rest, routed, err := c.path(arg, keyword)
	if err == nil && addr == "" {
		err = mailaddr.ErrSyntax
	}
	if err == nil && !c.peer.UTF8 && !mailaddr.IsASCII(addr) {
		err = mailaddr.ErrNeedUTF8
	}
	if err == nil {
		addr, err = c.qualify(addr, true)
	}
	if err != nil {
		c.spurned++
		c.failSyntaxFor(cmp.Or(addr, unreadable(arg)), err, "5.1.3")
		return
	}
	opts, err := parseRcptParams(rest, c.offered())
	if err != nil {
		c.spurned++
		c.failSyntaxFor(addr, err, "5.5.4")
		return
	}
	opts.Routed = routed
	if err := c.addRcpt(addr, opts); err != nil {
		c.spurned++
		c.srv.stats.RecipientsRefused.Add(1)
		if r := c.sayFor(addr, err, "rcpt"); r.Enhanced == "5.1.1" && !c.inner() {
			c.pause(c.srv.meters.unknownRecipient(c.peer.Remote.Addr()))
		}
		return
	}
	c.state = stateRcpt
	c.rcpts++
	c.noteRecipient(addr)
	c.srv.stats.Recipients.Add(1)
	c.put("250 2.1.5 Ok\r\n")
}

func (c *conn) addRcpt(addr string, opts *RcptOptions) error {
	if c.rcpts >= c.cfg.MaxRecipients {
		return &Reply{Code: 452, Enhanced: "4.5.3", Text: "Too many recipients", Reason: ReasonRecipients}
	}
	if r := c.excess(countRecipients, 1, "Too many recipients"); r != nil {
		return r
	}
	ctx, cancel := c.call()
	defer cancel()
	return c.sess.Rcpt(ctx, addr, opts)
}

// path reads the address of MAIL and RCPT and returns the parameters behind it.
func (c *conn) path(arg []byte, keyword string) (addr string, rest []byte, routed bool, err error) {
	lenient := c.cfg.LenientSyntax
	if len(arg) >= len(keyword) && strings.EqualFold(string(arg[:len(keyword)]), keyword) {
		arg = bytes.TrimLeft(arg[len(keyword):], " ")
	} else if !lenient {
		return "", nil, false, syntaxf("expected %s<address>", keyword)
	}
	if len(arg) > 0 && arg[0] == '<' {
		addr, rest, routed, err = mailaddr.ReadPath(arg)
	} else if lenient || c.peer.Trusted {
		addr, rest, err = mailaddr.ReadMailbox(arg)
	} else {
		err = syntaxf("the address must stand in <>")
	}
	if err == nil && len(rest) > 0 && rest[0] != ' ' {
		err = mailaddr.ErrSyntax
	}
	return addr, rest, routed, err
}

// qualify adds the default domain to a bare local part where that is allowed.
func (c *conn) qualify(addr string, rcpt bool) (string, error) {
	if addr == "" {
		return "", nil
	}
	if _, domain := mailaddr.Split(addr); domain != "" {
		return addr, nil
	}
	// RFC 5321 section 4.5.1: <postmaster> must always do.
	if !c.inner() && (!rcpt || !strings.EqualFold(addr, "postmaster")) {
		return "", mailaddr.ErrNoDomain
	}
	if c.cfg.DefaultDomain != nil {
		if domain := c.cfg.DefaultDomain(); domain != "" {
			return addr + "@" + domain, nil
		}
	}
	return addr, nil
}

// failSyntax answers for an argument that cannot be.
func (c *conn) failSyntax(err error, enhanced string) { c.failSyntaxFor("", err, enhanced) }

func (c *conn) failSyntaxFor(recipient string, err error, enhanced string) {
	switch {
	case errors.Is(err, errUnknownParam):
		c.failFor(recipient, 555, "5.5.4", "Parameter not known or not offered")
	case errors.Is(err, mailaddr.ErrNeedUTF8):
		c.failFor(recipient, 553, "5.6.7", "An address that is not ASCII needs SMTPUTF8")
	default:
		text := err.Error()
		c.failFor(recipient, 501, enhanced, strings.ToUpper(text[:1])+text[1:])
	}
}

func (c *conn) dataVerb(arg []byte) {
	switch {
	case len(arg) > 0:
		c.fail(501, "5.5.4", "DATA takes no argument")
		return
	case c.state == stateMail && c.spurned > 0:
		c.fail(554, "5.5.1", "No valid recipients")
		return
	case c.state == stateMail:
		c.fail(503, "5.5.1", "Say RCPT first")
		return
	case c.body == BodyBinaryMIME:
		c.fail(503, "5.5.1", "BINARYMIME needs BDAT") // RFC 3030 section 3
		return
	}
	if !c.inner() && c.srv.meters.holds.full(c.peer.Remote.Addr()) {
		c.say(replyTooMany, "Data")
		c.reset()
		return
	}
	c.put("354 End data with <CR><LF>.<CR><LF>\r\n")
	c.data.begin(messageDots)
	c.awaitText()
	c.take()
}

// bdat: RFC 3030. The octets of a chunk are read in any case: they are no
// commands.
func (c *conn) bdat(arg []byte) {
	size, last, ok := chunkSize(arg)
	if !ok {
		// Nobody knows where the chunk ends.
		c.fail(501, "5.5.4", "Expected BDAT size [LAST], closing connection")
		c.quit = true
		return
	}
	m := &c.data
	if c.state == stateChunks { // nextChunk waits for it
		m.chunk, m.last = size, last
		return
	}
	m.begin(messageBinary)
	m.chunk, m.last = size, last
	switch {
	case c.cfg.RequireAuth && c.peer.User == "":
		if c.skipChunk() {
			c.fail(530, "5.7.0", "Authentication required")
		}
		return
	case c.state != stateRcpt:
		if c.skipChunk() {
			c.fail(503, "5.5.1", "No message to add the chunk to")
		}
		return
	case c.body != BodyBinaryMIME:
		m.kind, m.dot.raw = messageChunks, true
	}
	c.state = stateChunks
	c.take()
}

func (c *conn) skipChunk() bool {
	if c.data.drain() {
		return true
	}
	c.hangUp(c.data.lost)
	if c.data.lost == nil {
		c.fail(552, "5.3.4", "Chunk too large, closing connection")
	}
	c.quit = true
	return false
}

func chunkSize(arg []byte) (size int64, last, ok bool) {
	first, second, two := bytes.Cut(arg, []byte(" "))
	size, ok = digits(string(first), 20)
	if two {
		last = strings.EqualFold(string(bytes.TrimLeft(second, " ")), "LAST")
		ok = ok && last
	}
	return size, last, ok
}

// nextChunk answers for a chunk and reads commands up to the next one. Any
// command that ends the series is left in held. It runs inside Session.Data.
func (c *conn) nextChunk() error {
	c.put("250 2.0.0 Chunk received\r\n")
	for {
		line, err := c.command()
		if err != nil {
			return err
		}
		if c.quit {
			return errBrokenOff
		}
		if line == nil {
			continue
		}
		v, _ := c.srv.lookup(line)
		if v != nil && endsChunks(v.name) {
			c.held = line
			return errBrokenOff
		}
		c.dispatch(line)
		switch {
		case c.quit:
			return errBrokenOff
		case v != nil && v.name == "BDAT":
			return nil
		}
	}
}

func endsChunks(name string) bool {
	switch name {
	case "RSET", "QUIT", "EHLO", "HELO":
		return true
	}
	return false
}

// take hands the message to the Session and answers for it.
func (c *conn) take() {
	m := &c.data
	ctx, cancel := context.WithCancelCause(c.ctx)
	m.clock = time.AfterFunc(time.Until(m.until)+c.cfg.CallTimeout, func() { cancel(context.DeadlineExceeded) })
	id, err := c.sess.Data(ctx, m)
	m.clock.Stop()
	m.clock = nil
	if err != nil && errors.Is(err, ctx.Err()) {
		err = context.Cause(ctx)
	}
	cancel(nil)
	whole := m.drain()
	m.span = nil
	switch {
	case m.dot.broken:
		c.fail(550, "5.6.0", "A CR in a session of LF lines, closing connection")
		c.quit = true
	case m.lost != nil && errors.Is(m.lost, errBrokenOff):
		// held, or the reason to quit, has been seen to
	case m.lost != nil:
		c.hangUp(m.lost)
	case m.refusal != nil:
		c.srv.stats.MessagesRefused.Add(1)
		c.say(m.refusal, "data")
	case err != nil:
		c.refuse(err)
	case !m.ended || m.dropped > 0:
		c.refuse(io.ErrShortWrite) // the backend said yes to half a message
	default:
		c.accepted(id)
	}
	c.quit = c.quit || !whole && m.lost == nil
	c.reset()
}

func (c *conn) refuse(err error) {
	if c.say(err, "data").Temporary() {
		c.srv.stats.MessagesDeferred.Add(1)
	} else {
		c.srv.stats.MessagesRefused.Add(1)
	}
}

func (c *conn) accepted(id string) {
	c.errors, c.idles = 0, 0 // who hands in mail is no vandal
	c.taken++
	c.srv.stats.Messages.Add(1)
	c.srv.stats.Bytes.Add(c.data.size)
	if !c.peer.Trusted {
		c.srv.meters.add(c.peer.Remote.Addr(), countBytes, c.data.size)
	}
	c.out = append(c.out, "250 2.0.0 Ok: queued as "...)
	c.out = append(c.out, id...)
	c.out = append(c.out, '\r', '\n')
	c.owe()
}
