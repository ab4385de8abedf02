package pop3

import (
	"bytes"
	"math"
)

// maxCommand is the longest command, line end included (RFC 2449 §4).
const maxCommand = 255

// state is where a session is. States are bits, so that a command can name all
// states that it is for.
type state uint8

const (
	authorization state = 1 << iota
	transaction
	sleeping
)

// wants says what a command takes behind its keyword.
type wants uint8

const (
	nothing wants = iota
	something
	anything
	rest // the rest of the line as it is, spaces included; not empty
)

// command is a row of the command table. run replies; it is called only in the
// states named and with an argument as wanted.
type command struct {
	in   state
	want wants
	ext  Extension // has to be switched on; 0: always there
	run  func(c *conn, arg []byte)
}

// keyword packs three or four letters.
type keyword uint32

func key(s string) keyword { return pack([]byte(s)) }

func pack(word []byte) keyword {
	if len(word) < 3 || len(word) > 4 {
		return 0
	}
	var k keyword
	for _, b := range word {
		if 'a' <= b && b <= 'z' {
			b -= 'a' - 'A'
		}
		k = k<<8 | keyword(b)
	}
	return k
}

func commands() map[keyword]*command {
	const loggedIn = transaction
	return map[keyword]*command{
		key("CAPA"): {authorization | transaction, nothing, 0, (*conn).capa},
		key("QUIT"): {authorization | transaction | sleeping, nothing, 0, (*conn).quit},
		key("STLS"): {authorization, nothing, 0, (*conn).stls},
		key("USER"): {authorization, something, 0, (*conn).userName},
		key("PASS"): {authorization, rest, 0, (*conn).pass},
		key("APOP"): {authorization, something, APOP, (*conn).apop},
		key("XLOG"): {authorization, rest, Xlog, (*conn).xlog},
		key("AUTH"): {authorization, anything, 0, (*conn).auth},
		key("UTF8"): {authorization, nothing, UTF8, (*conn).utf8Mode},
		key("LANG"): {authorization | transaction, anything, Lang, (*conn).langChoice},
		key("STAT"): {loggedIn, nothing, 0, (*conn).stat},
		key("LIST"): {loggedIn, anything, 0, (*conn).list},
		key("UIDL"): {loggedIn, anything, 0, (*conn).uidl},
		key("RETR"): {loggedIn, something, 0, (*conn).retr},
		key("TOP"):  {loggedIn, something, 0, (*conn).top},
		key("DELE"): {loggedIn, something, 0, (*conn).dele},
		key("DELI"): {loggedIn, something, Deli, (*conn).deli},
		key("RSET"): {loggedIn, nothing, 0, (*conn).rset},
		key("LAST"): {loggedIn, nothing, Last, (*conn).last},
		key("NOOP"): {transaction | sleeping, nothing, 0, (*conn).noop},
		key("SLEE"): {transaction, nothing, Sleep, (*conn).slee},
		key("WAKE"): {sleeping, nothing, Sleep, (*conn).wake},
		key("QAUT"): {transaction, nothing, Qaut, (*conn).qaut},
	}
}

// parseCommand splits a line, without its end, into keyword and argument. The
// argument has no spaces at its end; raw is the same with them, for passwords.
// ok is false where the line holds what no command may: a control character.
func parseCommand(line []byte) (word keyword, arg, raw []byte, ok bool) {
	for _, b := range line {
		if b < ' ' && b != '\t' || b == 0x7f {
			return 0, nil, nil, false
		}
	}
	name, raw, _ := bytes.Cut(line, []byte(" "))
	return pack(bytes.TrimRight(name, "\t")), bytes.Trim(raw, " \t"), raw, true
}

// refKind says how a message is named.
type refKind uint8

const (
	refBad    refKind = iota // not a message reference at all
	refNumber                // n
	refUID                   // uid
	refBadUID                // the prefix, but no possible unique id behind it
)

// reference names a message as a client wrote it.
type reference struct {
	kind refKind
	n    int // saturated
	uid  []byte
}

var uidPrefix = []byte("UID:")

// parseReference reads a message number or, where UID-PARAM is on, a unique id
// behind its prefix. All digits are always a number.
func parseReference(arg []byte, uidParam bool) reference {
	if n, ok := parseNumber(arg); ok {
		return reference{kind: refNumber, n: n}
	}
	if !uidParam || len(arg) < len(uidPrefix) || !bytes.EqualFold(arg[:len(uidPrefix)], uidPrefix) {
		return reference{}
	}
	uid := arg[len(uidPrefix):]
	if len(uid) < 1 || len(uid) > 70 {
		return reference{kind: refBadUID}
	}
	for _, b := range uid {
		if b < 0x21 || b > 0x7e {
			return reference{kind: refBadUID}
		}
	}
	return reference{kind: refUID, uid: uid}
}

// parseNumber reads digits and nothing else. Numbers too large for an int come
// out as the largest one.
func parseNumber(arg []byte) (n int, ok bool) {
	for _, b := range arg {
		if b < '0' || b > '9' {
			return 0, false
		}
		if n > (math.MaxInt-9)/10 {
			n = math.MaxInt
			continue
		}
		n = n*10 + int(b-'0')
	}
	return n, len(arg) > 0
}

// parseTop splits TOP's argument at its last space: a unique id holds none, but
// what is no unique id may.
func parseTop(arg []byte, uidParam bool) (ref reference, lines int, ok bool) {
	i := bytes.LastIndexByte(arg, ' ')
	if i < 0 {
		return reference{}, 0, false
	}
	lines, ok = parseNumber(arg[i+1:])
	return parseReference(bytes.TrimRight(arg[:i], " \t"), uidParam), lines, ok
}
