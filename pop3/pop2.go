package pop3

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// POP2 is RFC 937: one letter or sign decides what a reply means, and anything
// that is wrong ends the session. It has no TLS and no stuffing; only trusted
// peers are let in. It works on the same maildrops as POP3.

// maxPOP2 is the longest command.
const maxPOP2 = 512

// pop2State is where a POP2 session is.
type pop2State uint8

const (
	pop2Auth pop2State = iota
	pop2Mbox
	pop2Item
	pop2Next
)

// pop2 is a POP2 session.
type pop2 struct {
	*conn
	at      pop2State
	current int  // message number, from 1
	inbox   bool // the folder that is open; any other is empty
}

// ServePOP2 is Serve for POP2 clients.
func (s *Server) ServePOP2(ctx context.Context, ln net.Listener) error {
	return s.serve(ctx, ln, func(c *conn) { (&pop2{conn: c, current: 1}).run() })
}

func (p *pop2) run() {
	c := p.conn
	if !c.peer.Trusted {
		c.refused(Refusal{Stage: "connect", Reason: ReasonStranger})
		p.fail("not for strangers")
		return
	}
	c.say(append(c.line(), "+ POP2 "+c.srv.cfg.Hostname+" server ready"...))
	for !c.closing && c.outErr == nil && !c.isCut() {
		line, err := c.readLine(maxPOP2)
		switch {
		case err == errTooLong:
			p.fail("command line too long")
		case err != nil:
			p.hangUp(err)
			return
		default:
			p.dispatch(string(line))
		}
	}
	p.hangUp(nil)
}

// hangUp ends the session. A client that is still there to read it is told why: a
// session that timed out or was cut ends in an error like any other.
func (p *pop2) hangUp(err error) {
	c := p.conn
	silent := c.partial // inside a message only the end of the connection can be seen
	c.partial = true    // and nothing more is to be said in terms of POP3
	if err != nil {
		c.hangUp(err)
	}
	switch {
	case c.isCut():
		p.cutWords(silent)
	case errors.Is(err, os.ErrDeadlineExceeded):
		p.fail("silent for too long, nothing was deleted")
	default:
		_ = c.flush()
	}
}

// cutWords is farewell in the terms of POP2.
func (p *pop2) cutWords(silent bool) {
	c := p.conn
	c.mu.Lock()
	why := *c.dead
	c.mu.Unlock()
	if silent || c.outErr != nil {
		return
	}
	if why.words == "" {
		why.words = texts[why.text][english]
	}
	if !c.closing { // else the last words are said, but perhaps not sent
		c.say(append(p.line(), "- "+oneLine(why.words)...))
	}
	_ = c.raw.SetWriteDeadline(time.Now().Add(lastWords))
	_, _ = c.nc.Write(c.out)
	c.out = c.out[:0]
}

// fail says why and ends the session; nothing is deleted.
func (p *pop2) fail(words string) {
	p.say(append(p.line(), "- "+words...))
	p.closing = true
	if !p.isCut() {
		_ = p.flush()
	}
}

func (p *pop2) dispatch(line string) {
	word, arg, _ := strings.Cut(line, " ")
	args, ok := pop2Words(arg)
	word = strings.ToUpper(word)
	in := func(states ...pop2State) bool {
		for _, s := range states {
			if p.at == s {
				return true
			}
		}
		return false
	}
	switch {
	case !ok:
		p.fail("bad quoting")
	case word == "HELO" && len(args) == 2 && in(pop2Auth):
		p.helo(args[0], args[1])
	case word == "FOLD" && len(args) == 1 && in(pop2Mbox, pop2Item):
		p.fold(args[0])
	case word == "READ" && len(args) <= 1 && in(pop2Mbox, pop2Item):
		p.read(args)
	case word == "RETR" && len(args) == 0 && in(pop2Item):
		p.retr()
	case (word == "ACKS" || word == "ACKD" || word == "NACK") && len(args) == 0 && in(pop2Next):
		p.acknowledge(word)
	case word == "QUIT" && len(args) == 0 && !in(pop2Next):
		p.quit()
	default:
		p.fail("not understood, or not now")
	}
}

// pop2Words splits an argument at its spaces. A backslash makes the next
// character part of a word.
func pop2Words(s string) (words []string, ok bool) {
	var word strings.Builder
	inWord := false
	for i := 0; i < len(s); i++ {
		switch b := s[i]; {
		case b == '\\' && i+1 == len(s):
			return nil, false
		case b == '\\':
			i++
			word.WriteByte(s[i])
			inWord = true
		case b != ' ':
			word.WriteByte(b)
			inWord = true
		case inWord:
			words = append(words, word.String())
			word.Reset()
			inWord = false
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, true
}

func (p *pop2) helo(user, secret string) {
	c := p.conn
	c.peer.Mechanism = "POP2"
	drop, err := c.admit(user, func(ctx context.Context) (Maildrop, error) {
		return c.srv.cfg.Backend.Login(ctx, &c.peer, user, secret)
	})
	if err != nil {
		c.log("login failed", "name", user, "mechanism", "POP2", "error", err)
		c.refused(Refusal{Stage: "login", Reason: reasonOf(err), User: user, Cause: err})
		p.refuse(err)
		return
	}
	c.enterMaildrop(user, drop)
	c.srv.stats.Logins.Add(1)
	c.log("login", "mechanism", "POP2", "messages", c.left, "octets", c.leftSize)
	p.open(true)
}

// refuse ends a session whose login failed.
func (p *pop2) refuse(err error) {
	var busy *InUseError
	stats := &p.srv.stats
	switch {
	case errors.As(err, &busy):
		stats.InUse.Add(1)
		p.fail("maildrop is in use")
	case badCredentials(err):
		stats.LoginFailures.Add(1)
		p.fail("login refused")
	case errors.Is(err, ErrLoginDelay):
		p.fail("logged in too recently")
	default:
		stats.Temporary.Add(1)
		p.fail("temporary failure, try again later")
	}
}

// open makes a folder the current one. There is one: the inbox.
func (p *pop2) open(inbox bool) {
	p.inbox, p.current, p.at = inbox, 1, pop2Mbox
	p.number('#', int64(p.count()))
}

func (p *pop2) count() int {
	if !p.inbox {
		return 0
	}
	return p.msgs.Len()
}

func (p *pop2) number(mark byte, n int64) {
	p.say(strconv.AppendInt(append(p.line(), mark), n, 10))
}

// fold commits what was marked in the folder that is left.
func (p *pop2) fold(name string) {
	if !p.release(false) {
		return
	}
	p.open(strings.EqualFold(name, "INBOX") || strings.EqualFold(name, "NEWMAIL"))
}

// release commits the marks. Its deletions are those of DELI, so that numbers
// begin anew only with the next list.
func (p *pop2) release(ending bool) bool {
	c, s := p.conn, p.session
	if ending {
		c.unwatch()
	}
	list := s.deletions()
	if !ending && len(list) == 0 {
		return true
	}
	if err := c.commit(list, ending || len(list) > 0); err != nil {
		if errors.Is(err, ErrUncertain) {
			p.fail("it is not known whether the deletions were saved")
		} else {
			p.fail("deletions could not be saved")
		}
		return false
	}
	if ending {
		return true
	}
	return p.reopen()
}

// reopen takes a fresh list after a commit that released the lock.
func (p *pop2) reopen() bool {
	c, old := p.conn, p.session
	c.unwatch()
	ctx, cancel := c.loginTime()
	drop, err := old.drop.Wake(ctx)
	cancel()
	if err != nil {
		p.fail("maildrop could not be opened again")
		return false
	}
	c.unlocked()
	c.enterMaildrop(old.user, drop)
	return true
}

// size is that of the current message as RETR sends it; 0: there is none.
func (p *pop2) size() int64 {
	i := p.current - 1
	if i < 0 || i >= p.count() || p.marked.has(i) {
		return 0
	}
	return p.msgs.Size(i)
}

func (p *pop2) item() {
	p.at = pop2Item
	p.number('=', p.size())
}

func (p *pop2) read(args []string) {
	if len(args) == 1 {
		n, ok := parseNumber([]byte(args[0]))
		if !ok {
			p.fail("not a number")
			return
		}
		p.current = n
	}
	p.item()
}

// retr sends the message and nothing else: no status, no stuffing, no end.
func (p *pop2) retr() {
	c, size := p.conn, p.size()
	if size == 0 {
		c.closing = true
		return
	}
	body, err := c.drop.Open(c.ctx, p.current-1)
	if err != nil {
		c.log("opening a message failed", "message", p.current, "error", err)
		c.closing = true
		return
	}
	defer body.Close()
	c.partial = true
	w := exactly{c: c, left: size}
	if err := w.copyFrom(body); err != nil || w.left != 0 {
		c.log("reading a message failed", "message", p.current, "error", err, "missing", w.left)
		c.closing = true
		_ = c.flush()
		return
	}
	c.partial = false
	c.srv.stats.Retrieved.Add(1)
	c.srv.stats.Octets.Add(uint64(size))
	p.at = pop2Next
}

func (p *pop2) acknowledge(word string) {
	if word == "ACKD" && !p.readOnly {
		p.marked.set(p.current-1, p.msgs.Len())
		p.nMarked++
	}
	if word != "NACK" {
		p.current++
	}
	p.item()
}

func (p *pop2) quit() {
	if p.session != nil && !p.release(true) {
		return
	}
	p.closing = true
	p.say(append(p.line(), "+ bye"...))
}

// exactly passes on a given number of octets and no more: the client has been
// told that number and counts.
type exactly struct {
	c    *conn
	left int64
}

// Write takes the next octets.
func (e *exactly) Write(p []byte) (int, error) {
	if int64(len(p)) > e.left {
		return 0, errShort{errLonger}
	}
	e.left -= int64(len(p))
	return len(p), e.c.put(p)
}

func (e *exactly) copyFrom(r io.Reader) error {
	if w, ok := r.(io.WriterTo); ok {
		_, err := w.WriteTo(e)
		return err
	}
	b := e.c.srv.block()
	defer e.c.srv.blocks.Put(b)
	_, err := io.CopyBuffer(e, struct{ io.Reader }{r}, b[:])
	return err
}

var errLonger = errors.New("pop3: the message is longer than was told")
