package inbound

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/config"
	"relay/node/directory"
	"relay/node/milter"
	"relay/node/plan"
	"relay/node/replica"
	"relay/node/statelog"
	"relay/node/tlscert"
	"relay/smtp"
	"relay/smtp/printable"
)

// errDiscarded: a content filter wants the message taken and thrown away.
var errDiscarded = errors.New("discarded by a content filter")

var (
	replyFilterHeader = &smtp.Reply{
		Code: 552, Enhanced: "5.3.4", Text: fmt.Sprintf("Header section over %d KiB", spool.MaxInline>>10),
		Reason: "too_large",
	}
	replyFilterLarge = &smtp.Reply{
		Code: 451, Enhanced: "4.7.1", Text: "The message is too large for what a filter wants changed, try again later",
		Reason: "filter",
	}
)

// filter is one content filter and the listeners whose mail it sees.
//
// [[milter]] names filters that speak the protocol of Sendmail and Postfix; package milter holds the
// dialogues. One connection to each filter for each transaction: it hears of client and sender at
// MAIL, of each recipient at RCPT, and of header and body while they stream, in parts of 64 KiB. It
// may refuse or put off at every step, and at the end have fields added, inserted, changed or removed,
// recipients added or removed, or the message thrown away. That is answered 250 when a Discard is
// committed: its id has a history, with each recipient as deleted and the filter that wished it, kept
// as long as any; of its body no more goes into the log once it is known. It does not see our own
// Received; a field inserted at 0 stands above that, at 1 below. Quarantine is a field X-Quarantine on
// top: the use of it is the mailbox's affair, and nothing gets stuck.
//
// A filter that does not answer puts mail off with 451 4.7.1 (on_failure = "tempfail"), or is passed
// by, which the message's history says; nothing is ever lost by it. Of a message over 256 KiB the top
// is held back (DESIGN.md), so fields can be changed at every size; the octets that filters may add to
// one are bounded (128 KiB), more is a filter that fails. Its body has gone ahead: where another one
// is wanted it is put off. Refusals work at every size, recipients where no list's copies are under
// way. Sender changes are not offered: an account's right to a sender address was checked at MAIL.
// Library: emersion/go-milter, beside d--j/go-milter, its fork: smaller, and released more recently;
// it takes no context, so a dialogue's connection is closed where one ends.
type filter struct {
	*milter.Filter
	roles []config.Role // empty: all
}

// newFilters makes the filters of a node. None is asked before there is mail.
func newFilters(list []config.Milter, hostname, version string, log *zap.Logger) ([]filter, error) {
	var all []filter
	for _, c := range list {
		f, err := milter.New(milter.Options{
			Address: c.Address, Timeout: time.Duration(c.Timeout), Accept: c.OnFailure == config.FailAccept,
			Host: hostname, Version: version, Log: log.Named("milter"),
		})
		if err != nil {
			return nil, fmt.Errorf("[[milter]] address: %w", err)
		}
		all = append(all, filter{f, c.Roles})
	}
	return all, nil
}

// chain is what mail at a listener of a role goes through.
func chain(all []filter, role config.Role) (c milter.Chain) {
	for _, f := range all {
		if len(f.roles) == 0 || slices.Contains(f.roles, role) {
			c = append(c, f.Filter)
		}
	}
	return c
}

// filtered begins a transaction with the content filters.
func (s *session) filtered(ctx context.Context, o *smtp.MailOptions) (err error) {
	if len(s.filters) == 0 {
		return nil
	}
	c := &milter.Client{
		Session: s.peer.Session, Remote: s.peer.Remote, Name: s.peer.Name, Helo: s.peer.Helo, User: s.peer.User,
		Listener: string(s.role),
	}
	if t := s.peer.TLS; t != nil {
		c.TLS, c.Cipher = tlscert.TLSNames(t)
	}
	s.env.filter, err = s.filters.Begin(ctx, c, s.env.sender, mailArguments(o))
	return err
}

// mailArguments are the parameters of MAIL that filters care for.
func mailArguments(o *smtp.MailOptions) (args []string) {
	if o == nil {
		return nil
	}
	if o.Size > 0 {
		args = append(args, "SIZE="+strconv.FormatInt(o.Size, 10))
	}
	if o.Body != smtp.Body7Bit {
		args = append(args, "BODY="+o.Body.String())
	}
	if o.UTF8 {
		args = append(args, "SMTPUTF8")
	}
	return args
}

// endTransaction gives up what a transaction holds.
func (s *session) endTransaction() {
	if s.env != nil {
		s.env.filter.Close()
		s.env.screen.close()
		s.env = nil
	}
}

// beginFilter is the stage that shows the filters the header section and as much of the
// text as is at hand. Our own trace field they do not see.
func (in *intake) beginFilter(ctx context.Context) error {
	f := in.env.filter
	if f == nil {
		return nil
	}
	if !in.headerSeen() {
		return replyFilterHeader // its end is out of sight
	}
	sent := in.sent()
	fields, text := parts(sent)
	f.Header(ctx, in.id.String(), sent[:fields])
	f.Body(ctx, sent[text:])
	return nil
}

func (in *intake) passFilter(ctx context.Context, p []byte) { in.env.filter.Body(ctx, p) }

// endFilter asks the filters for their verdict and carries it out.
func (in *intake) endFilter(ctx context.Context) error {
	f := in.env.filter
	if f == nil {
		return nil
	}
	most := 0
	if in.state == bodyInline {
		most = spool.MaxInline
	}
	in.given = in.recipients()
	v, err := f.End(ctx, in.id.String(), most)
	switch {
	case err != nil:
		return err
	case v.Discard != "":
		in.discarder = "the content filter " + v.Discard
		return errDiscarded
	case len(v.Add)+len(v.Drop) > 0:
		if err := in.readdress(ctx, v); err != nil {
			return err
		}
	}
	if v.Changes() || v.Body != nil {
		in.edit(v)
	}
	return nil
}

// withCRLF brings the line ends of a new body into the form in which messages are kept.
func withCRLF(b []byte) []byte {
	out := make([]byte, 0, len(b)+2)
	for i, c := range b {
		switch {
		case c == '\n' && (i == 0 || b[i-1] != '\r'):
			out = append(out, '\r', '\n')
		case c == '\r' && (i+1 == len(b) || b[i+1] != '\n'):
			out = append(out, '\r', '\n')
		default:
			out = append(out, c)
		}
	}
	return out
}

// discard commits the history of a message that a filter has thrown away: a message
// that the client hears 250 of can be traced, whatever became of it.
func (in *intake) discard(ctx context.Context) error {
	m := in.message()
	m.Size = in.size + uint64(len(in.buf)+len(in.top))
	in.number(ctx, in.dedupKey(in.given), true)
	discard := func() (*pb.Result, error) {
		return replica.Propose(ctx, in.replica, spool.KindDiscard, &pb.Discard{
			Message: m, Recipients: in.given, By: in.discarder, Detail: in.detail(), Bodies: in.ids(),
			Twin: numbered(in.key, in.env.receipt.n),
		})
	}
	res, err := discard()
	if err == nil && res.Code == pb.Code_DUPLICATE && in.again(ctx, res) {
		res, err = discard()
	}
	switch {
	case err != nil:
		return err
	case res.Code == pb.Code_DUPLICATE:
		in.repeated(res.Id)
	case res.Code != pb.Code_OK:
		return fmt.Errorf("discard refused: %s %s", res.Code, res.Text)
	}
	in.log.Info("discarded", zap.String("id", in.id.String()), zap.String("who", in.discarder),
		zap.String("sender", m.Sender),
		statelog.RecipientsField(in.given), zap.Int("recipient_count", len(in.given)), zap.Uint64("size", m.Size),
		zap.String("message_id", m.MessageId), zap.String("session", m.Client.GetSession()),
		zap.String("remote", m.Client.GetAddress()))
	return nil
}

// readdress adds and takes away recipients. It is the filter's word, so nothing
// is asked of them but that they exist. Copies of a large message that lists send on
// have gone ahead under the names planned before, which therefore must stay.
func (in *intake) readdress(ctx context.Context, v *milter.Verdict) error {
	env := in.env
	for _, address := range v.Drop {
		env.rcpts = slices.DeleteFunc(env.rcpts, func(r plan.Recipient) bool {
			drop := directory.Canonical(r.Address) == directory.Canonical(address)
			if drop {
				in.dropped = append(in.dropped, r.Address)
			}
			return drop
		})
	}
	in.discarder = "the content filter " + v.Dropper
	err := in.replica.View(func(view spool.View) error {
		for _, address := range v.Add {
			r := plan.Recipient{Address: address}
			var err error
			if r.Address, err = directory.Qualify(view, address); err != nil {
				return err
			}
			if r.Targets, _, err = directory.Resolve(view, r.Address); err != nil {
				return fmt.Errorf("a content filter adds the recipient %s: %w", printable.Text(address, 255), err)
			}
			env.rcpts = append(env.rcpts, r)
		}
		return nil
	})
	switch {
	case err != nil:
		return &smtp.Reply{Code: 451, Enhanced: "4.3.0", Text: "Local error in processing, try again", Cause: err}
	case len(env.rcpts) == 0:
		return errDiscarded
	}
	if err := in.checkLoops(ctx); err != nil {
		return err
	}
	byLists := len(in.plan.Copies) - len(in.copied)
	ahead := in.state != bodyInline
	if ahead && byLists > 0 {
		return replyFilterLarge
	}
	if in.address(); ahead && len(in.plan.Copies) > 0 {
		return replyFilterLarge
	}
	return in.copyByRule()
}
