package inbound

import (
	"context"
	"fmt"
	"time"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica"
	"relay/node/srs"
	"relay/node/statelog"
)

// commit proposes the Accept: the instant at which the message exists.
func (in *intake) commit(ctx context.Context) error {
	h := in.plan
	h.Detail, h.Inline = in.detail(), in.state == bodyInline
	in.report(h)
	if err := in.fit(ctx, h); err != nil {
		return err
	}
	if h.Inline {
		in.share()
		in.read(in.buf)
		in.size = uint64(len(in.buf))
		in.tail = lastTwo(nil, in.buf)
	}
	in.readAll()
	in.number(ctx, in.dedupKey(in.recipients()), h.Inline)
	unended, err := in.unended()
	if err != nil {
		return err
	}
	in.fillBody(h, unended)
	for {
		h.Twin = numbered(in.key, in.env.receipt.n)
		res, err := in.propose(ctx, h)
		if err != nil {
			return err
		}
		switch res.Code {
		case pb.Code_OK:
			in.logAccepted(h)
			in.mailer.copied.Add(int64(len(in.copied)))
			return nil
		case pb.Code_DUPLICATE:
			if !in.again(ctx, res) {
				in.repeated(res.Id)
				return nil
			}
			if !h.Inline {
				in.state = bodyDropped
				return errMeantTwice
			}
		case pb.Code_MISSING:
			return fmt.Errorf("%w: %s", errGone, res.Text)
		case pb.Code_OVER_LIMIT:
			return fmt.Errorf("%w: %s", errSpent, res.Text)
		case pb.Code_OVER_QUOTA:
			if !in.withoutFull(h, res.Drops) {
				return errFull
			}
		default:
			return fmt.Errorf("accept refused: %s %s", res.Code, res.Text)
		}
	}
}

func (in *intake) propose(ctx context.Context, h *pb.Accept) (*pb.Result, error) {
	if len(h.Recipients)+len(h.Drops) == 0 && len(h.Notices) > 0 {
		return in.proposeReport(ctx, h)
	}
	if in.took != nil {
		defer in.took(time.Now())
	}
	h.Epoch = in.replica.Epoch()
	if h.Inline {
		if n := len(in.buf); n > smallestBuffer {
			in.sends(n)
			defer in.flying.Add(-int64(n))
		}
		return replica.Propose(ctx, in.replica, spool.KindAccept, h, in.buf)
	}
	return replica.Propose(ctx, in.replica, spool.KindAccept, h)
}

// unended reports whether the message ends otherwise than by CRLF, where the
// cluster keeps that on record. DATA always ends so; BDAT need not.
func (in *intake) unended() (is bool, err error) {
	if string(lastTwo(lastTwo(nil, in.top), in.tail)) == "\r\n" {
		return false, nil
	}
	return is, in.replica.View(func(v spool.View) error {
		record, _, err := v.Cluster()
		is = spool.VersionOf(record) >= 2
		return err
	})
}

// fillBody fills in what is known of the body when all of it was read.
func (in *intake) fillBody(h *pb.Accept, unended bool) {
	digest := in.digest.Sum(nil)
	chunks := in.chunks
	if h.Inline {
		chunks = 1
	}
	for _, one := range append([]*pb.Accept{h}, h.Copies...) {
		m := in.message()
		m.Id, m.Sender = one.Message.Id, one.Message.Sender
		m.Size, m.Digest, m.DigestTop, m.Chunks = in.size, digest, uint64(max(len(in.top), len(in.last))), chunks
		m.Unended = unended
		if one != h && !srs.Is(m.Sender) {
			m.Envid, m.Ret = "", "" // RFC 3461 §5.2.7.3: a list's mail begins anew
		}
		one.Message = m
	}
	if a := in.env.account; a != nil && a.SendLimitDay > 0 {
		h.Spender, h.Spends, h.SpendLimit = a.Address, uint32(len(in.env.rcpts)), a.SendLimitDay
	}
}

// recipients are the addresses as the client gave them.
func (in *intake) recipients() []string {
	if in.given != nil {
		return in.given
	}
	all := make([]string, 0, len(in.env.rcpts))
	for i := range in.env.rcpts {
		all = append(all, in.env.rcpts[i].Address)
	}
	return all
}

func (in *intake) message() *pb.Message {
	o := &in.env.options
	return &pb.Message{
		Id: in.id[:], CreatedMs: in.now.UnixMilli(), Sender: in.env.sender,
		MessageId: in.head.MessageID, Client: in.env.client,
		Smtputf8: o.Smtputf8, Body: o.Body, Ret: o.Ret, Envid: o.Envid, Requiretls: o.Requiretls,
		DeliverByMs: o.DeliverByMs, DeliverByReturn: o.DeliverByReturn, DeliverByTrace: o.DeliverByTrace,
		HoldUntilMs: o.HoldUntilMs, Priority: o.Priority, Ours: o.Ours,
	}
}

// logAccepted tells what was committed: of a message to nobody here that is its
// report alone.
func (in *intake) logAccepted(h *pb.Accept) {
	if len(h.Recipients)+len(h.Drops) == 0 && len(h.Notices) > 0 {
		statelog.LogNotice(in.log, h.Notices[0])
		return
	}
	statelog.LogAccepted(in.log, h, in.recipients())
}
