package admin

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
)

// ImportOptions steer an import of old mail.
type ImportOptions struct {
	OverQuota bool   // the account's quota does not count
	DryRun    bool   // only say what would happen
	Line      uint64 // ImportResult.Line of the batch before; 0: this is the first
}

// OldMessage is one message of an import.
type OldMessage struct {
	Received Time   // zero: now
	Number   uint32 // how many messages with the same octets came before it in the source
	UIDL     string // unique id that POP3 clients know it by; empty: a new one
	Digest   []byte // SHA-256 of the content with CRLF line ends; may be nil where that is less than 256 KiB
	Content  io.Reader
}

// Outcomes of an imported message.
const (
	ImportStored = "stored" // it is in the mailbox
	ImportKnown  = "known"  // it was imported before, within 30 days
	ImportTaken  = "taken"  // not imported: another message has its unique id, or no message can have it
)

// ImportedMessage is what became of one message.
type ImportedMessage struct {
	ID      string `json:"id" doc:"of the message, where it is stored"`
	Outcome string `json:"outcome" enum:"stored,known,taken"`
}

// ImportResult is what became of one batch of an import.
type ImportResult struct {
	Messages []ImportedMessage `json:"messages" doc:"what was dealt with, in order"`
	Line     uint64            `json:"line" doc:"names the import's line in the audit log, for the next batch"`
	Stopped  *Error            `json:"stopped,omitempty" required:"false" doc:"why the rest was left, if there is one"`
}

// The fields of a part that tell of its message.
const (
	importReceived = "Relay-Received"
	importNumber   = "Relay-Number"
	importUIDL     = "Relay-Uidl"
	importDigest   = "Relay-Digest"
)

type importInput struct {
	DryChanging
	Upload
	User      string `path:"user"`
	OverQuota bool   `query:"over_quota" doc:"go on though the mailbox is full"`
	Line      uint64 `query:"line" doc:"line of the batch before; 0: this is the first"`
}

func (s *server) registerImport() {
	op := huma.Operation{
		Method: http.MethodPost, Path: "/v1/mailboxes/{user}/import",
		Summary: "Put old mail into a maildrop, many messages at a time",
		Description: "Each part is a message. Its header may have Relay-Received (RFC 3339), Relay-Number (how many " +
			"messages with the same octets came before it in the source), Relay-Uidl, and Relay-Digest (SHA-256 of " +
			"the message with CRLF line ends, in hexadecimal; needed from 256 KiB on). A message that was imported " +
			"in the last 30 days is known by octets and number and goes in once. The messages keep their order; the first " +
			"that does not fit ends the batch.",
	}
	defer s.accepts(op.Path, "multipart/mixed")
	handleOp(s, op, func(ctx context.Context, in *importInput) (*body[*ImportResult], error) {
		if in.kind != "multipart/mixed" || in.boundary == "" {
			return nil, Problem(http.StatusUnsupportedMediaType, "an import is multipart/mixed with a boundary", "")
		}
		parts := multipart.NewReader(in.content, in.boundary)
		o := ImportOptions{OverQuota: in.OverQuota, DryRun: in.DryRun, Line: in.Line}
		next := func() (*OldMessage, error) { return oldMessage(parts) }
		res, err := s.Ports.Content.ImportMail(ctx, in.by(ctx), in.User, o, next)
		// A client that still writes would not read the answer.
		_, _ = io.Copy(io.Discard, in.content)
		return answer(res, err)
	})
}

// oldMessage reads the next part.
func oldMessage(parts *multipart.Reader) (*OldMessage, error) {
	part, err := parts.NextRawPart()
	if errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	if err != nil {
		return nil, Invalid("the batch can not be read: %v", err)
	}
	m := &OldMessage{UIDL: part.Header.Get(importUIDL), Content: part}
	if m.Received, err = instant(part.Header.Get(importReceived)); err != nil {
		return nil, err
	}
	if text := part.Header.Get(importNumber); text != "" {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, Invalid("%s: %q is not a number", importNumber, text)
		}
		m.Number = uint32(n)
	}
	if text := part.Header.Get(importDigest); text != "" {
		if m.Digest, err = hex.DecodeString(text); err != nil || len(m.Digest) != 32 {
			return nil, Invalid("%s: %q is not a SHA-256 in hexadecimal", importDigest, text)
		}
	}
	return m, nil
}

// ImportMail implements Content. The batch is read into memory first, so that the
// next node can be tried; with By.Request set it may be sent again.
func (c *Client) ImportMail(
	ctx context.Context, by By, user string, o ImportOptions, next func() (*OldMessage, error),
) (*ImportResult, error) {
	var data bytes.Buffer
	parts := multipart.NewWriter(&data)
	for {
		m, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = writeOld(parts, m)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := parts.Close(); err != nil {
		return nil, err
	}
	r, err := changing(http.MethodPost, "/v1/mailboxes/"+url.PathEscape(user)+"/import", by, nil)
	if err != nil {
		return nil, err
	}
	r.flag("over_quota", o.OverQuota).flag("dry_run", o.DryRun)
	if o.Line > 0 {
		r.set("line", strconv.FormatUint(o.Line, 10))
	}
	r.kind, r.body = "multipart/mixed; boundary="+parts.Boundary(), data.Bytes()
	out := new(ImportResult)
	return out, c.call(ctx, r, out)
}

func writeOld(parts *multipart.Writer, m *OldMessage) error {
	h := textproto.MIMEHeader{"Content-Type": {"message/rfc822"}}
	set := func(name, value string, given bool) {
		if given {
			h[name] = []string{value}
		}
	}
	set(importReceived, m.Received.String(), !m.Received.IsZero())
	set(importNumber, strconv.FormatUint(uint64(m.Number), 10), m.Number > 0)
	set(importUIDL, m.UIDL, m.UIDL != "")
	set(importDigest, hex.EncodeToString(m.Digest), m.Digest != nil)
	for i := range len(m.UIDL) {
		if m.UIDL[i] < 0x21 || m.UIDL[i] > 0x7e {
			return fmt.Errorf("the unique id %q has characters that no POP3 client may see", m.UIDL)
		}
	}
	part, err := parts.CreatePart(h)
	if err == nil {
		_, err = io.Copy(part, m.Content)
	}
	return err
}
