package outbound

import (
	"fmt"
	"time"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/srs"
	"relay/queue"
	"relay/smtp/printable"
)

// suppressionHost stands in the history in place of a host.
const suppressionHost = "suppression list"

// suppressions has recipients refused that are on the suppression list of their sender's domain.
func (o *Spool) suppressions(v spool.View, job *queue.Job) error {
	if !o.suppressing.Load() || job.Sender == "" || srs.Is(job.Sender) {
		return nil
	}
	_, domain := directory.SplitAddress(job.Sender)
	now := o.replica.Now().UnixMilli()
	for i := range job.Recipients {
		r := &job.Recipients[i]
		s, ok, err := v.Suppressed(domain, directory.Canonical(r.Address), now)
		if err != nil {
			return err
		}
		if ok {
			job.Ruled = true
			r.Ruling = &queue.Ruling{Act: queue.Refuse, Reply: suppressedReply(s), Host: suppressionHost}
		}
	}
	return nil
}

// suppressedReply says why nothing is sent, for the history and for the sender.
func suppressedReply(s *pb.Suppressed) string {
	day := func(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.DateOnly) }
	text := fmt.Sprintf("5.1.1 not tried: on the suppression list of %s from %s to %s", s.Domain, day(s.SinceMs),
		day(s.ExpiresMs))
	if s.Reply != "" {
		text += "; last: " + s.Reply
	}
	return text
}

// suppress adds to verdicts which addresses nobody has, where the sender's domain wants to hear of it. A host has said
// so for good, of this recipient and no other; what a rule or an operator ends says nothing of the address.
func (o *Spool) suppress(verdicts []queue.Verdict, records []*pb.Verdict) {
	var ask []int
	for i := range verdicts {
		v := &verdicts[i]
		if v.Outcome == queue.Failed && v.Rule == 0 && v.ThisOne && o.replies.Load().Nobody(v.Reply) {
			ask = append(ask, i)
		}
	}
	if len(ask) == 0 {
		return
	}
	err := o.replica.View(func(view spool.View) error {
		for _, i := range ask {
			s, err := toSuppress(view, &verdicts[i])
			if err != nil {
				return err
			}
			records[i].Suppress = s
		}
		return nil
	})
	if err != nil {
		o.log.Warn("cannot tell whose mail is to go to an address no more, it goes on: " + err.Error())
	}
}

// toSuppress is what the list is to say; nil: the sender's domain does not want any, or the mail is not of its own.
func toSuppress(v spool.View, verdict *queue.Verdict) (*pb.Suppressed, error) {
	m, ok, err := v.Message(spool.ID(verdict.ID))
	if err != nil || !ok || !own(m) {
		return nil, err
	}
	_, domain := directory.SplitAddress(m.Sender)
	d, ok, err := v.Domain(domain)
	if err != nil || !ok || d.SuppressMs <= 0 {
		return nil, err
	}
	r, ok, err := v.Recipient(spool.ID(verdict.ID), verdict.Recipient)
	if err != nil || !ok {
		return nil, err
	}
	return &pb.Suppressed{Domain: domain, Address: directory.Canonical(r.Address), LifeMs: d.SuppressMs,
		Reply: printable.Text(verdict.Reply, 300)}, nil
}

// own reports whether the sender of a message is what it says: somebody known has handed it in. A stranger who forges
// one, and whose mail an alias leads elsewhere, would put addresses on the list of a domain that is not his.
func own(m *pb.Message) bool {
	return m.Sender != "" && (m.Ours || m.GetClient().GetUser() != "") && !srs.Is(m.Sender)
}
