package inbound

import (
	"context"
	"errors"
	"io"
	"strings"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/plan"
	"relay/node/replica"
)

// Local is a message that an operator hands in, as a trusted client would. It belongs
// to one goroutine.
type Local struct {
	mail    *mailer
	confirm *replica.Confirmer
	env     envelope
}

// NewLocal begins a message of a sender whose address is whole, or empty. client stands
// in its trace field, detail in its history.
func (s *Service) NewLocal(sender string, client *pb.Client, detail string) *Local {
	return &Local{mail: s.mail, confirm: s.conf.Confirm, env: envelope{
		sender: sender, fixUp: true, options: pb.Message{Ours: true}, detail: detail, client: client,
	}}
}

// Rcpt adds a recipient. A refusal is an *smtp.Reply, after which the message goes on
// without the recipient; an error that wraps replica.ErrUnsure says that nobody can tell
// whether the recipient is there.
func (l *Local) Rcpt(ctx context.Context, address string) error {
	var r plan.Recipient
	err := l.confirm.Confirm(ctx, func(v spool.View) (err error) {
		if r.Address, err = directory.Qualify(v, strings.TrimSpace(address)); err != nil {
			return err
		}
		r.Targets, _, err = directory.Resolve(v, r.Address)
		return err
	})
	switch {
	case errors.Is(err, replica.ErrUnsure):
		return err
	case err != nil:
		return mapError(err)
	}
	l.env.rcpts = append(l.env.rcpts, r)
	return nil
}

// Accept takes the message in for the recipients that were added, of which there is at
// least one. When it returns nil a majority has the message on disk under the id; an
// error that wraps cluster.ErrUnknown leaves that open.
func (l *Local) Accept(ctx context.Context, message io.Reader) (id string, err error) {
	return l.mail.accept(ctx, &l.env, message)
}
