package pop3

import (
	"strconv"
	"strings"
	"time"
)

// capa lists what the server can do in this state (RFC 2449 §5).
func (c *conn) capa(_ []byte) {
	c.ok(tCapa)
	for _, tag := range c.capabilities() {
		c.say(append(c.line(), tag...))
	}
	c.dot()
}

// capabilities are named in the order of the RFCs that brought them. The tags
// of UID-PARAM and later are the same in all states.
func (c *conn) capabilities() []string {
	cfg, on := &c.srv.cfg, c.srv.on
	list := []string{"TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING"}
	add := func(ok bool, tags ...string) {
		if ok {
			list = append(list, tags...)
		}
	}
	if c.state == authorization {
		mechanisms := c.mechanisms()
		add(mechanisms != nil, "USER", "SASL "+strings.Join(mechanisms, " "))
		add(cfg.TLS != nil && c.peer.TLS == nil && !c.utf8, "STLS")
	}
	keeps, delay, differs := c.policies()
	add(delay > 0, "LOGIN-DELAY "+strconv.FormatInt(int64((delay+time.Second-1)/time.Second), 10)+differs)
	add(keeps.Announce, keeps.tag())
	add(on&UTF8 != 0, "UTF8 USER")
	add(on&Lang != 0, "LANG")
	add(on&UIDParam != 0, "UID-PARAM")
	add(on&Sleep != 0, "SLEEPING", "SLEE-WAKE")
	add(on&Deli != 0, "DELI")
	add(on&Qaut != 0, "QAUT")
	add(cfg.Implementation != "-", "IMPLEMENTATION "+cfg.Implementation)
	return list
}

// policies are what holds for this user, or before login for the strictest of
// all; differs is the mark of the latter.
func (c *conn) policies() (keeps Retention, delay time.Duration, differs string) {
	cfg := &c.srv.cfg
	switch {
	case c.state != authorization:
		keeps, delay = c.keeps, max(cfg.LoginDelay, c.delay)
		keeps.PerUser = false
	case cfg.Policies == nil:
		keeps, delay = cfg.Retention, cfg.LoginDelay
	default:
		keeps, delay = cfg.Policies()
		if delay > cfg.LoginDelay {
			differs = " USER"
		}
		delay = max(delay, cfg.LoginDelay)
	}
	return keeps, delay, differs
}

func (r Retention) tag() string {
	tag := "EXPIRE NEVER"
	if !r.Never {
		tag = "EXPIRE " + strconv.Itoa(r.Days)
	}
	if r.PerUser {
		tag += " USER"
	}
	return tag
}

// utf8Mode is UTF8 of RFC 6856. Messages are sent as they are in either mode:
// that their octets never change is promised, and weighs more than §2.1's wish
// to have them downgraded for clients that did not ask.
func (c *conn) utf8Mode(_ []byte) {
	c.utf8 = true
	c.ok(tUTF8)
}

// langChoice is LANG of RFC 6856 §3: without argument a list, with one a choice.
func (c *conn) langChoice(arg []byte) {
	if len(arg) == 0 {
		c.ok(tLangList)
		for _, l := range langs {
			c.say(append(append(append(c.line(), l.tag...), ' '), l.name...))
		}
		c.dot()
		return
	}
	l, ok := findLang(string(arg))
	if !ok {
		c.err("", tLangUnknown)
		return
	}
	c.lang = l
	line := append(append(append(c.line(), "+OK "...), langs[l].tag...), ' ')
	c.say(appendText(line, tLangSet, l, ""))
}

// findLang looks a range up (RFC 4647 §3.4): subtags are taken away from its end
// until something fits. "*" is the server's choice.
func findLang(tag string) (lang, bool) {
	if tag == "*" || strings.EqualFold(tag, "i-default") {
		return english, true
	}
	tag, _, _ = strings.Cut(tag, "-")
	for i, l := range langs {
		if strings.EqualFold(tag, l.tag) {
			return lang(i), true
		}
	}
	return english, false
}
