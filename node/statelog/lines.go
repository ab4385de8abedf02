// Package statelog writes one log line for each change of a message's state, at the node
// that made it. LOG.md of package node has the names and the fields.
package statelog

import (
	"time"

	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"

	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
)

// Every change of a message's state is one line of the log of the node that made
// it: the change's name as the message, and the message's id as "id". LOG.md has
// the names and the fields; they are an interface.

// lineAddresses bounds the addresses in one line.
const lineAddresses = 100

// IDField is the id of a record.
func IDField(key string, raw []byte) zap.Field {
	var id ulid.ULID
	copy(id[:], raw)
	return zap.String(key, id.String())
}

// RecipientsField lists addresses; behind the first hundred it only counts.
func RecipientsField(all []string) zap.Field {
	return zap.Strings("recipients", all[:min(len(all), lineAddresses)])
}

// LogAccepted tells of an Accept that was applied, of each mailbox that it put the
// message into, and of the copies and reports that were made with it. given are
// the recipients as the client named them.
//
// 2026-11-29, state changes: logged by the node that proposes, when the command is applied, as LOG.md
// promises; a test holds its tables against the code. Rejected: logging in Apply (every node would,
// and again at each start).
func LogAccepted(log *zap.Logger, h *pb.Accept, given []string) {
	if !log.Core().Enabled(zap.InfoLevel) {
		return
	}
	lineAccepted(log, h, given)
	for _, one := range h.Copies {
		lineAccepted(log, one, addressesOf(one), IDField("copy_of", h.Message.Id))
	}
	for _, n := range h.Notices {
		LogNotice(log, n)
	}
}

// LogNotice tells of a report that was made.
func LogNotice(log *zap.Logger, n *pb.Notice) {
	lineAccepted(log, n.Accept, addressesOf(n.Accept), IDField("report_on", n.About))
}

func addressesOf(h *pb.Accept) []string {
	all := make([]string, 0, len(h.Recipients)+len(h.Drops))
	for _, r := range h.Recipients {
		all = append(all, r.Address)
	}
	for _, d := range h.Drops {
		all = append(all, d.Recipient)
	}
	return all
}

func lineAccepted(log *zap.Logger, h *pb.Accept, to []string, more ...zap.Field) {
	m := h.Message
	c := m.GetClient()
	fields := append(make([]zap.Field, 0, 16), IDField("id", m.GetId()), zap.String("sender", m.GetSender()),
		RecipientsField(to), zap.Int("recipient_count", len(to)), zap.Uint64("size", m.GetSize()),
		zap.String("message_id", m.GetMessageId()), zap.String("remote", c.GetAddress()))
	for _, f := range [...]struct{ key, value string }{
		{"session", c.GetSession()}, {"helo", c.GetHelo()}, {"user", c.GetUser()}, {"protocol", c.GetProtocol()},
		{"tls", c.GetTls()}, {"detail", h.Detail},
	} {
		if f.value != "" {
			fields = append(fields, zap.String(f.key, f.value))
		}
	}
	if m.HoldUntilMs > 0 {
		fields = append(fields, zap.Time("hold_until", time.UnixMilli(m.HoldUntilMs)))
	}
	log.Info("accepted", append(fields, more...)...)
	for _, d := range h.Drops {
		log.Info("delivered", IDField("id", m.GetId()), zap.String("sender", m.GetSender()),
			zap.String("recipient", d.Recipient), zap.String("mailbox", d.Mailbox))
	}
}

// managedWords names what an operator's actions do to a message.
func managedWord(verb pb.Action) string {
	switch verb {
	case pb.Action_HOLD:
		return "held"
	case pb.Action_RELEASE:
		return "released"
	case pb.Action_RETRY:
		return "retried"
	case pb.Action_REROUTE:
		return "rerouted"
	case pb.Action_BOUNCE:
		return "bounced"
	}
	return "removed"
}

// LogManaged tells of what an operator did to a message.
func LogManaged(log *zap.Logger, verb pb.Action, id []byte, to []string, by admin.By, more ...zap.Field) {
	fields := append(make([]zap.Field, 0, 8), IDField("id", id), RecipientsField(to),
		zap.Int("recipient_count", len(to)), zap.String("who", by.Who), zap.String("why", by.Why))
	log.Info(managedWord(verb), append(fields, more...)...)
}

// LogSwept tells of what left mailboxes otherwise than by an operator's or a POP3
// session's word to this node: by age, with its account, or as one of very many.
func LogSwept(log *zap.Logger, all []*pb.Removed) {
	for _, gone := range all {
		for ids := gone.Ids; len(ids) >= len(ulid.ULID{}); ids = ids[len(ulid.ULID{}):] {
			log.Info("removed", IDField("id", ids), zap.String("mailbox", gone.Mailbox),
				zap.String("who", gone.Who), zap.String("why", gone.Why))
		}
	}
}
