package smtp

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"relay/smtp/mailaddr"
	"relay/smtp/printable"
)

// verb is one command of the protocol.
type verb struct {
	name   string
	states state // where it is allowed; elsewhere 503
	open   bool  // allowed before AUTH where that is required
	run    func(c *conn, arg []byte)
	help   string
	named  string // its name in lower case
}

// stage names the command in refusals.
func (v *verb) stage() string {
	if v == nil {
		return ""
	}
	return v.named
}

// verbTable holds every command. It is made once a server.
func verbTable(cfg *ServerConfig) map[string]*verb {
	const mailOrRcpt = stateMail | stateRcpt
	list := []verb{
		{"HELO", anyState, true, (*conn).helo, "HELO host: says who you are", ""},
		{"EHLO", anyState, true, (*conn).ehlo, "EHLO host: says who you are, lists extensions", ""},
		{"MAIL", stateReady, false, (*conn).mail, "MAIL FROM:<sender> [parameters]: begins a message", ""},
		{"RCPT", mailOrRcpt, false, (*conn).rcpt, "RCPT TO:<recipient> [parameters]: adds a recipient", ""},
		{"DATA", mailOrRcpt, false, (*conn).dataVerb, "DATA: the message follows, up to a line with a single dot", ""},
		{"RSET", anyState, true, (*conn).rset, "RSET: forgets the message begun", ""},
		{"NOOP", anyState | stateChunks, true, (*conn).noop, "NOOP: does nothing", ""},
		{"QUIT", anyState, true, (*conn).quitVerb, "QUIT: ends the session", ""},
		{"HELP", anyState | stateChunks, true, (*conn).helpVerb, "HELP [topic]: explains", ""},
		{"VRFY", anyState, false, (*conn).vrfy, "VRFY name: tells the address of a user, where switched on", ""},
		{"EXPN", anyState, false, (*conn).expn, "EXPN list: tells the members of a list, where switched on", ""},
		{"ETRN", stateReady, false, (*conn).etrn, "ETRN domain: sends what waits for the domain now", ""},
		{"AUTH", stateReady, true, (*conn).auth, "AUTH mechanism [response]: logs in", ""},
		{"SEND", anyState, false, (*conn).obsolete, "", ""},
		{"SOML", anyState, false, (*conn).obsolete, "", ""},
		{"SAML", anyState, false, (*conn).obsolete, "", ""},
		{"TURN", anyState, false, (*conn).obsolete, "", ""},
	}
	if cfg.Without&ExtChunking == 0 {
		list = append(list, verb{
			"BDAT", anyState | stateChunks, true, (*conn).bdat, "BDAT size [LAST]: that many octets of the message follow", "",
		})
	}
	if cfg.TLS != nil {
		list = append(list, verb{"STARTTLS", anyState, true, (*conn).startTLS, "STARTTLS: goes on encrypted", ""})
	}
	if cfg.XClient != nil {
		list = append(list, verb{
			"XCLIENT", stateNew | stateReady, true, (*conn).xclient,
			"XCLIENT attribute=value ...: speaks for another client", "",
		})
	}
	if cfg.LegacyVerbs {
		list = append(list,
			verb{"MAIL_FROM:", stateReady, false, (*conn).mailLegacy, "", ""},
			verb{"RCPT_TO:", mailOrRcpt, false, (*conn).rcptLegacy, "", ""},
			verb{"AUTHLOGIN", stateNew | stateReady, true, (*conn).authLegacy, "", ""})
	}
	table := make(map[string]*verb, len(list))
	for i := range list {
		list[i].named = strings.ToLower(list[i].name)
		table[list[i].name] = &list[i]
	}
	return table
}

// lookup finds the verb of a line, in any case, and its argument without blanks
// around it.
func (s *Server) lookup(line []byte) (*verb, []byte) {
	line = bytes.TrimRight(line, " ")
	name, arg, _ := bytes.Cut(line, []byte(" "))
	if s.cfg.LegacyVerbs && len(name) > 8 {
		// MAIL_FROM:<a@b> has no blank
		if i := bytes.IndexByte(name, ':'); i >= 0 {
			name, arg = line[:i+1], line[i+1:]
		}
	}
	var upper [16]byte
	if len(name) > len(upper) {
		return nil, nil
	}
	for i, c := range name {
		if c >= 'a' && c <= 'z' {
			c -= 'a' - 'A'
		}
		upper[i] = c
	}
	return s.verbs[string(upper[:len(name)])], bytes.TrimLeft(arg, " ")
}

// dispatch runs one command line.
func (c *conn) dispatch(line []byte) {
	v, arg := c.srv.lookup(line)
	c.verb = v.stage()
	if c.state&inTransaction == 0 && c.hasFrom {
		c.forgetTransaction()
	}
	switch {
	case v == nil:
		c.fail(500, "5.5.1", "Unknown command")
	case hasControl(arg):
		c.fail(501, "5.5.4", "No control characters, please")
		if v.name == "BDAT" {
			c.quit = true
		}
	case c.cfg.RequireAuth && c.peer.User == "" && !v.open:
		c.fail(530, "5.7.0", "Authentication required")
	case v.states&c.state == 0:
		c.fail(503, "5.5.1", c.outOfOrder(v))
	case idles(v.name) && c.idled():
		c.srv.stats.Flooded.Add(1)
		c.last(&Reply{
			Code: 421, Enhanced: "4.7.0", Text: "Too many commands without a message, closing connection", Reason: ReasonIdle,
		})
	default:
		c.endsFlight(v)
		v.run(c, arg)
	}
}

// idles reports whether a command brings no mail forward.
func idles(name string) bool {
	switch name {
	case "NOOP", "RSET", "HELP", "VRFY", "EXPN", "ETRN", "HELO", "EHLO":
		return true
	}
	return false
}

// idled counts such a command, and reports whether a stranger has said too many.
func (c *conn) idled() bool {
	c.idles++
	return c.idles > c.cfg.MaxIdle && !c.inner()
}

// hasControl finds what must not get into logs and histories. Octets that are
// not UTF-8 are not judged here.
func hasControl(b []byte) bool {
	return bytes.ContainsFunc(b, func(r rune) bool { return !printable.Rune(r) })
}

func (c *conn) outOfOrder(v *verb) string {
	switch {
	case c.state == stateNew:
		return "Say HELO or EHLO first"
	case c.state&inTransaction != 0:
		return "Not while a message is under way"
	case v.name == "RCPT" || v.name == "DATA" || v.name == "RCPT_TO:":
		return "Say MAIL first"
	}
	return "Bad sequence of commands"
}

// call gives a Session's call its time.
func (c *conn) call() (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.ctx, c.cfg.CallTimeout)
}

// reset ends the transaction, if there is one.
func (c *conn) reset() {
	if c.state&inTransaction != 0 {
		c.state = stateReady
		c.sess.Reset()
	}
	c.rcpts, c.spurned = 0, 0
	c.forgetTransaction()
	c.peer.UTF8 = false
}

func (c *conn) helo(arg []byte) {
	if !c.introduce(arg, false) {
		return
	}
	c.put("250 ")
	c.put(c.cfg.Hostname)
	c.put("\r\n")
}

// introduce takes the argument of HELO and EHLO, which proves nothing.
func (c *conn) introduce(arg []byte, esmtp bool) bool {
	if len(arg) > mailaddr.MaxDomain {
		c.fail(501, "5.5.4", "Host name too long")
		return false
	}
	if esmtp && len(arg) == 0 {
		c.fail(501, "5.5.4", "EHLO needs your host name")
		return false
	}
	c.reset()
	c.state = stateReady
	c.peer.Helo, c.peer.ESMTP = cleanHelo(string(arg)), esmtp
	if c.over.helo != "" {
		c.peer.Helo = c.over.helo
	}
	return true
}

func (c *conn) ehlo(arg []byte) {
	if !c.introduce(arg, true) {
		return
	}
	lines := c.capabilities()
	c.put("250-")
	c.put(c.cfg.Hostname)
	for _, line := range lines {
		c.put("\r\n250-")
		c.put(line)
	}
	last := len(c.out) - len(lines[len(lines)-1]) - 1
	c.out[last] = ' '
	c.put("\r\n")
}

// offered are the extensions that hold for this client now.
func (c *conn) offered() Extension {
	ext := ^c.cfg.Without
	if c.peer.TLS == nil {
		ext &^= ExtRequireTLS
	}
	return ext
}

// capabilities lists what EHLO announces. HELP comes last, always.
func (c *conn) capabilities() []string {
	ext := c.offered()
	var list []string
	add := func(on bool, line string) {
		if on {
			list = append(list, line)
		}
	}
	_, etrn := c.sess.(Starter)
	mechanisms := c.mechanisms()
	add(ext&ExtPipelining != 0, "PIPELINING")
	add(ext&ExtSize != 0, "SIZE "+strconv.FormatInt(c.cfg.MaxSize, 10))
	add(ext&Ext8BitMIME != 0, "8BITMIME")
	add(ext&ExtSMTPUTF8 != 0, "SMTPUTF8")
	add(ext&ExtChunking != 0, "CHUNKING")
	add(ext&ExtBinaryMIME != 0, "BINARYMIME")
	add(ext&ExtDSN != 0, "DSN")
	add(true, "ENHANCEDSTATUSCODES")
	add(c.cfg.TLS != nil && c.peer.TLS == nil, "STARTTLS")
	add(len(mechanisms) > 0, "AUTH "+strings.Join(mechanisms, " "))
	add(ext&ExtRequireTLS != 0, "REQUIRETLS")
	add(ext&ExtDeliverBy != 0, c.deliverBy())
	add(ext&ExtFutureRelease != 0, c.futureRelease())
	add(ext&ExtMTPriority != 0, "MT-PRIORITY")
	add(ext&ExtLimits != 0, c.limits())
	add(c.mayXClient(), "XCLIENT "+xclientAttributes)
	add(c.verifier() != nil, "VRFY")
	add(c.expander() != nil, "EXPN")
	add(etrn, "ETRN")
	add(true, "HELP")
	return list
}

func (c *conn) deliverBy() string {
	if c.cfg.MinDeliverBy <= 0 {
		return "DELIVERBY"
	}
	return "DELIVERBY " + strconv.FormatInt(int64(c.cfg.MinDeliverBy/time.Second), 10)
}

// futureRelease: RFC 4865 section 4 wants the interval and the latest date.
func (c *conn) futureRelease() string {
	latest := c.cfg.Now().Add(c.cfg.MaxHold).UTC().Format(time.RFC3339)
	return "FUTURERELEASE " + strconv.FormatInt(int64(c.cfg.MaxHold/time.Second), 10) + " " + latest
}

// limits: RFC 9422.
func (c *conn) limits() string {
	line := "LIMITS RCPTMAX=" + strconv.Itoa(c.cfg.MaxRecipients)
	if c.cfg.MaxTransactions > 0 {
		line += " MAILMAX=" + strconv.Itoa(c.cfg.MaxTransactions)
	}
	return line
}

func (c *conn) rset(arg []byte) {
	if len(arg) > 0 {
		c.fail(501, "5.5.4", "RSET takes no argument")
		return
	}
	c.reset()
	c.put("250 2.0.0 Ok\r\n")
}

func (c *conn) noop([]byte) { c.put("250 2.0.0 Ok\r\n") }

func (c *conn) quitVerb(arg []byte) {
	if len(arg) > 0 {
		c.fail(501, "5.5.4", "QUIT takes no argument")
		return
	}
	c.put("221 2.0.0 Bye\r\n")
	c.quit, c.told = true, true
}

func (c *conn) obsolete([]byte) { c.fail(502, "5.5.1", "Command not implemented") }

func (c *conn) helpVerb(arg []byte) {
	if len(arg) > 0 {
		v, _ := c.srv.lookup(arg)
		if v == nil || v.help == "" {
			c.fail(504, "5.5.4", "No help on that topic")
			return
		}
		c.answer(214, "2.0.0", v.help)
		return
	}
	var names []string
	for name, v := range c.srv.verbs {
		if v.help != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	c.answer(214, "2.0.0", "Commands: "+strings.Join(names, " ")+"\nHELP and a command explains it")
}

// inner reports whether the peer may ask what strangers may not.
func (c *conn) inner() bool { return c.peer.Trusted || c.peer.User != "" }

func (c *conn) verifier() Verifier {
	v, ok := c.sess.(Verifier)
	if !ok || !c.cfg.Verify || !c.inner() {
		return nil
	}
	return v
}

func (c *conn) expander() Expander {
	e, ok := c.sess.(Expander)
	if !ok || !c.cfg.Expand || !c.inner() {
		return nil
	}
	return e
}

// query strips what VRFY and EXPN may have besides their argument. utf8 says that
// the answer may hold UTF-8 (RFC 6531 section 3.7.4).
func query(arg []byte) (what string, utf8 bool) {
	const param = " SMTPUTF8"
	s := string(arg)
	// Nothing of s but what has the parameter's length is put into another case:
	// that changes the length of some letters.
	if cut := len(s) - len(param); cut >= 0 && strings.EqualFold(s[cut:], param) && mailaddr.IsASCII(s[cut:]) {
		s, utf8 = strings.TrimRight(s[:cut], " "), true
	}
	if len(s) >= 2 && s[0] == '<' && s[len(s)-1] == '>' {
		s = s[1 : len(s)-1]
	}
	return s, utf8
}

func (c *conn) vrfy(arg []byte) {
	what, utf8 := query(arg)
	v := c.verifier()
	switch {
	case what == "":
		c.fail(501, "5.5.4", "VRFY needs a name")
		return
	case v == nil:
		c.put("252 2.1.5 Cannot VRFY, but will take a message and try\r\n")
		return
	}
	ctx, cancel := c.call()
	defer cancel()
	m, err := v.Verify(ctx, what)
	if err != nil {
		c.say(err, "vrfy")
		return
	}
	c.tell(utf8, m)
}

// tell answers VRFY and EXPN, unless an address is not ASCII and the client did
// not say that it takes that (RFC 6531 section 3.7.4.2). A name is worth less:
// it gets its marks.
func (c *conn) tell(utf8 bool, members ...Member) {
	lines := make([]string, len(members))
	for i, m := range members {
		if !utf8 && !mailaddr.IsASCII(m.Address) {
			c.answer(252, "2.6.8", "The address is not ASCII, ask with SMTPUTF8")
			return
		}
		lines[i] = m.String()
	}
	c.out = appendReply(c.out, &Reply{Code: 250, Enhanced: "2.1.5", Text: strings.Join(lines, "\n")}, utf8)
}

// String returns the member as VRFY and EXPN show it.
func (m Member) String() string {
	if m.Name == "" {
		return "<" + m.Address + ">"
	}
	return m.Name + " <" + m.Address + ">"
}

func (c *conn) expn(arg []byte) {
	what, utf8 := query(arg)
	e := c.expander()
	switch {
	case e == nil:
		c.fail(502, "5.5.1", "EXPN is not available")
		return
	case what == "":
		c.fail(501, "5.5.4", "EXPN needs a name")
		return
	}
	ctx, cancel := c.call()
	defer cancel()
	members, err := e.Expand(ctx, what)
	if err != nil {
		c.say(err, "expn")
		return
	}
	if len(members) == 0 {
		c.answer(252, "2.1.5", "The list has no members")
		return
	}
	c.tell(utf8, members...)
}

// etrn: RFC 1985.
func (c *conn) etrn(arg []byte) {
	s, ok := c.sess.(Starter)
	switch {
	case !ok:
		c.fail(502, "5.5.1", "ETRN is not available")
		return
	case len(arg) == 0 || bytes.IndexByte(arg, ' ') >= 0:
		c.fail(501, "5.5.4", "ETRN needs a domain")
		return
	}
	ctx, cancel := c.call()
	defer cancel()
	n, err := s.StartQueue(ctx, string(arg))
	var refused *Reply
	switch {
	case errors.As(err, &refused):
		c.say(err, "etrn")
	case err != nil:
		c.say(&Reply{Code: 458, Enhanced: "4.3.0", Text: "Unable to queue messages now", Cause: err}, "etrn")
	case n == 0:
		c.answer(251, "2.0.0", "No messages waiting for "+string(arg))
	case n > 0:
		c.answer(253, "2.0.0", strconv.Itoa(n)+" messages for "+string(arg)+" started")
	default:
		c.answer(250, "2.0.0", "Queuing for "+string(arg)+" started")
	}
}

// startTLS: RFC 3207. Octets that came in clear before the handshake count for
// nothing, buffered ones first of all: somebody else may have put them there.
func (c *conn) startTLS(arg []byte) {
	switch {
	case len(arg) > 0:
		c.fail(501, "5.5.4", "STARTTLS takes no argument")
		return
	case c.peer.TLS != nil:
		c.fail(503, "5.5.1", "TLS is on already")
		return
	}
	c.receipt = receiptNone
	c.put("220 2.0.0 Ready to start TLS\r\n")
	c.in.discard()
	if c.flush() != nil || !c.handshake() {
		c.quit, c.told = true, true
		c.out = c.out[:0]
		return
	}
	c.in.discard()
	c.reset()
	c.state = stateNew
	c.lines = linesUnknown
	c.peer.Helo, c.peer.ESMTP, c.peer.User = "", false, c.over.user
}
