package node

import (
	"context"
	"time"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/queue"
)

// boxes is the agent for mailboxes whose mail had to wait (FUTURERELEASE). It
// only judges whether a mailbox may have the message: the Settle that commits the
// verdict puts it there, in the same step. Everything else goes to remote.
type boxes struct {
	remote  queue.Agent
	replica replica
}

// Deliver implements queue.Agent.
func (b *boxes) Deliver(ctx context.Context, job *queue.Job) []queue.Verdict {
	if job.Route != spool.MailboxRoute {
		return b.remote.Deliver(ctx, job)
	}
	verdicts := make([]queue.Verdict, len(job.Recipients))
	for i := range job.Recipients {
		verdicts[i] = b.judge(job, job.Recipients[i].N)
		verdicts[i].Ref, verdicts[i].At = queue.Ref{ID: job.ID, Recipient: job.Recipients[i].N}, time.Now()
	}
	return verdicts
}

func (b *boxes) judge(job *queue.Job, n uint32) (verdict queue.Verdict) {
	err := b.replica.View(func(v spool.View) error {
		r, ok, err := v.Recipient(spool.ID(job.ID), n)
		if err != nil || !ok {
			verdict = queue.Verdict{Outcome: queue.Deferred, Reply: "4.3.0 the recipient is gone"}
			return err // the spool will say so, too
		}
		verdict, err = judgeDrop(v, r.Drop, uint64(job.Size))
		return err
	})
	if err != nil {
		return queue.Verdict{Outcome: queue.Deferred, Reply: "4.3.0 the mailbox could not be looked at: " + err.Error()}
	}
	return verdict
}

// judgeDrop says what becomes of a message of a size at a mailbox.
func judgeDrop(v spool.View, d *pb.Drop, size uint64) (queue.Verdict, error) {
	failed := func(reply string) (queue.Verdict, error) {
		return queue.Verdict{Outcome: queue.Failed, Reply: reply}, nil
	}
	account, ok, err := v.Account(d.GetMailbox())
	switch {
	case err != nil:
		return queue.Verdict{}, err
	case !ok:
		return failed("5.1.1 there is no such user any more")
	case account.Disabled:
		return failed("5.2.1 the mailbox is disabled")
	}
	box, _, err := v.Mailbox(account.Address)
	if err != nil {
		return queue.Verdict{}, err
	}
	if account.QuotaMessages > 0 && box.Messages >= account.QuotaMessages ||
		account.QuotaBytes > 0 && box.Bytes+size+uint64(len(d.Header)) > account.QuotaBytes {
		return queue.Verdict{Outcome: queue.Deferred, Reply: "4.2.2 the mailbox is full"}, nil
	}
	return queue.Verdict{Outcome: queue.Delivered, Final: true, Reply: "2.1.5 put into the mailbox", Host: "mailbox " + account.Address}, nil
}
