package inbound

import (
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	"relay/node/directory"
	"relay/node/plan"
	"relay/node/wording"
	"relay/smtp/printable"
)

// address plans where the message goes. It leaves out targets that lead to a mailbox
// that the message has been in.
func (in *intake) address() {
	in.plan = (&plan.Transaction{
		ID: in.id, Sender: in.env.sender, Recipients: in.env.rcpts, HoldUntilMs: in.env.options.HoldUntilMs,
		Now: in.now, Skip: in.loops, Forward: in.forward,
	}).Accept()
}

// forward is the sender of what an alias leads elsewhere. If it can not be read it stays: mail is not lost for that.
func (in *intake) forward() (sender string) {
	sender = in.env.sender
	err := in.replica.View(func(v spool.View) (err error) {
		sender, err = directory.Sender(v, in.env.sender, in.now)
		return err
	})
	if err != nil {
		in.log.Warn("cannot rewrite the sender of forwarded mail", zap.String("sender", in.env.sender), zap.Error(err))
		return in.env.sender
	}
	return sender
}

// later reports whether nothing of the message may arrive anywhere yet (RFC 4865).
func (in *intake) later() bool {
	until := in.env.options.HoldUntilMs
	return until > 0 && until > in.now.UnixMilli()
}

// ids are those of the message and of its copies.
func (in *intake) ids() [][]byte {
	ids := [][]byte{in.id[:]}
	if in.plan != nil {
		for _, c := range in.plan.Copies {
			ids = append(ids, c.Message.Id)
		}
	}
	return ids
}

// detail says in the history what was asked for besides delivery.
func (in *intake) detail() string {
	o := &in.env.options
	var words []string
	add := func(on bool, format string, args ...any) {
		if on {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	at := func(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }
	add(in.env.detail != "", "%s", in.env.detail)
	add(in.env.waited > 0, "greylisted for %s", wording.Span(in.env.waited))
	add(o.HoldUntilMs > 0, "held until %s as its sender wished", at(o.HoldUntilMs))
	add(o.Priority != 0, "priority %d", o.Priority)
	add(o.DeliverByMs != 0 && o.DeliverByReturn, "to be delivered by %s or returned", at(o.DeliverByMs))
	add(o.DeliverByMs != 0 && !o.DeliverByReturn, "to be delivered by %s", at(o.DeliverByMs))
	add(o.Requiretls, "TLS required")
	add(in.found != "", "%s", in.found)
	add(len(in.looped) > 0, "not again into %s", wording.Some(in.looped, 5))
	add(len(in.dropped) > 0, "without %s, as %s wished", wording.Some(in.dropped, 5), in.discarder)
	unasked := in.env.filter.Unasked()
	add(len(unasked) > 0, "not seen by the content filter %s, which did not answer", strings.Join(unasked, ", "))
	return printable.Text(strings.Join(words, ", "), 4096) // filters, signatures and lists have their words in it
}
