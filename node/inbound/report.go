package inbound

import (
	"bytes"
	"context"
	"io"
	"slices"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/plan"
	"relay/node/replica"
	"relay/queue"
	"relay/queue/bounce"
)

const sampleSize = 16 << 10 // of a large message, kept for its reports

// report adds what the sender is to be told right away: success at mailboxes
// and lists, where asked for (RFC 3461 §5.2), and recipients that do not exist.
func (in *intake) report(h *pb.Accept) {
	if in.env.sender == "" {
		return
	}
	var reached, failed []bounce.Recipient
	for i := range in.env.rcpts {
		r := &in.env.rcpts[i]
		one := bounce.Recipient{Address: r.Address, Original: r.Original, Last: in.now}
		one, refused := in.refused(r, one)
		switch {
		case refused:
			if r.WantsFailure() {
				failed = append(failed, one)
			}
		case r.Notify&queue.NotifySuccess != 0 && in.final(r, &one):
			reached = append(reached, one)
		}
	}
	in.addReport(h, bounce.Success, reached, "")
	subject := ""
	if len(in.looped) == 0 {
		subject = unknownSubject
	}
	in.addReport(h, bounce.Failure, failed, subject)
}

// unknownSubject is what senders know from relays that accept first.
const unknownSubject = "ERROR - Your email was not sent"

// final reports whether this recipient goes no further under its sender's eyes.
func (in *intake) final(r *plan.Recipient, one *bounce.Recipient) bool {
	switch {
	case len(r.Targets) == 1 && r.Targets[0].Owner == "" && in.later():
		return false // the queue reports when it is there
	case len(r.Targets) == 1 && r.Targets[0].Mailbox != "":
		one.Action, one.Status, one.Reply = bounce.Delivered, "2.1.5", "put into the mailbox"
	case len(r.Targets) == 1 && r.Targets[0].Owner == "":
		return false // forwarded; the host that gets it reports
	case slices.ContainsFunc(r.Targets, func(t directory.Target) bool { return t.Owner != "" }):
		one.Action, one.Status, one.Reply = bounce.Delivered, "2.1.5", "given to the list"
	default:
		one.Action, one.Status, one.Reply = bounce.Expanded, "2.1.5", "passed on to several"
	}
	return true
}

func (in *intake) addReport(h *pb.Accept, kind bounce.Kind, about []bounce.Recipient, subject string) {
	if len(about) == 0 || in.env.sender == "" {
		return
	}
	o := &in.env.options
	ret := o.Ret
	if kind == bounce.Success || o.Requiretls {
		ret = "HDRS" // RFC 3461 §4.3, RFC 8689 §5
	}
	sample := in.beginning()
	body, utf8 := bounce.Write(&bounce.Report{
		Kind: kind, Template: plan.TemplateNow(in.replica), Hostname: in.hostname, ID: in.id.String(), To: in.env.sender,
		Subject: subject, EnvID: o.Envid,
		Arrived: in.now, Now: in.now, Recipients: about, Ret: ret, UTF8: o.Smtputf8,
		Binary: o.Body == pb.Body_BODY_BINARYMIME,
		Size:   int64(in.size) + int64(len(in.buf)), Limit: plan.ReportLimit,
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(sample)), nil },
	})
	n := &queue.Notice{About: queue.ID(in.id), To: in.env.sender, Body: body, UTF8: utf8}
	if one := plan.NewNotice(in.replica, in.node, n, o.Requiretls, in.log); one != nil {
		h.Notices = append(h.Notices, one)
	}
}

// withoutFull takes out the mailboxes that have no room and tells the sender.
// False: nothing would be left, or nobody could be told.
func (in *intake) withoutFull(h *pb.Accept, full []uint32) bool {
	if in.env.sender == "" || len(full) == 0 || len(full) == len(h.Drops) && len(h.Recipients) == 0 {
		return false
	}
	var failed []bounce.Recipient
	var left []*pb.Drop
	for i, d := range h.Drops {
		if !slices.Contains(full, uint32(i)) {
			left = append(left, d)
			continue
		}
		r := in.addressed(d)
		failed = append(failed, bounce.Recipient{
			Address: r.Address, Original: r.Original, Action: bounce.Failed, Status: "5.2.2",
			Reply: "the mailbox is full", Last: in.now,
		})
	}
	before := len(h.Notices)
	in.addReport(h, bounce.Failure, failed, "")
	if len(h.Notices) == before {
		return false
	}
	h.Drops = left
	return true
}

// addressed is the recipient, as the client gave it, that led to a mailbox: where
// it leads is no business of the sender's.
func (in *intake) addressed(d *pb.Drop) *plan.Recipient {
	for i := range in.env.rcpts {
		r := &in.env.rcpts[i]
		if slices.ContainsFunc(r.Targets, func(t directory.Target) bool { return t.Mailbox == d.Mailbox }) {
			return r
		}
	}
	return &plan.Recipient{Address: d.Recipient}
}

// withoutSuccess takes the wish for reports of success away: the client that asked for
// them is not one that SPF says may send as the sender, and the sender did not ask.
func (in *intake) withoutSuccess() {
	for i := range in.env.rcpts {
		in.env.rcpts[i].Notify = plan.WithoutSuccess(in.env.rcpts[i].Notify)
	}
	for _, h := range append([]*pb.Accept{in.plan}, in.plan.Copies...) {
		for _, r := range h.Recipients {
			r.Notify = plan.WithoutSuccess(r.Notify)
		}
	}
}

// proposeReport stands for a message of which nothing is left but its report.
func (in *intake) proposeReport(ctx context.Context, h *pb.Accept) (*pb.Result, error) {
	n := h.Notices[0]
	n.Accept.Inline, n.Accept.Epoch, n.Accept.Twin = true, in.replica.Epoch(), h.Twin
	n.Accept.Detail = "report on a message to nobody here, " + in.id.String()
	n.Accept.Message.BounceOf = in.id[:]
	res, err := replica.Propose(ctx, in.replica, spool.KindAccept, n.Accept, n.Body)
	if err == nil && res.Code == pb.Code_OK {
		in.abort()
		copy(in.id[:], n.Accept.Message.Id)
	}
	return res, err
}
