package admin

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Letter is a message in parts, for people and scripts that do not want to
// write RFC 5322 themselves.
type Letter struct {
	From      string            `json:"from" doc:"address; empty: the null path"`
	To        []string          `json:"to" minItems:"1"`
	Subject   string            `json:"subject,omitempty"`
	Text      string            `json:"text,omitempty" doc:"the body, plain text"`
	Headers   map[string]string `json:"headers,omitempty" doc:"further header fields"`
	MessageID string            `json:"message_id,omitempty" doc:"without <>; default: a new one"`
}

func (l Letter) envelope() Envelope { return Envelope{Sender: l.From, Recipients: l.To} }

// Compose writes the message: header fields, CRLF line ends, quoted-printable
// where the text is not plain ASCII of decent line length.
func (l Letter) Compose(now time.Time) ([]byte, error) {
	var b bytes.Buffer
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s: %s\r\n", name, value)
		}
	}
	field("Date", now.Format(time.RFC1123Z))
	field("From", l.From)
	field("To", strings.Join(l.To, ",\r\n "))
	field("Subject", mime.QEncoding.Encode("utf-8", l.Subject))
	field("Message-ID", "<"+l.messageID()+">")
	for _, name := range sortedNames(l.Headers) {
		if !fieldName(name) {
			return nil, fmt.Errorf("%q is not the name of a header field", name)
		}
		field(name, mime.QEncoding.Encode("utf-8", l.Headers[name]))
	}
	if err := oneLine(append([]string{l.From, l.messageID()}, l.To...)...); err != nil {
		return nil, err
	}
	field("MIME-Version", "1.0")
	field("Content-Type", "text/plain; charset=utf-8")
	text := strings.ReplaceAll(strings.ReplaceAll(l.Text, "\r\n", "\n"), "\r", "\n")
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	if plainText(text) {
		field("Content-Transfer-Encoding", "7bit")
		b.WriteString("\r\n" + strings.ReplaceAll(text, "\n", "\r\n"))
		return b.Bytes(), nil
	}
	field("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	w := quotedprintable.NewWriter(&b)
	if _, err := w.Write([]byte(strings.ReplaceAll(text, "\n", "\r\n"))); err != nil {
		return nil, err
	}
	return b.Bytes(), w.Close()
}

func (l Letter) messageID() string {
	if l.MessageID != "" {
		return l.MessageID
	}
	domain := "localhost"
	if at := strings.LastIndexByte(l.From, '@'); at >= 0 {
		domain = l.From[at+1:]
	}
	return rand.Text() + "@" + domain
}

// oneLine refuses values that would end their header field.
func oneLine(values ...string) error {
	for _, v := range values {
		if strings.ContainsAny(v, "\r\n\x00") {
			return errors.New("an address holds a line end")
		}
	}
	return nil
}

func fieldName(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c == ':' || c >= 0x7f {
			return false
		}
	}
	return s != ""
}

// plainText reports whether a text may go as 7bit (RFC 5322 section 2.1.1:
// lines of at most 998 octets).
func plainText(text string) bool {
	line := 0
	for _, c := range []byte(text) {
		switch {
		case c == '\n':
			line = 0
			continue
		case c >= utf8.RuneSelf || c == 0:
			return false
		}
		if line++; line > 998 {
			return false
		}
	}
	return true
}

func sortedNames(m map[string]string) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
