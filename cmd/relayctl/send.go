package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"relay/node/admin"
	"relay/smtp/mailaddr"
)

// sendFlags say what is sent and how.
type sendFlags struct {
	letter   admin.Letter
	to       []string
	headers  []string
	data     string
	count    int
	verbose  bool
	smtp     smtpFlags
	password password
}

func (a *app) sendCmd() *cobra.Command {
	var f sendFlags
	c := &cobra.Command{
		Use:   "send",
		Short: "Submit a message",
		Long: `Send submits a message: over the admin API, or with --smtp over SMTP as a mail
program would. It is composed of --subject, --body and --header, or taken whole
from --data ('-' reads standard input, as does --body -). With -v the dialogue
is shown on standard error. It exits 1 where any recipient was refused.`,
		Example: `  relayctl send --from alice@example.test --to bob@example.test --subject hello --body hi
  relayctl send --from alice@example.test --to x@example.org --data message.eml -v --smtp 127.0.0.1:12125`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := f.prepare(a, c); err != nil {
				return err
			}
			if f.smtp.addr != "" {
				return a.sendSMTP(c.Context(), &f)
			}
			return a.do(c, func(ctx context.Context, client *admin.Client) error { return a.sendAPI(ctx, client, &f) })
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.letter.From, "from", "", "sender's address; '' or <> for the null path")
	fl.StringArrayVar(&f.to, "to", nil, "recipients, several with commas or by repeating it")
	fl.StringVar(&f.letter.Subject, "subject", "Test message", "subject")
	fl.StringVar(&f.letter.Text, "body", "Sent by relayctl.", "text; - reads standard input")
	fl.StringArrayVar(&f.headers, "header", nil, "further header field, 'Name: value'")
	fl.StringVar(&f.data, "data", "", "`FILE` with the whole message; - reads standard input")
	fl.IntVar(&f.count, "count", 1, "send it so many times")
	fl.BoolVarP(&f.verbose, "verbose", "v", false, "show the dialogue")
	f.smtp.flags(c)
	f.password.flags(c)
	_ = fl.MarkHidden("hashed")
	_ = c.MarkFlagRequired("from")
	_ = c.MarkFlagRequired("to")
	return c
}

// prepare checks the flags and reads what they name.
func (f *sendFlags) prepare(a *app, c *cobra.Command) error {
	f.letter.To = addresses(f.to)
	f.letter.From = strings.TrimSuffix(strings.TrimPrefix(f.letter.From, "<"), ">")
	for _, part := range []string{"body", "subject", "header"} {
		if err := exclusive(c, "data", part); err != nil {
			return err
		}
	}
	if f.count < 1 {
		return usagef("--count %d is less than 1", f.count)
	}
	if err := f.smtp.check(c); err != nil {
		return err
	}
	f.letter.Headers = map[string]string{}
	for _, h := range f.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return usagef("--header %q is not 'Name: value'", h)
		}
		f.letter.Headers[name] = strings.TrimSpace(value)
	}
	if err := checkEnvelope(f.letter.From, f.letter.To); err != nil {
		return err
	}
	if f.letter.Text == "-" || f.data == "-" {
		text, err := io.ReadAll(a.stdin)
		if err != nil {
			return fmt.Errorf("standard input can not be read: %w", err)
		}
		if f.data == "-" && len(text) == 0 {
			return errors.New("there is no message on standard input")
		}
		if f.data == "-" {
			f.data = string(text)
			return nil
		}
		f.letter.Text = string(text)
		return nil
	}
	if f.data != "" {
		text, err := os.ReadFile(f.data)
		if err != nil {
			return fmt.Errorf("the message can not be read: %w", err)
		}
		if len(text) == 0 {
			return fmt.Errorf("there is no message in %s", clean(f.data))
		}
		f.data = string(text)
	}
	return nil
}

// checkEnvelope refuses what is no address. A bare local part is the server's to
// complete.
func checkEnvelope(from string, to []string) error {
	if len(to) == 0 {
		return usagef("--to names no recipient")
	}
	for i, one := range append([]string{from}, to...) {
		if i == 0 && one == "" {
			continue
		}
		full := one
		if !strings.Contains(one, "@") {
			full += "@local.invalid"
		}
		if _, err := mailaddr.Parse(full); err != nil {
			return usagef("%q is not an address", one)
		}
	}
	return nil
}

// addresses cuts lists at commas outside quotes.
func addresses(lists []string) (all []string) {
	for _, list := range lists {
		quoted := false
		for _, one := range strings.FieldsFunc(list, func(r rune) bool {
			if r == '"' {
				quoted = !quoted
			}
			return r == ',' && !quoted
		}) {
			if one = strings.TrimSpace(one); one != "" {
				all = append(all, strings.TrimSuffix(strings.TrimPrefix(one, "<"), ">"))
			}
		}
	}
	return all
}

// message returns the next message; composed ones each have a Message-ID.
func (f *sendFlags) message(now time.Time) ([]byte, error) {
	if f.data != "" {
		return []byte(f.data), nil
	}
	text, err := f.letter.Compose(now)
	if err != nil {
		return nil, usageError{err}
	}
	return text, nil
}

func (a *app) sendAPI(ctx context.Context, client *admin.Client, f *sendFlags) error {
	e := admin.Envelope{Sender: f.letter.From, Recipients: f.letter.To}
	return a.sendAll(f, func() (*admin.Receipt, error) {
		m, err := f.message(a.now())
		if err != nil {
			return nil, err
		}
		r, err := client.Send(ctx, a.by(), e, bytes.NewReader(m))
		if err == nil && f.verbose {
			for _, line := range r.Dialogue {
				a.note("%s", clean(line))
			}
		}
		return r, err
	})
}

// sendAll sends as often as asked for and shows what became of it: one object,
// or with --count a list.
func (a *app) sendAll(f *sendFlags, send func() (*admin.Receipt, error)) error {
	out, refused := stream{a: a}, errors.New("")
	refusals := 0
	began, bar := a.now(), a.bar()
	for i := range f.count {
		r, err := send()
		if err != nil {
			if i > 0 {
				err = fmt.Errorf("after %s: %w", count(i, "message"), err)
			}
			return err
		}
		for _, to := range r.Recipients {
			if !to.Accepted {
				refusals++
				refused = fmt.Errorf("%s was refused: %s", to.Address, to.Reply)
			}
		}
		switch {
		case a.output == "table" && f.count == 1:
			a.showReceipt(r)
		case a.output == "table":
		case f.count == 1:
			err = a.emit(r, nil)
		default:
			err = out.add(r)
		}
		if err != nil {
			return err
		}
		bar(i+1, f.count, a.now().Sub(began))
	}
	if f.count > 1 {
		if a.output != "table" {
			if err := out.end(); err != nil {
				return err
			}
		}
		took := a.now().Sub(began)
		a.say("%s accepted in %s.", count(f.count, "message"), took.Round(time.Millisecond))
	}
	if refusals > 0 {
		return refused
	}
	return nil
}

func (a *app) showReceipt(r *admin.Receipt) {
	taken := 0
	for _, to := range r.Recipients {
		if to.Accepted {
			taken++
		}
	}
	a.say("%s accepted by %s: %s, %s.", clean(r.ID), clean(r.Node), size(r.Size), count(taken, "recipient"))
}

// bar shows progress on a terminal, on work of over two seconds.
func (a *app) bar() func(done, of int, took time.Duration) {
	file, ok := a.stderr.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return func(int, int, time.Duration) {}
	}
	last := time.Duration(0)
	return func(done, of int, took time.Duration) {
		switch {
		case took < 2*time.Second:
		case done == of:
			fmt.Fprint(a.stderr, "\r\x1b[K")
		case took-last > 200*time.Millisecond:
			last = took
			const width = 30
			full := width * done / of
			fmt.Fprintf(a.stderr, "\r[%s%s] %d/%d", strings.Repeat("=", full), strings.Repeat(" ", width-full), done, of)
		}
	}
}
