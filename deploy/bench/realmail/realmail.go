// Package realmail makes mail for measurements that looks like people's and programs'
// mail: header sections with signatures, prose, newsletters in HTML, pictures and PDF in
// base64. It shrinks as far as that does, where filler shrinks to nothing; a test compares
// it with prose that people wrote.
package realmail

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"time"
)

// Kind is what a message has in it.
type Kind int

// Text is prose, HTML an alternative of prose and a newsletter, Picture and PDF are a few
// lines with a file.
const (
	Text Kind = iota
	HTML
	Picture
	PDF
	kinds
)

// String names the kind.
func (k Kind) String() string { return [...]string{"text", "html", "picture", "pdf"}[k] }

// Kinds are all of them.
func Kinds() (all []Kind) {
	for k := range kinds {
		all = append(all, k)
	}
	return all
}

// Maker makes messages. Two of one seed make the same ones. One goroutine may use it.
type Maker struct {
	rng   *rand.Rand
	words []string

	said         []string // the last words of the message
	again, place int      // how many words are still said again, and where they stand in said

	files [kinds][]byte // what attachments are cut from, made when first asked for
}

// New returns a Maker.
func New(seed uint64) *Maker {
	return &Maker{rng: rand.New(rand.NewPCG(seed, 1)), words: vocabulary()}
}

// Mix makes n messages of about size octets, of the kinds that are usual at that size:
// up to 16 KiB prose and newsletters, up to 256 KiB as many newsletters as files, above it
// files.
func (m *Maker) Mix(n, size int) (all [][]byte) {
	usual := []Kind{Picture, PDF}
	switch {
	case size <= 16<<10:
		usual = []Kind{Text, HTML}
	case size <= 256<<10:
		usual = []Kind{HTML, Picture, HTML, PDF}
	}
	for i := range n {
		all = append(all, m.Message(usual[i%len(usual)], size))
	}
	return all
}

// Message makes a message of about size octets, header section included. Its lines end
// with CRLF, and dots at their beginnings are not doubled. The header section alone takes
// 1.5 KiB.
func (m *Maker) Message(kind Kind, size int) []byte {
	var b bytes.Buffer
	m.said, m.again = nil, 0
	m.header(&b)
	boundary := m.token(24)
	switch kind {
	case Text:
		b.WriteString("Content-Type: text/plain; charset=utf-8\r\n\r\n")
		m.prose(&b, size)
		return b.Bytes()
	case HTML:
		fmt.Fprintf(&b, "Content-Type: multipart/alternative; boundary=\"%s\"\r\n\r\n", boundary)
		m.part(&b, boundary, "text/plain; charset=utf-8")
		m.prose(&b, b.Len()+(size-b.Len())/8)
		m.part(&b, boundary, "text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable")
		m.newsletter(&b, size)
	default:
		fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=\"%s\"\r\n\r\n", boundary)
		m.part(&b, boundary, "text/plain; charset=utf-8")
		m.prose(&b, b.Len()+600)
		name := map[Kind]string{Picture: "image/jpeg; name=IMG_%d.jpg", PDF: "application/pdf; name=invoice-%d.pdf"}[kind]
		m.part(&b, boundary, fmt.Sprintf(name, m.rng.IntN(10000))+"\r\nContent-Transfer-Encoding: base64")
		m.attach(&b, kind, size)
	}
	fmt.Fprintf(&b, "\r\n--%s--\r\n", boundary)
	return b.Bytes()
}

func (m *Maker) part(b *bytes.Buffer, boundary, kind string) {
	fmt.Fprintf(b, "\r\n--%s\r\nContent-Type: %s\r\n\r\n", boundary, kind)
}

// header writes what a message has that came by two hosts and was signed by its domain.
func (m *Maker) header(b *bytes.Buffer) {
	domain := m.word() + m.word() + ".example"
	at := time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC).Add(time.Duration(m.rng.IntN(86400)) * time.Second).
		Format(time.RFC1123Z)
	for range 2 {
		fmt.Fprintf(b, "Received: from out%d.%s (out%d.%s [192.0.2.%d])\r\n\tby mx%d.%s (Postfix) with ESMTPS id %s\r\n"+
			"\tfor <%s@far.example>; %s\r\n", m.rng.IntN(90), domain, m.rng.IntN(90), domain, m.rng.IntN(256),
			m.rng.IntN(4), domain, m.token(14), m.word(), at)
	}
	fmt.Fprintf(b, "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=%s;\r\n\ts=s%d; t=%d; bh=%s;\r\n"+
		"\th=From:To:Subject:Date:Message-ID:MIME-Version:Content-Type:List-Unsubscribe;\r\n\tb=%s\r\n",
		domain, m.rng.IntN(2026), 1796000000+m.rng.IntN(86400), m.base64(32), m.folded(256))
	fmt.Fprintf(b, "Date: %s\r\nFrom: %s %s <%s@%s>\r\nTo: %s <%s@far.example>\r\nSubject: %s\r\n",
		at, capital(m.word()), capital(m.word()), m.word(), domain, capital(m.word()), m.word(), m.sentence(6))
	fmt.Fprintf(b, "Message-ID: <%s@%s>\r\nList-Unsubscribe: <https://news.%s/u/%s>\r\nMIME-Version: 1.0\r\n",
		m.token(32), domain, domain, m.token(60))
}

// attach writes a file in base64 until the message has its size.
func (m *Maker) attach(b *bytes.Buffer, kind Kind, size int) {
	const line = 57 // octets in a line of 76
	if m.files[kind] == nil {
		m.files[kind] = m.file(kind)
	}
	file := m.files[kind]
	from := m.rng.IntN(len(file))
	for b.Len() < size {
		if from+line > len(file) {
			from = 0
		}
		b.WriteString(base64.StdEncoding.EncodeToString(file[from : from+line]))
		b.WriteString("\r\n")
		from += line
	}
}

// base64 is the encoding of n octets that nobody can foresee.
func (m *Maker) base64(n int) string {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(m.rng.Uint32())
	}
	return base64.StdEncoding.EncodeToString(p)
}

// folded is such a value over several lines of a field.
func (m *Maker) folded(n int) string {
	value := m.base64(n)
	var b bytes.Buffer
	for len(value) > 70 {
		b.WriteString(value[:70] + "\r\n\t ")
		value = value[70:]
	}
	return b.String() + value
}

const tokenLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// token is an id of n letters, as in links and Message-IDs.
func (m *Maker) token(n int) string {
	p := make([]byte, n)
	for i := range p {
		p[i] = tokenLetters[m.rng.IntN(len(tokenLetters))]
	}
	return string(p)
}
