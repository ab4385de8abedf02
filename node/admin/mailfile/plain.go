package mailfile

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"time"
)

// plainFields are the fields a message of the plain-text layout begins with.
var plainFields = [...]string{"From: ", "To: ", "Subject: ", "Received: "}

// Plain reads the plain-text layout of teaching servers: each message is lines
// of From, To, Subject and Received, then its body, then a line with a single
// dot. A body line that looks like a field stays in the body: a field that has
// been there, or comes behind another line, is none. Dots are unstuffed. The result is
// a message with an empty line between header and body.
func Plain(r io.Reader, fn func(n int, received time.Time, content []byte) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	var m plainMessage
	n := 0
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			text := trimEnd(line)
			if len(text) == 1 && text[0] == '.' {
				n++
				if err := fn(n, m.received, m.bytes()); err != nil {
					return err
				}
				m = plainMessage{}
			} else {
				m.line(text)
			}
			if len(m.content) > MaxMessage {
				return errLarge
			}
		}
		if errors.Is(err, io.EOF) {
			if len(bytes.TrimSpace(m.content)) == 0 {
				return nil
			}
			return fn(n+1, m.received, m.bytes()) // its dot was forgotten
		}
		if err != nil {
			return err
		}
	}
}

// plainMessage is one message being read.
type plainMessage struct {
	content  []byte
	seen     [len(plainFields)]bool
	body     bool
	received time.Time
}

func (m *plainMessage) line(text []byte) {
	if !m.body {
		if m.field(text) {
			return
		}
		m.endHeader()
	}
	m.content = append(append(m.content, bytes.TrimPrefix(text, []byte("."))...), "\r\n"...)
}

// field takes a line of the header; false where it is none.
func (m *plainMessage) field(text []byte) bool {
	for i, name := range plainFields {
		if m.seen[i] || !strings.EqualFold(string(text[:min(len(text), len(name))]), name) &&
			string(text) != strings.TrimSpace(name) {
			continue
		}
		m.seen[i] = true
		m.content = append(append(m.content, text...), "\r\n"...)
		if name == "Received: " && len(text) > len(name) {
			m.received = plainTime(string(text[len(name):]))
		}
		return true
	}
	return false
}

func (m *plainMessage) endHeader() {
	m.body = true
	m.content = append(m.content, "\r\n"...)
}

func (m *plainMessage) bytes() []byte {
	if !m.body {
		m.endHeader()
	}
	return m.content
}

// plainTime reads what such servers write as the time of receipt.
func plainTime(text string) time.Time {
	text = strings.TrimSpace(text)
	if i := strings.LastIndexByte(text, ';'); i >= 0 {
		text = strings.TrimSpace(text[i+1:])
	}
	for _, layout := range []string{
		time.RFC1123Z, time.RFC1123, time.ANSIC, time.RFC3339, "2006-01-02 15:04:05.999999", "2006-01-02 15:04:05",
		"2006-01-02 15:04",
		"02/01/2006 15:04:05", "2006/01/02 15:04:05", "2 Jan 2006 15:04:05 -0700",
	} {
		if t, err := time.Parse(layout, text); err == nil {
			return t
		}
	}
	return time.Time{}
}
