package plan

import (
	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/replica"
	"relay/queue"
	"relay/queue/bounce"
)

// ReportLimit bounds what a report returns of the message, in octets.
const ReportLimit = 64 << 10

// NewNotice makes the Accept of a report: into the mailbox of a local sender, or
// into the queue with the null reverse-path (RFC 5321 §4.5.5). Nil: a local
// sender does not exist (any more), nobody is told; the history says what the
// report would have said.
func NewNotice(r replica.Replica, node string, n *queue.Notice, requireTLS bool, log *zap.Logger) *pb.Notice {
	now := r.Now()
	id := replica.NewID(now)
	h := &pb.Accept{Message: &pb.Message{
		Id: id[:], CreatedMs: now.UnixMilli(), Size: uint64(len(n.Body)), Chunks: 1, Smtputf8: n.UTF8, Requiretls: requireTLS,
		Client: &pb.Client{Node: node, Address: "local", Protocol: "BOUNCE"}, Body: bodyType(n.Body),
	}, Detail: "report on " + ulid.ULID(n.About).String()}
	var targets []directory.Target
	err := r.View(func(v spool.View) (err error) {
		targets, _, err = directory.Resolve(v, n.To)
		return err
	})
	if err != nil {
		log.Info("notice has no recipient", zap.Stringer("id", ulid.ULID(n.About)), zap.String("to", n.To), zap.Error(err))
		return nil
	}
	plan := (&Transaction{Recipients: []Recipient{{Address: n.To, Targets: targets, Notify: queue.NotifyNever}}}).Accept()
	h.Recipients, h.Drops = plan.Recipients, plan.Drops
	for _, d := range h.Drops {
		d.QuotaBytes, d.QuotaMessages = 0, 0 // a report is small, and lost is worse
	}
	if len(h.Drops)+len(h.Recipients) == 0 {
		return nil
	}
	return &pb.Notice{About: n.About[:], Accept: h, Body: n.Body}
}

// Template is the text of notices by the settings. One of a newer build that this one can not read does not count.
func Template(s *pb.Settings) *bounce.Template {
	t, _ := bounce.ParseTemplate(s.GetNoticeTemplate())
	return t
}

// TemplateNow is the text of notices by the settings as they are now.
func TemplateNow(r replica.Replica) (t *bounce.Template) {
	err := r.View(func(v spool.View) error {
		s, err := v.Settings()
		t = Template(s)
		return err
	})
	if err != nil {
		return nil // the built-in text is better than no notice
	}
	return t
}

// bodyType says how a message of our own is to be announced (RFC 6152 §3).
func bodyType(message []byte) pb.Body {
	for _, c := range message {
		if c >= 0x80 {
			return pb.Body_BODY_8BITMIME
		}
	}
	return pb.Body_BODY_7BIT
}
