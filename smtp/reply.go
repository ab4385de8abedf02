package smtp

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"relay/smtp/printable"
)

// Reply is what one side of SMTP answers to the other. As an error of a Session
// it goes to the client as it is, Cause excepted, which is for the log. Any
// other error of a Session becomes a generic 451 4.3.0, for what we do not know
// must not be final. A Reply is never changed once it was handed on.
type Reply struct {
	Code     int    // 200 to 599
	Enhanced string // "5.1.1" (RFC 3463); empty: x.0.0, or none was sent
	Text     string // lines are parted by \n; no code in front
	Cause    error  // private
	Reason   string // one word for counters and logs; private
}

// NewReply returns a reply without a cause.
func NewReply(code int, enhanced, text string) *Reply {
	return &Reply{Code: code, Enhanced: enhanced, Text: text}
}

// Error returns the reply as one line.
func (r *Reply) Error() string {
	var b strings.Builder
	b.WriteString(strconv.Itoa(r.Code))
	for _, part := range [...]string{r.Enhanced, strings.ReplaceAll(r.Text, "\n", " ")} {
		if part != "" {
			b.WriteByte(' ')
			b.WriteString(part)
		}
	}
	return b.String()
}

// Unwrap returns the cause.
func (r *Reply) Unwrap() error { return r.Cause }

// Temporary reports whether the same command may succeed later (4xx).
func (r *Reply) Temporary() bool { return r.Code/100 == 4 }

// Permanent reports whether the sender is to give up: a 5xx, or an enhanced code of
// class 5 beside a 4xx (459 5.7.1 of ETRN).
func (r *Reply) Permanent() bool { return r.Code/100 == 5 || strings.HasPrefix(r.Enhanced, "5.") }

// Positive reports whether the reply says yes (2xx).
func (r *Reply) Positive() bool { return r.Code/100 == 2 }

// ErrCredentials is what an Authenticator returns for a wrong user or password;
// it becomes 535 5.7.8. It has a method Permanent, which reports true.
const ErrCredentials = credentialsError("smtp: wrong user or password")

type credentialsError string

func (e credentialsError) Error() string   { return string(e) }
func (e credentialsError) Permanent() bool { return true }

type constError string

func (e constError) Error() string { return string(e) }

// replyOf turns the error of a Session into the reply for the client.
func replyOf(err error) *Reply {
	if r, ok := errors.AsType[*Reply](err); ok && r != nil && r.Code >= 200 && r.Code < 600 {
		return r
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &Reply{Code: 451, Enhanced: "4.3.0", Text: "This takes too long now, try again later", Cause: err}
	}
	return &Reply{Code: 451, Enhanced: "4.3.0", Text: "Local error in processing, try again later", Cause: err}
}

// RFC 5321 section 4.5.3.1.5: a reply line has 512 octets at most, CRLF included.
const maxReplyLine = 512 - 2

// appendReply appends r as it goes over the wire. Text that would break the
// framing is replaced; text that is not ASCII, too, unless the client asked for
// SMTPUTF8 (RFC 6531 section 3.7.4.2).
func appendReply(dst []byte, r *Reply, utf8OK bool) []byte {
	enhanced := r.Enhanced
	if enhanced == "" && r.Code/100 != 3 {
		enhanced = string('0'+rune(r.Code/100)) + ".0.0"
	}
	return appendReplyText(dst, r.Code, enhanced, r.Text, utf8OK)
}

func appendReplyText(dst []byte, code int, enhanced, text string, utf8OK bool) []byte {
	for {
		line, rest, more := strings.Cut(text, "\n")
		dst = appendReplyLine(dst, code, more, enhanced, line, utf8OK)
		if !more {
			return dst
		}
		text = rest
	}
}

func appendReplyLine(dst []byte, code int, more bool, enhanced, text string, utf8OK bool) []byte {
	start := len(dst)
	dst = strconv.AppendInt(dst, int64(code), 10)
	if more {
		dst = append(dst, '-')
	} else {
		dst = append(dst, ' ')
	}
	if enhanced != "" {
		dst = append(dst, enhanced...)
		if text != "" {
			dst = append(dst, ' ')
		}
	}
	for _, c := range text {
		if len(dst)-start > maxReplyLine-utf8.UTFMax {
			break
		}
		switch {
		case c == '\t':
			dst = append(dst, ' ')
		case !printable.Rune(c) || c >= 0x80 && !utf8OK || c == utf8.RuneError:
			dst = append(dst, '?')
		default:
			dst = utf8.AppendRune(dst, c)
		}
	}
	return append(dst, '\r', '\n')
}

// syntaxError is why an argument was refused; it becomes the text of a 501.
type syntaxError string

func (e syntaxError) Error() string { return string(e) }

func syntaxf(format string, args ...any) error {
	return syntaxError(fmt.Sprintf(format, args...))
}
