package smtp

import (
	"bytes"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"relay/smtp/mailaddr"
	"relay/smtp/printable"
)

// param is one ESMTP parameter of MAIL or RCPT (RFC 5321 section 4.1.2).
type param struct {
	key   string // upper case
	value string
	has   bool // there was a "="
}

// nextParam cuts the first parameter off. ok is false at the end.
func nextParam(in []byte) (p param, rest []byte, ok bool, err error) {
	in = bytes.TrimLeft(in, " ")
	if len(in) == 0 {
		return p, nil, false, nil
	}
	word, rest, _ := bytes.Cut(in, []byte(" "))
	key, value, has := bytes.Cut(word, []byte("="))
	for i, c := range key {
		if !isAlnum(c) && (c != '-' || i == 0) {
			return p, nil, false, syntaxf("bad parameter %q", word)
		}
	}
	if len(key) == 0 || has && len(value) == 0 {
		return p, nil, false, syntaxf("bad parameter %q", word)
	}
	for _, c := range value {
		if c <= ' ' || c == 0x7f {
			return p, nil, false, syntaxf("bad value of %s", key)
		}
	}
	return param{strings.ToUpper(string(key)), string(value), has}, rest, true, nil
}

// errUnknownParam becomes 555 5.5.4 (RFC 5321 section 4.1.1.11).
const errUnknownParam = constError("smtp: unknown parameter")

// mailParam knows one parameter of MAIL.
type mailParam struct {
	ext  Extension // must be offered
	bare bool      // takes no value
	set  func(o *MailOptions, value string, now time.Time) bool
}

func mailParams() map[string]mailParam {
	return map[string]mailParam{
		"SIZE":     {ExtSize, false, setSize},
		"BODY":     {Ext8BitMIME, false, setBody},
		"SMTPUTF8": {ExtSMTPUTF8, true, func(o *MailOptions, _ string, _ time.Time) bool { o.UTF8 = true; return true }},
		"REQUIRETLS": {ExtRequireTLS, true,
			func(o *MailOptions, _ string, _ time.Time) bool { o.RequireTLS = true; return true }},
		"RET":       {ExtDSN, false, setRet},
		"ENVID":     {ExtDSN, false, setEnvID},
		"AUTH":      {ExtAuth, false, setAuth},
		"BY":        {ExtDeliverBy, false, setBy},
		"HOLDFOR":   {ExtFutureRelease, false, setHoldFor},
		"HOLDUNTIL": {ExtFutureRelease, false, setHoldUntil},
		"MT-PRIORITY": {ExtMTPriority, false, func(o *MailOptions, v string, _ time.Time) bool {
			n, err := strconv.Atoi(v)
			o.Priority = &n
			return err == nil && n >= -9 && n <= 9 && v[0] != '+'
		}},
	}
}

func setSize(o *MailOptions, v string, _ time.Time) bool {
	n, ok := digits(v, 20) // RFC 1870 section 5
	o.Size = n
	return ok
}

// digits reads a number of at most max digits. A number that does not fit becomes the
// largest one, which is too large for everything.
func digits(v string, most int) (int64, bool) {
	if v == "" || len(v) > most {
		return 0, false
	}
	for i := range len(v) {
		if v[i] < '0' || v[i] > '9' {
			return 0, false
		}
	}
	n, _ := strconv.ParseInt(v, 10, 64) // out of range: the largest
	return n, true
}

func setBody(o *MailOptions, v string, _ time.Time) bool {
	for _, b := range [...]BodyType{Body7Bit, Body8BitMIME, BodyBinaryMIME} {
		if strings.EqualFold(v, b.String()) {
			o.Body = b
			return true
		}
	}
	return false
}

func setRet(o *MailOptions, v string, _ time.Time) bool {
	o.Ret = strings.ToUpper(v)
	return o.Ret == "FULL" || o.Ret == "HDRS"
}

func setEnvID(o *MailOptions, v string, _ time.Time) bool {
	id, ok := mailaddr.DecodeXtext(v)
	o.EnvID = id
	return ok && len(v) <= 100 && mailaddr.IsASCII(v) && isPrintable(id) // RFC 3461 section 4.4
}

// setAuth reads xtext (RFC 4954 section 5). UTF-8 in it is taken as Postfix takes it, and
// only with SMTPUTF8 (RFC 6531 section 3.3 lets it into esmtp-value).
func setAuth(o *MailOptions, v string, _ time.Time) bool {
	id, ok := mailaddr.DecodeXtext(v)
	o.Auth = id
	return ok && isPrintable(id) && len(v) <= 500
}

// setBy reads by-time;mode[trace], RFC 2852 section 4.
func setBy(o *MailOptions, v string, now time.Time) bool {
	seconds, mode, ok := strings.Cut(strings.ToUpper(v), ";")
	n, err := strconv.Atoi(seconds)
	if !ok || err != nil || len(strings.TrimLeft(seconds, "+-")) > 9 {
		return false
	}
	mode, trace := strings.CutSuffix(mode, "T")
	o.DeliverBy = &DeliverBy{Until: now.Add(time.Duration(n) * time.Second), Return: mode == "R", Trace: trace}
	return mode == "N" || mode == "R" && n > 0
}

func setHoldFor(o *MailOptions, v string, now time.Time) bool {
	n, ok := digits(v, 9)
	if !ok || !o.HoldUntil.IsZero() {
		return false // RFC 4865 section 4: not both
	}
	o.HoldUntil = now.Add(time.Duration(n) * time.Second)
	return true
}

func setHoldUntil(o *MailOptions, v string, _ time.Time) bool {
	at, err := time.Parse(time.RFC3339, v)
	if err != nil || !o.HoldUntil.IsZero() {
		return false
	}
	o.HoldUntil = at
	return true
}

// parseMailParams reads the parameters of MAIL.
func parseMailParams(in []byte, known map[string]mailParam, offered Extension, now time.Time) (*MailOptions, error) {
	o := &MailOptions{}
	var seen [12]string
	for n := 0; ; n++ {
		p, rest, ok, err := nextParam(in)
		if err != nil || !ok {
			return o, err
		}
		in = rest
		m, found := known[p.key]
		if !found || offered&m.ext == 0 {
			return nil, errUnknownParam
		}
		for _, s := range seen[:n] {
			if s == p.key {
				return nil, syntaxf("%s given twice", p.key)
			}
		}
		seen[n] = p.key // n is less than the number of known ones
		if m.bare == p.has || !m.set(o, p.value, now) {
			return nil, syntaxf("bad value of %s", p.key)
		}
		if o.Body == BodyBinaryMIME && offered&ExtBinaryMIME == 0 {
			return nil, errUnknownParam
		}
	}
}

// parseRcptParams reads the parameters of RCPT.
func parseRcptParams(in []byte, offered Extension) (*RcptOptions, error) {
	o := &RcptOptions{}
	for {
		p, rest, ok, err := nextParam(in)
		if err != nil || !ok {
			return o, err
		}
		in = rest
		if offered&ExtDSN == 0 {
			return nil, errUnknownParam
		}
		switch p.key {
		case "NOTIFY":
			if o.Notify != 0 || !setNotify(o, p.value) {
				return nil, syntaxf("bad value of NOTIFY")
			}
		case "ORCPT":
			if o.ORCPT != "" || !setORCPT(o, p.value) {
				return nil, syntaxf("bad value of ORCPT")
			}
		default:
			return nil, errUnknownParam
		}
	}
}

// notifyWords are in the order of the bits.
func notifyWords() [4]string { return [...]string{"NEVER", "SUCCESS", "FAILURE", "DELAY"} }

func setNotify(o *RcptOptions, v string) bool {
	for word := range strings.SplitSeq(strings.ToUpper(v), ",") {
		bit := uint32(0)
		for i, known := range notifyWords() {
			if word == known {
				bit = 1 << i
			}
		}
		if bit == 0 || o.Notify&bit != 0 {
			return false
		}
		o.Notify |= bit
	}
	return o.Notify&NotifyNever == 0 || o.Notify == NotifyNever // RFC 3461 section 4.1
}

func formatNotify(bits uint32) string {
	var words []string
	for i, word := range notifyWords() {
		if bits&(1<<i) != 0 {
			words = append(words, word)
		}
	}
	return strings.Join(words, ",")
}

// maxORCPT: RFC 3461 section 4.2.
const maxORCPT = 500

func setORCPT(o *RcptOptions, v string) bool {
	kind, addr, ok := strings.Cut(v, ";")
	if !ok || kind == "" || len(v) > maxORCPT {
		return false
	}
	for i := range len(kind) {
		if !isAlnum(kind[i]) && kind[i] != '-' {
			return false
		}
	}
	addr, ok = mailaddr.DecodeXtext(addr)
	if ok && strings.EqualFold(kind, "utf-8") {
		addr, ok = mailaddr.DecodeUnitext(addr)
	}
	o.ORCPT = kind + ";" + addr
	return ok && addr != "" && isPrintable(addr)
}

// isPrintable reports whether s is UTF-8 without control characters.
func isPrintable(s string) bool {
	for _, c := range s {
		if !printable.Rune(c) || c == utf8.RuneError {
			return false
		}
	}
	return true
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
