package outbound

import (
	"context"
	"errors"
	"time"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/replica"
	"relay/queue"
)

// mailboxAgent is the agent for mailboxes whose mail had to wait (FUTURERELEASE). It
// only judges whether a mailbox may have the message: the Settle that commits the
// verdict puts it there, in the same step. Everything else goes to remote.
//
// FUTURERELEASE holds for mailboxes as for remote recipients: they wait in the queue under the route
// mailbox, whose agent judges account and quota when the time has come, and the Settle puts
// the message there (package spool). A mailbox that is gone by then is a bounce, a full one is tried
// again until the queue gives up.
type mailboxAgent struct {
	remote  queue.Agent
	confirm *replica.Confirmer
}

// NewMailboxAgent makes the agent; a job for no mailbox goes to remote.
func NewMailboxAgent(remote queue.Agent, confirm *replica.Confirmer) queue.Agent {
	return &mailboxAgent{remote, confirm}
}

// Deliver implements queue.Agent.
func (b *mailboxAgent) Deliver(ctx context.Context, job *queue.Job) []queue.Verdict {
	if job.Route != spool.MailboxRoute {
		return b.remote.Deliver(ctx, job)
	}
	verdicts := make([]queue.Verdict, len(job.Recipients))
	for i := range job.Recipients {
		verdicts[i] = b.judge(ctx, job, job.Recipients[i].N)
		// the manager makes it its own time
		verdicts[i].Ref, verdicts[i].At = queue.Ref{ID: job.ID, Recipient: job.Recipients[i].N}, time.Now()
	}
	return verdicts
}

func (b *mailboxAgent) judge(ctx context.Context, job *queue.Job, n uint32) (verdict queue.Verdict) {
	err := b.confirm.Confirm(ctx, func(v spool.View) error {
		r, ok, err := v.Recipient(spool.ID(job.ID), n)
		if err != nil || !ok {
			verdict = queue.Verdict{Outcome: queue.Deferred, Reply: "4.3.0 the recipient is gone"}
			return err // the spool will say so, too
		}
		verdict, err = judgeDrop(v, r.Drop, uint64(job.Size))
		return err
	})
	switch {
	case errors.Is(err, directory.ErrNoUser):
		return queue.Verdict{Outcome: queue.Failed, Reply: "5.1.1 there is no such user any more"}
	case errors.Is(err, directory.ErrDisabled):
		return queue.Verdict{Outcome: queue.Failed, Reply: "5.2.1 the mailbox is disabled"}
	case err != nil: // as the node lost its session, for example: then nothing was tried
		return queue.Verdict{Outcome: queue.Deferred, Untried: ctx.Err() != nil,
			Reply: "4.3.0 the mailbox could not be looked at: " + err.Error()}
	}
	return verdict
}

// judgeDrop says what becomes of a message of a size at a mailbox. If there is no
// mailbox, or a disabled one, the error is directory.ErrNoUser or ErrDisabled.
func judgeDrop(v spool.View, d *pb.Drop, size uint64) (queue.Verdict, error) {
	account, ok, err := v.Account(d.GetMailbox())
	switch {
	case err != nil:
		return queue.Verdict{}, err
	case !ok:
		return queue.Verdict{}, directory.ErrNoUser
	case account.Disabled:
		return queue.Verdict{}, directory.ErrDisabled
	}
	box, _, err := v.Mailbox(account.Address)
	if err != nil {
		return queue.Verdict{}, err
	}
	if account.QuotaMessages > 0 && box.Messages >= account.QuotaMessages ||
		account.QuotaBytes > 0 && box.Bytes+size+uint64(len(d.Header)) > account.QuotaBytes {
		return queue.Verdict{Outcome: queue.Deferred, Reply: "4.2.2 the mailbox is full"}, nil
	}
	return queue.Verdict{
		Outcome: queue.Delivered, Final: true, Reply: "2.1.5 put into the mailbox", Host: "mailbox " + account.Address,
	}, nil
}
