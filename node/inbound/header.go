package inbound

import (
	"context"
	"fmt"
	"strings"
	"time"

	"relay/smtp/mailaddr"
	"relay/smtp/printable"
)

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
	if len(in.env.rcpts) == 1 && mailaddr.IsASCII(in.env.rcpts[0].Address) {
		b = append(append(append(b, "\r\n\tfor <"...), in.env.rcpts[0].Address...), '>')
	}
	b = append(b, ";\r\n\t"...)
	b = in.now.AppendFormat(b, "Mon, 02 Jan 2006 15:04:05 -0700")
	return append(b, "\r\n"...)
}

// addMissingFields is the stage that adds what is missing: the empty line behind the
// header section, and on submission the fields RFC 6409 §8 lets us add. Nothing is added
// to a header section whose end is out of sight: the field may be there.
func (in *intake) addMissingFields(context.Context) error {
	if in.head.NoGap {
		in.endSection()
	}
	if !in.env.fixUp || !in.headerSeen() {
		return nil
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
	in.addFields(add)
	return nil
}

func (in *intake) domainOr() string {
	if in.env.domain != "" {
		return in.env.domain
	}
	return in.hostname
}
