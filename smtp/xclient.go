package smtp

import (
	"bytes"
	"net/netip"
	"strconv"
	"strings"

	"relay/smtp/mailaddr"
)

const xclientAttributes = "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"

// override is what XCLIENT has put in the place of what we see ourselves.
type override struct {
	helo  string
	esmtp bool
	user  string
}

func (c *conn) mayXClient() bool {
	return c.cfg.XClient != nil && c.cfg.XClient(c.direct)
}

// xclient lets a configured front end speak for its clients, as Postfix's
// XCLIENT_README describes it. The session starts over with a new greeting.
func (c *conn) xclient(arg []byte) {
	switch {
	case !c.mayXClient():
		c.fail(550, "5.7.1", "XCLIENT is not for you")
		return
	case len(arg) == 0:
		c.fail(501, "5.5.4", "XCLIENT needs attributes")
		return
	}
	peer, over := c.peer, c.over
	for len(arg) > 0 {
		word, rest, _ := bytes.Cut(arg, []byte(" "))
		arg = bytes.TrimLeft(rest, " ")
		name, value, ok := strings.Cut(string(word), "=")
		if value, ok2 := mailaddr.DecodeXtext(value); !ok || !ok2 || !isPrintable(value) ||
			!setXClient(&peer, &over, strings.ToUpper(name), value) {
			c.fail(501, "5.5.4", "Bad XCLIENT attribute "+name)
			return
		}
	}
	c.startOver(peer, over)
}

// setXClient takes one attribute.
func setXClient(p *Peer, o *override, name, value string) bool {
	known := value != "[UNAVAILABLE]" && value != "[TEMPUNAVAIL]"
	if !known {
		value = ""
	}
	switch name {
	case "NAME":
		p.Name = value
	case "ADDR":
		return setAddr(&p.Remote, value)
	case "PORT":
		return setPort(&p.Remote, value)
	case "DESTADDR":
		return setAddr(&p.Local, value)
	case "DESTPORT":
		return setPort(&p.Local, value)
	case "HELO":
		o.helo = cleanHelo(value)
	case "LOGIN":
		o.user = value
	case "PROTO":
		o.esmtp = strings.EqualFold(value, "ESMTP")
		return o.esmtp || !known || strings.EqualFold(value, "SMTP")
	default:
		return false
	}
	return true
}

func setAddr(ap *netip.AddrPort, value string) bool {
	if value == "" {
		*ap = netip.AddrPortFrom(netip.Addr{}, ap.Port())
		return true
	}
	if len(value) > 5 && strings.EqualFold(value[:5], "IPV6:") {
		value = value[5:]
	}
	a, err := netip.ParseAddr(value)
	*ap = netip.AddrPortFrom(a.Unmap(), ap.Port())
	return err == nil && a.Zone() == ""
}

func setPort(ap *netip.AddrPort, value string) bool {
	n, err := strconv.ParseUint(value, 10, 16)
	*ap = netip.AddrPortFrom(ap.Addr(), uint16(n))
	return err == nil || value == ""
}

// startOver begins a new session for another peer on the same connection.
func (c *conn) startOver(peer Peer, over override) {
	c.reset()
	_ = c.sess.Close()
	c.sess, c.receipt = nil, receiptNone
	peer.Trusted = c.trusts(peer.Remote.Addr())
	peer.Helo, peer.ESMTP, peer.User = over.helo, over.esmtp, over.user
	c.peer, c.over = peer, over
	c.state = stateNew
	c.quit = !c.open()
	c.over.user = c.peer.User // as the backend has it
}
