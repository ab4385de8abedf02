package operator

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/plan"
	"relay/node/routing"
	"relay/node/wording"
	"relay/queue"
	"relay/queue/replyclass"
	"relay/queue/retry"
)

// whyMost bounds the recipients of one message that are explained one by one.
const whyMost = 20

// messageDetail is what is read of one waiting message to show and explain it.
type messageDetail struct {
	*waitingMail
	message    *pb.Message
	recipients []*pb.Recipient // in the order of mail.Recipients
	hops       []string
	held       map[string]*pb.Event // the latest hold of each recipient
	accepted   uint64               // log index
	adopted    *pb.Shard
	expires    time.Time
	rules      map[uint64]*pb.Rule
	replies    *replyclass.Table
	now        time.Time
}

// Message implements admin.Queue.
func (o *Operator) Message(ctx context.Context, text string) (*admin.QueueDetail, error) {
	id, err := o.message(ctx, text)
	if err != nil {
		return nil, err
	}
	s, err := o.newScan(ctx, admin.QueueFilter{})
	if err != nil {
		return nil, err
	}
	var d *messageDetail
	err = o.Replica.Frozen(func(v spool.View, _ uint64) error { d, err = readDossier(v, s, id); return err })
	if err != nil {
		return nil, err
	}
	refs := make([]queue.Ref, min(len(d.n), whyMost))
	for i := range refs {
		refs[i] = queue.Ref{ID: queue.ID(id), Recipient: d.n[i]}
	}
	classify(s.replies, d.mail.Recipients)
	detail := &admin.QueueDetail{
		QueueMessage: d.mail, MessageID: d.message.MessageId, Client: originOf(d.message.Client),
		Expires: admin.At(d.expires), Route: d.hops, LastHost: make([]string, len(d.recipients)),
		Why: d.explain(o.whyOf(ctx, d.mail.Owner, refs)), Replicas: o.holders(ctx, d.accepted),
	}
	for i, r := range d.recipients {
		detail.LastHost[i] = r.LastHost
	}
	return detail, nil
}

func readDossier(v spool.View, s *queueScan, id spool.ID) (*messageDetail, error) {
	one, err := s.pick(v, id)
	if err != nil {
		return nil, err
	}
	d := &messageDetail{waitingMail: one, now: s.now, held: map[string]*pb.Event{}, replies: s.replies}
	var ok bool
	if d.message, ok, err = v.Message(id); err != nil {
		return nil, err
	}
	if !ok {
		return nil, admin.NotFound("message", id.String())
	}
	if one == nil {
		return nil, admin.Problem(404, fmt.Sprintf("nothing of message %s waits any more", id),
			fmt.Sprintf("'relayctl trace %s' shows what became of it", id))
	}
	settings, err := v.Settings()
	if err != nil {
		return nil, err
	}
	ts, err := v.TimeState()
	if err != nil {
		return nil, err
	}
	d.rules = map[uint64]*pb.Rule{}
	for _, r := range s.rules.Rules() {
		d.rules[r.Id] = r
	}
	d.adopted = s.owners.Adoption(d.message.Home, id)
	if err := d.readRecipients(v); err != nil {
		return nil, err
	}
	d.expires = d.expiry(plan.Mended(d.message, ts), settings)
	events, err := v.History(id)
	for _, e := range events {
		switch e.What {
		case "accepted":
			d.accepted = e.Index
		case "held":
			d.held[e.Recipient] = e
		}
	}
	return d, err
}

func (d *messageDetail) readRecipients(v spool.View) error {
	hops, mail := map[string]string{}, routing.Of(d.message)
	for i, n := range d.n {
		r, ok, err := v.Recipient(d.id, n)
		if err != nil {
			return err
		}
		if !ok {
			r = &pb.Recipient{Address: d.mail.Recipients[i].Address}
		}
		d.recipients = append(d.recipients, r)
		hop := r.Route
		if hop == "" {
			domain := spool.DomainOf(r.Address)
			if hop, ok = hops[domain]; !ok {
				if hop, err = hopOf(v, domain, mail); err != nil {
					return err
				}
				hops[domain] = hop
			}
		}
		d.hops = append(d.hops, hop)
	}
	return nil
}

// HopOf is what the routes for all senders say about a domain.
func HopOf(v spool.View, domain string) (string, error) { return hopOf(v, domain, routing.Mail{}) }

func hopOf(v spool.View, domain string, mail routing.Mail) (string, error) {
	route, ok, err := routing.In(v, domain, mail)
	if err != nil || !ok {
		return "mx", err
	}
	if k := routing.KeyOf(route); !k.Plain() {
		return fmt.Sprintf("%s (route %s)", route.Target, k), nil
	}
	return route.Target, nil
}

// expiry is when the queue gives the message up, for the first of its recipients.
func (d *messageDetail) expiry(m *pb.Message, s *pb.Settings) (first time.Time) {
	own, _ := retry.Parse(s.GetRetryRules())
	if !own.Ages() {
		return plan.Expiry(m, s, 0)
	}
	for _, r := range d.recipients {
		end := plan.Expiry(m, s, own.Of(spool.DomainOf(r.Address), replyclass.None).Lifetime)
		if first.IsZero() || end.Before(first) {
			first = end
		}
	}
	return first
}

func originOf(c *pb.Client) admin.Origin {
	return admin.Origin{
		Node: c.GetNode(), Address: c.GetAddress(), Helo: c.GetHelo(), TLS: c.GetTls(), User: c.GetUser(),
		Protocol: c.GetProtocol(), Session: c.GetSession(),
	}
}

// explain says why a message waits and what happens next. said is what the
// owner's queue manager says of the first recipients.
func (d *messageDetail) explain(said []string) []string {
	var lines []string
	switch owner := d.mail.Owner; {
	case owner == "":
		lines = append(lines, "No live node owns it at the moment; it is handed to one as soon as a node's session begins.")
	case d.adopted.GetAdoptedFrom() != "" && d.adopted.AdoptedFrom != owner:
		lines = append(lines,
			fmt.Sprintf("Node %s is to deliver it; it took it over from %s at %s.", owner, d.adopted.AdoptedFrom,
				wording.Instant(time.UnixMilli(d.adopted.AdoptedMs), d.now)))
	default:
		lines = append(lines, fmt.Sprintf("Node %s is to deliver it.", owner))
	}
	trying := false
	for i := range d.recipients {
		if i == whyMost {
			lines = append(lines, fmt.Sprintf("%s more wait as well.", wording.Counted(uint64(len(d.recipients)-i),
				"recipient")))
			break
		}
		words := ""
		if i < len(said) {
			words = said[i]
		}
		lines = append(lines, d.recipient(i, words))
		state := d.recipients[i].State
		trying = trying || d.mail.Recipients[i].State != admin.StateHeld &&
			(state == pb.State_QUEUED || state == pb.State_DEFERRED)
	}
	lines = append(lines, d.advice()...)
	if !trying && len(d.recipients) <= whyMost {
		return lines
	}
	if slices.ContainsFunc(said, func(words string) bool { return strings.Contains(words, "the limit of ") }) {
		return append(lines, "While it waits for a limit it is not given up, and nobody hears that it is late: "+
			"'relayctl limit ls' shows the limits.")
	}
	report := "the sender gets a report"
	if d.mail.Sender == "" {
		report = "nobody is told, because it has no sender"
	}
	return append(lines, fmt.Sprintf("The queue gives up at %s; then %s.", wording.Instant(d.expires, d.now), report))
}

// recipient says in sentences how one recipient stands.
func (d *messageDetail) recipient(i int, said string) string {
	seen, r := d.mail.Recipients[i], d.recipients[i]
	text := seen.Address + ": "
	ruled := d.ruleWords(seen.Rule)
	switch seen.State {
	case admin.StateActive:
		return text + fmt.Sprintf("is being tried right now by node %s (attempt %d, by %s).", d.mail.Owner,
			r.Attempts+1, d.hops[i])
	case admin.StateHeld:
		if ruled != "" {
			return text + ruled
		}
		text += "held" + d.holder(r) + fmt.Sprintf("; it waits until 'relayctl queue release %s'.", d.id)
	case admin.StateSuspended:
		if ruled != "" {
			return text + ruled
		}
		text += "suspended: a rule stops its destination; it goes on when the rule ends."
	case admin.StateQueued:
		text += "not tried yet; " + d.due(r, i)
	default:
		text += d.failure(r) + " The next attempt " + d.due(r, i)
	}
	if ruled != "" {
		text += " It is " + ruled
	}
	parked := seen.State == admin.StateHeld || seen.State == admin.StateSuspended
	if said != "" && !parked && !strings.HasPrefix(said, "due at ") { // that is said already
		text += " The queue manager says: " + said + "."
	}
	return text
}

func (d *messageDetail) holder(r *pb.Recipient) string {
	e := d.held[r.Address]
	if e == nil {
		return ""
	}
	text := ""
	if e.Who != "" {
		text = " by " + e.Who
	}
	text += " at " + wording.Instant(time.UnixMilli(e.AtMs), d.now)
	if e.Why != "" {
		text += " (" + e.Why + ")"
	}
	return text
}

func (d *messageDetail) failure(r *pb.Recipient) string {
	text := fmt.Sprintf("attempt %d failed", r.Attempts)
	if r.LastMs > 0 {
		text += " at " + wording.Instant(time.UnixMilli(r.LastMs), d.now)
	}
	switch {
	case r.LastReply == "":
		return text + "."
	case r.LastHost == "":
		return text + ": " + r.LastReply + "."
	case !isReply(r.LastReply):
		return text + " with " + r.LastHost + ": " + r.LastReply + "."
	}
	return text + ": " + r.LastHost + " said " + r.LastReply + "."
}

// isReply reports whether a text is a host's reply, which has its code, and not what
// the relay says of a host that gave none.
func isReply(text string) bool {
	code, _, _ := strings.Cut(text, " ")
	n, err := strconv.Atoi(code)
	return err == nil && n >= 200 && n < 600
}

func (d *messageDetail) due(r *pb.Recipient, i int) string {
	at, way := time.UnixMilli(r.NextMs), "by "+d.hops[i]
	if r.Route == spool.MailboxRoute {
		way = "for the mailbox " + r.Drop.GetMailbox()
	}
	if at.After(d.now) {
		return fmt.Sprintf("is due at %s, %s.", wording.Instant(at, d.now), way)
	}
	return fmt.Sprintf("has been due since %s, %s: it goes as soon as its turn comes.", wording.Instant(at, d.now), way)
}

// Open implements admin.Queue.
func (o *Operator) Open(ctx context.Context, text string) (io.ReadCloser, int64, error) {
	id, err := o.message(ctx, text)
	if err != nil {
		return nil, 0, err
	}
	var refs *pb.Refs
	err = o.Replica.View(func(v spool.View) error {
		var ok bool
		if refs, ok, err = v.Refs(id); err != nil || ok {
			return err
		}
		if _, ok, err = v.Message(id); err != nil {
			return err
		}
		if !ok {
			return admin.NotFound("message", id.String())
		}
		return admin.Problem(404, fmt.Sprintf("message %s is finished, and its content is deleted", id),
			fmt.Sprintf("'relayctl trace %s' shows what became of it", id))
	})
	if err != nil {
		return nil, 0, err
	}
	body, err := o.Replica.OpenBody(id, refs.Chunks, nil)
	return body, int64(refs.Bytes), err
}
