package operator

import (
	"context"
	"fmt"
	"strings"
	"time"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/operator/edit"
	"relay/node/operator/ids"
	"relay/queue/replyclass"
)

// Bounds of Find: messages looked at, and histories read for recipients.
const (
	findScan    = 2000000
	findHistory = 200000
	findLimit   = 100
	findMost    = 1000
)

// Trace implements admin.History.
func (o *Operator) Trace(ctx context.Context, text string) (*admin.Trace, error) {
	id, err := o.message(ctx, text)
	if err != nil {
		return nil, err
	}
	s, err := o.newScan(ctx, admin.QueueFilter{})
	if err != nil {
		return nil, err
	}
	var t *admin.Trace
	err = o.Replica.Frozen(func(v spool.View, _ uint64) error {
		m, ok, err := v.Message(id)
		if err != nil {
			return err
		}
		if !ok {
			return admin.NotFound("message", id.String())
		}
		t, err = readTrace(v, s, id, m)
		return err
	})
	return t, err
}

// readTrace puts a message's timeline together.
func readTrace(v spool.View, s *queueScan, id spool.ID, m *pb.Message) (*admin.Trace, error) {
	events, err := v.History(id)
	if err != nil {
		return nil, err
	}
	t := &admin.Trace{
		ID: id.String(), MessageID: m.MessageId, Created: admin.AtMs(m.CreatedMs), Sender: m.Sender, Size: m.Size,
		Client: originOf(m.Client), Recipients: []admin.QueueRecipient{}, Events: make([]admin.TraceEvent, len(events)),
	}
	fates := &fates{at: map[string]int{}, replies: s.replies}
	for i, e := range events {
		t.Events[i] = traceEvent(s.replies, e)
		fates.event(e)
	}
	s.ruled = m
	err = v.Recipients(id, func(n uint32, r *pb.Recipient) {
		t.Owner = s.owners.Node(s.owners.Of(r.Home, id))
		seen := s.recipient(id, n, r)
		seen.Class = s.replies.Of(seen.LastReply).String()
		*fates.of(r.Address) = seen
	})
	t.Recipients = append(t.Recipients, fates.all...)
	return t, err
}

// Timeline returns what makes a line of the API of an event, with the classes of replies as they are set now.
func Timeline(v spool.View) (func(*pb.Event) admin.TraceEvent, error) {
	replies, err := replyTable(v)
	return func(e *pb.Event) admin.TraceEvent { return traceEvent(replies, e) }, err
}

func traceEvent(replies *replyclass.Table, e *pb.Event) admin.TraceEvent {
	return admin.TraceEvent{
		At: admin.AtMs(e.AtMs), What: e.What, Node: e.Node, Recipient: e.Recipient, Attempt: e.Attempt, Host: e.Host,
		TLS: e.Tls, Reply: e.Reply, Class: eventClass(replies, e), NextAttempt: admin.AtMs(e.NextMs),
		MaybeDuplicate: e.MaybeDuplicate, Who: e.Who, Why: e.Why, Detail: e.Detail, Bounce: ids.Text(e.Bounce),
		Index: e.Index,
	}
}

// fates works out from a timeline how each recipient stands.
type fates struct {
	all []admin.QueueRecipient
	at  map[string]int

	replies *replyclass.Table
}

func (f *fates) of(address string) *admin.QueueRecipient {
	i, ok := f.at[address]
	if !ok {
		i = len(f.all)
		f.at[address] = i
		f.all = append(f.all, admin.QueueRecipient{
			Address: address, Domain: spool.DomainOf(address), State: admin.StateQueued,
		})
	}
	return &f.all[i]
}

func (f *fates) event(e *pb.Event) {
	if e.Recipient == "" {
		return
	}
	r := f.of(e.Recipient)
	switch e.What {
	case "delivered", "deferred", "bounced", "expired":
		r.State, r.LastReply, r.LastAttempt, r.NextAttempt = e.What, e.Reply, admin.AtMs(e.AtMs), admin.AtMs(e.NextMs)
		r.Class = eventClass(f.replies, e)
		// A mailbox takes a message at once, without an attempt of its own.
		r.Attempts = max(r.Attempts, e.Attempt)
	case "deleted", "redirected":
		r.State, r.NextAttempt = e.What, admin.Time{}
	case "discarded": // on its way in
		r.State, r.LastReply, r.NextAttempt = admin.StateDeleted, "discarded "+e.Detail, admin.Time{}
	case "held":
		r.State, r.NextAttempt = e.What, admin.AtMs(e.NextMs)
	case "released", "retried", "rerouted":
		r.NextAttempt = admin.AtMs(e.NextMs)
		if r.State == admin.StateHeld {
			r.State = admin.StateQueued
			if r.Attempts > 0 {
				r.State = admin.StateDeferred
			}
		}
	}
	// "removed" is the user's doing: the message had been delivered.
}

// Find implements admin.History. If recipients are asked for it tells their
// lines only. It goes back from the newest message and
// looks at no more than findScan messages, and where recipients are asked for
// at no more than findHistory that match otherwise. An error says so where
// that ends the search with nothing found.
func (o *Operator) Find(ctx context.Context, q admin.TraceQuery) ([]admin.Trace, error) {
	q.MessageID = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(q.MessageID), "<"), ">")
	if q.Limit <= 0 {
		q.Limit = findLimit
	}
	q.Limit = min(q.Limit, findMost)
	s, err := o.newScan(ctx, admin.QueueFilter{})
	if err != nil {
		return nil, err
	}
	f := &finder{query: q, queueScan: s, scan: findScan, histories: findHistory, found: []admin.Trace{}}
	ended, err := o.search(ctx, f)
	if err == nil && len(f.found) == 0 && ended {
		return nil, edit.InThisState(
			fmt.Sprintf("nothing matches back to %s, and the search ended there", f.reached.UTC().Format(time.RFC3339)),
			"ask for the Message-ID or the sender, or trace the id that the client was told")
	}
	return f.found, err
}

// search goes back through what a finder is to look at. It reports whether it
// ended before all of that was seen.
func (o *Operator) search(ctx context.Context, f *finder) (ended bool, err error) {
	q := &f.query
	floor, err := o.firstMessage(q.Since.Time)
	if err != nil || floor.IsZero() {
		return false, err
	}
	newest := ids.Last()
	if !q.Until.IsZero() { // with a minute to spare, as ids are made by the clocks of several nodes
		newest = ids.At(q.Until.Add(time.Minute))
	}
	if q.Before != "" {
		before, err := messageID(q.Before)
		if err != nil {
			return false, err
		}
		if before.Compare(newest) < 0 {
			newest = before
		}
	}
	err = backward(ctx, o.Now(), floor, newest, func(lo, hi spool.ID, most int) (seen int, more bool, err error) {
		err = o.Replica.View(func(v spool.View) error { seen, more, err = f.stretch(ctx, v, lo, hi, most); return err })
		return seen, more, err
	})
	return f.scan <= 0 || f.histories <= 0, err
}

// firstMessage is the id of the oldest message that is known and was accepted
// at or after an instant; zero where there is none.
func (o *Operator) firstMessage(since time.Time) (first spool.ID, err error) {
	from := spool.ID{}
	if !since.IsZero() {
		from = ids.At(since)
	}
	err = o.Replica.View(func(v spool.View) error {
		return v.Messages(from, ids.Last(), func(id spool.ID, _ *pb.Message) bool { first = id; return false })
	})
	return first, err
}

// finder looks through stretches of messages.
type finder struct {
	query     admin.TraceQuery
	queueScan *queueScan
	scan      int // messages that may still be looked at
	histories int
	found     []admin.Trace
	reached   time.Time
	count     *admin.Count // only this is wanted
}

func (f *finder) stretch(ctx context.Context, v spool.View, lo, hi spool.ID,
	most int) (seen int, more bool, err error) {
	type candidate struct {
		id spool.ID
		m  *pb.Message
	}
	var list []candidate
	err = v.Messages(lo, hi, func(id spool.ID, m *pb.Message) bool {
		if seen++; seen > most {
			return false
		}
		if f.matches(m) {
			list = append(list, candidate{id, m})
		}
		return true
	})
	if err != nil || seen > most {
		return seen, true, err
	}
	f.scan -= seen
	f.reached = ids.Time(lo)
	for i := len(list) - 1; i >= 0 && len(f.found) < f.query.Limit && f.histories > 0 && ctx.Err() == nil; i-- {
		f.reached = ids.Time(list[i].id)
		f.histories--
		if f.count != nil && f.query.To == "" {
			f.count.Count++
			continue
		}
		t, err := readTrace(v, f.queueScan, list[i].id, list[i].m)
		if err != nil {
			return seen, false, err
		}
		switch {
		case !f.reaches(t):
		case f.count != nil:
			f.count.Count++
		default:
			f.found = append(f.found, *t)
		}
	}
	return seen, len(f.found) < f.query.Limit && f.scan > 0 && f.histories > 0, ctx.Err()
}

// matches judges by the message's record.
func (f *finder) matches(m *pb.Message) bool {
	q := &f.query
	return (q.MessageID == "" || q.MessageID == m.MessageId || unblanked(q.MessageID) == m.MessageId) &&
		(q.From == "" || admin.MatchAddress(q.From, m.Sender)) &&
		(q.Client == "" || admin.MatchClient(q.Client, m.Client.GetAddress())) &&
		(q.User == "" || admin.MatchUser(q.User, m.Client.GetUser())) &&
		(q.Helo == "" || admin.MatchAddress(q.Helo, m.Client.GetHelo())) &&
		(q.Until.IsZero() || m.CreatedMs < q.Until.UnixMilli()) &&
		(q.Since.IsZero() || m.CreatedMs >= q.Since.UnixMilli())
}

// unblanked is an id as records keep those that stood in brackets: without blanks.
func unblanked(id string) string { return strings.Join(strings.Fields(id), "") }

// reaches judges by the recipients.
func (f *finder) reaches(t *admin.Trace) bool {
	if f.query.To == "" {
		return true
	}
	for i := range t.Recipients {
		if admin.MatchAddress(f.query.To, t.Recipients[i].Address) {
			t.Only(f.query.To)
			return true
		}
	}
	return false
}
