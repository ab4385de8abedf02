package milter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	wire "github.com/emersion/go-milter"
	"go.uber.org/zap"

	"relay/smtp"
)

// Chain are filters in the order in which they are asked.
type Chain []*Filter

// Transaction is one message before all filters of a chain. A nil Transaction
// lets everything pass. Its methods belong to one goroutine; refusals are
// *smtp.Reply. It must be closed.
type Transaction struct {
	client  *Client
	talks   []*dialogue
	discard string   // the filter that wants it thrown away; empty: none
	refusal error    // found while the message flows, told at its end
	unasked []string // filters that did not answer, and need not
}

// Begin tells the filters of a client and of the sender of its message. On an
// error there is no transaction.
func (c Chain) Begin(ctx context.Context, client *Client, from string, args []string) (*Transaction, error) {
	if len(c) == 0 {
		return nil, nil
	}
	t := &Transaction{client: client}
	for _, f := range c {
		d, err := f.open(ctx)
		if err != nil {
			if err = t.failed(f, err); err != nil {
				t.Close()
				return nil, err
			}
			continue
		}
		t.talks = append(t.talks, d)
	}
	if err := t.introduce(ctx, from, args); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

func (t *Transaction) introduce(ctx context.Context, from string, args []string) error {
	return t.each(ctx, atCommand, func(d *dialogue) (*wire.Action, error) {
		if a, err := d.connect(t.client); err != nil || a.Code != wire.ActContinue {
			return a, err
		}
		if err := d.wire.Macros(wire.CodeHelo, d.secure(t.client)...); err != nil {
			return nil, err
		}
		if a, err := d.wire.Helo(t.client.Helo); err != nil || a.Code != wire.ActContinue {
			return a, err
		}
		_, host, _ := strings.Cut(from, "@")
		macros := append(d.secure(t.client), "{mail_addr}", from, "{mail_host}", host, "{mail_mailer}", "smtp")
		if u := t.client.User; u != "" {
			macros = append(macros, "{auth_authen}", u, "{auth_type}", "PLAIN")
		}
		if err := d.wire.Macros(wire.CodeMail, macros...); err != nil {
			return nil, err
		}
		return d.wire.Mail(from, args)
	})
}

// connect tells of the client's address.
func (d *dialogue) connect(c *Client) (*wire.Action, error) {
	address, port := c.Remote.Addr().Unmap(), strconv.Itoa(int(c.Remote.Port()))
	name, family := c.Name, wire.FamilyUnknown
	if name == "" && address.IsValid() {
		name = "[" + address.String() + "]"
	}
	switch {
	case address.Is4():
		family = wire.FamilyInet
	case address.Is6():
		family = wire.FamilyInet6
	}
	// Filters take {daemon_name} for the name of the host, which it is at Postfix,
	// and write it into Authentication-Results.
	err := d.wire.Macros(wire.CodeConn, "j", d.o.Host, "{daemon_name}", d.o.Host, "{if_name}", c.Listener, "v",
		"relay "+d.o.Version,
		"{client_addr}", address.String(), "{client_port}", port, "{client_name}", name, "{client_ptr}", name, "_", name)
	if err != nil {
		return nil, err
	}
	return d.wire.Conn(name, family, c.Remote.Port(), address.String())
}

// secure are the macros about TLS.
func (d *dialogue) secure(c *Client) []string {
	if c.TLS == "" {
		return nil
	}
	return []string{"{tls_version}", c.TLS, "{cipher}", c.Cipher}
}

// each asks all filters that still have a say.
func (t *Transaction) each(ctx context.Context, at stage, ask func(*dialogue) (*wire.Action, error)) error {
	for _, d := range t.talks {
		if d.silent || t.discard != "" {
			continue
		}
		a, err := d.do(ctx, func() (*wire.Action, error) { return ask(d) })
		if err != nil {
			d.silent = true
			if err = t.failed(d.Filter, err); err != nil {
				return err
			}
			continue
		}
		discard, err := d.judge(a, at)
		if discard {
			t.discard = d.o.Address
		}
		if err != nil {
			d.Stats.Refused.Add(1)
			d.o.Log.Info("refused by a content filter",
				append(t.fields(d.Filter), zap.String("stage", string(at)), zap.String("reply", err.Error()))...)
			return err
		}
	}
	return nil
}

// failed is the reply where a filter could not be asked; nil where the message
// passes without it.
func (t *Transaction) failed(f *Filter, err error) error {
	f.Stats.Failed.Add(1)
	f.o.Log.Warn("content filter does not answer", append(t.fields(f), zap.Bool("passes", f.o.Accept), zap.Error(err))...)
	if f.o.Accept {
		t.unasked = append(t.unasked, f.o.Address)
		return nil
	}
	return &smtp.Reply{Code: 451, Enhanced: "4.7.1", Text: "The message can not be checked now, try again later",
		Cause: err, Reason: "filter_failed"}
}

// fields say in the log whose message and which filter it is about.
func (t *Transaction) fields(f *Filter) []zap.Field {
	return []zap.Field{
		zap.String("filter", f.o.Address), zap.String("session", t.client.Session),
		zap.String("remote", t.client.Remote.String()),
	}
}

// Unasked are the addresses of the filters that could not be asked, or not to
// the end, about a message that passes all the same.
func (t *Transaction) Unasked() []string {
	if t == nil {
		return nil
	}
	return t.unasked
}

// Rcpt asks about one recipient; a refusal is of this one only.
func (t *Transaction) Rcpt(ctx context.Context, to string, args []string) error {
	if t == nil {
		return nil
	}
	_, host, _ := strings.Cut(to, "@")
	return t.each(ctx, atCommand, func(d *dialogue) (*wire.Action, error) {
		if err := d.wire.Macros(wire.CodeRcpt, "{rcpt_addr}", to, "{rcpt_host}", host, "{rcpt_mailer}", "smtp"); err != nil {
			return nil, err
		}
		return d.wire.Rcpt(to, args)
	})
}

// Header tells of the header section: whole fields, CRLF line ends.
func (t *Transaction) Header(ctx context.Context, id string, section []byte) {
	if t == nil {
		return
	}
	fields := Fields(section)
	t.flow(ctx, func(d *dialogue) (*wire.Action, error) {
		if err := d.wire.Macros(wire.CodeHeader, "i", id); err != nil {
			return nil, err
		}
		for _, f := range fields {
			name, value := split(f, d.wire.ProtocolOption(wire.OptHeaderLeadingSpace))
			if a, err := d.wire.HeaderField(name, value); err != nil || a.Code != wire.ActContinue {
				return a, err
			}
		}
		if err := d.wire.Macros(wire.CodeEOH, "i", id); err != nil {
			return nil, err
		}
		return d.wire.HeaderEnd()
	})
}

// Body tells of the next part of the body.
func (t *Transaction) Body(ctx context.Context, p []byte) {
	if t == nil {
		return
	}
	for len(p) > 0 {
		part := p[:min(len(p), wire.MaxBodyChunk)]
		p = p[len(part):]
		t.flow(ctx, func(d *dialogue) (*wire.Action, error) { return d.wire.BodyChunk(part) })
	}
}

// flow asks while the message comes; a refusal is kept for its end.
func (t *Transaction) flow(ctx context.Context, ask func(*dialogue) (*wire.Action, error)) {
	if t.refusal == nil {
		t.refusal = t.each(ctx, atMessage, ask)
	}
}

// Discarded reports whether the message is to be taken and thrown away, as far
// as is known.
func (t *Transaction) Discarded() bool { return t != nil && t.discard != "" }

// Verdict is what the filters want done with a message that passes.
type Verdict struct {
	Discard string   // the address of the filter that wants it taken and thrown away; empty: none does
	Add     []string // recipients
	Drop    []string
	Dropper string // the address of the last filter that takes recipients away
	Body    []byte // in place of the body; nil: it stays
	edits   []edit
	added   int // octets that edits may add to a header section
}

// MaxAdded bounds what Edit adds to the header section of a message, in octets.
const MaxAdded = 128 << 10

// Changes reports whether the header section is to be changed.
func (v *Verdict) Changes() bool { return v != nil && len(v.edits) > 0 }

// Wishes of a filter that can not be met.
var (
	errBody   = errors.New("a body as large as this can not be replaced")
	errFields = fmt.Errorf("it wants more than %d KiB of fields added", MaxAdded>>10)
)

// End tells of the message's end and returns the verdict, or the refusal. most
// is how large a body may be that takes the place of this one; 0: none may.
func (t *Transaction) End(ctx context.Context, id string, most int) (*Verdict, error) {
	v := &Verdict{}
	if t == nil {
		return v, nil
	}
	if t.refusal != nil {
		return nil, t.refusal
	}
	err := t.each(ctx, atMessage, func(d *dialogue) (*wire.Action, error) {
		if err := d.wire.Macros(wire.CodeEOB, "i", id); err != nil {
			return nil, err
		}
		d.conn.left += most + most/64 // the frames of a new body
		wishes, a, err := d.wire.End()
		if err != nil {
			return nil, err
		}
		d.Stats.Messages.Add(1)
		had := len(v.Drop)
		if err := v.take(wishes, most); err != nil {
			return nil, err
		}
		if len(v.Drop) > had {
			v.Dropper = d.o.Address
		}
		return a, nil
	})
	v.Discard = t.discard
	return v, err
}

// take notes what one filter wants, all of it or nothing.
func (v *Verdict) take(wishes []wire.ModifyAction, most int) error {
	var body []byte
	for _, w := range wishes {
		if w.Code == wire.ActReplBody {
			if body = append(body, w.Body...); len(body) > most || most == 0 {
				return errBody
			}
			if body == nil {
				body = []byte{}
			}
		}
	}
	wanted := &Verdict{added: v.added}
	for _, w := range wishes {
		switch w.Code {
		case wire.ActAddRcpt:
			wanted.Add = append(wanted.Add, bare(w.Rcpt))
		case wire.ActDelRcpt:
			wanted.Drop = append(wanted.Drop, bare(w.Rcpt))
		case wire.ActQuarantine:
			wanted.edit(edit{what: insert, name: "X-Quarantine", value: oneLine(w.Reason)})
		case wire.ActAddHeader:
			wanted.edit(edit{what: add, name: w.HeaderName, value: w.HeaderValue})
		case wire.ActInsertHeader:
			wanted.edit(edit{what: insert, at: int(min(w.HeaderIndex, 1<<20)), name: w.HeaderName, value: w.HeaderValue})
		case wire.ActChangeHeader:
			wanted.edit(edit{what: change, at: int(min(max(w.HeaderIndex, 1), 1<<20)), name: w.HeaderName, value: w.HeaderValue})
		}
	}
	if wanted.added > MaxAdded {
		return errFields
	}
	if body != nil {
		v.Body = body
	}
	v.Add, v.Drop = append(v.Add, wanted.Add...), append(v.Drop, wanted.Drop...)
	v.edits, v.added = append(v.edits, wanted.edits...), wanted.added
	return nil
}

func (v *Verdict) edit(e edit) {
	if !fieldName(e.name) {
		return
	}
	v.edits = append(v.edits, e)
	if e.value != "" || e.what != change {
		v.added += len(e.line())
	}
}

// bare is an address without what may stand around it.
func bare(rcpt string) string {
	rcpt = strings.TrimSpace(rcpt)
	if i := strings.IndexByte(rcpt, '<'); i >= 0 {
		rcpt = strings.TrimLeft(rcpt[i+1:], "<")
	}
	rcpt, _, _ = strings.Cut(rcpt, ">")
	return rcpt
}

// Close ends the dialogues, wherever they are.
func (t *Transaction) Close() {
	if t == nil {
		return
	}
	for _, d := range t.talks {
		d.close(true)
	}
	t.talks = nil
}

// Fields cuts a header section into fields with their line ends. A line that is no
// field, an empty line for example, ends it.
func Fields(section []byte) [][]byte {
	var all [][]byte
	for len(section) > 0 {
		end := 0
		for {
			i := bytes.IndexByte(section[end:], '\n')
			if i < 0 {
				end = len(section)
				break
			}
			if end += i + 1; end == len(section) || section[end] != ' ' && section[end] != '\t' {
				break
			}
		}
		name, _, ok := bytes.Cut(section[:end], []byte(":"))
		if !ok || !fieldName(string(bytes.TrimRight(name, " \t"))) {
			break
		}
		all = append(all, section[:end:end])
		section = section[end:]
	}
	return all
}

// split is a field as the protocol has it: lines end in LF, and the blank
// behind the colon goes unless the filter wants to see it.
func split(field []byte, blank bool) (name, value string) {
	n, v, _ := bytes.Cut(field, []byte(":"))
	value = strings.ReplaceAll(strings.TrimSuffix(string(v), "\r\n"), "\r\n", "\n")
	if !blank {
		value = strings.TrimPrefix(value, " ")
	}
	return string(bytes.TrimRight(n, " \t")), value
}

func fieldName(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == ':' {
			return false
		}
	}
	return s != ""
}
