package operator

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/operator/ids"
	"relay/node/rule"
	"relay/node/statelog"
	"relay/queue"
	"relay/queue/replyclass"
)

// pageScan bounds the queue records that one page reads. A page that reaches
// it comes short, with a cursor that goes on where it stopped.
const pageScan = 100000

// scanStep bounds the records that are read in one view.
const scanStep = 20000

// waitingMail is one waiting message as it comes out of the queue scan.
type waitingMail struct {
	id   spool.ID
	open int // its open recipients, picked or not
	mail admin.QueueMessage
	n    []uint32 // numbers of mail.Recipients
}

// queueScan reads the queue and keeps what a filter picks.
type queueScan struct {
	filter admin.QueueFilter
	owners spool.Owners
	active map[queue.Ref]string
	now    time.Time
	whole  bool      // step reads the messages' records too
	rules  *rule.Set // standing rules; nil: there are none

	replies *replyclass.Table // what replies mean
	ruled   *pb.Message       // of the recipients that are read, where rules look at it
}

func (o *Operator) newScan(ctx context.Context, f admin.QueueFilter) (*queueScan, error) {
	s := &queueScan{filter: f, active: o.trying(ctx), now: o.Now(), whole: true}
	err := o.Replica.View(func(v spool.View) (err error) {
		if s.owners, err = v.Owners(); err == nil {
			s.rules, err = readRules(v, nil)
		}
		if err == nil {
			s.replies, err = replyTable(v)
		}
		return err
	})
	return s, err
}

// before is the id from which on no message is old enough for the filter, with
// a minute to spare because ids are made by the clocks of several nodes.
func (s *queueScan) before() spool.ID {
	if s.filter.OlderThanSeconds <= 0 {
		return ids.Last()
	}
	return ids.At(s.now.Add(time.Minute - time.Duration(s.filter.OlderThanSeconds)*time.Second))
}

// read collects up to want messages with an id in [from, to) that have a
// recipient which the filter picks, oldest first, by queue records alone: complete
// drops those that it can not judge without the message's record. It stops after about
// *budget records, at the end of a message. next is where to go on; more is false
// where nothing is left.
func (s *queueScan) read(v spool.View, from, to spool.ID, want int,
	budget *int) (found []*waitingMail, next spool.ID, more bool, err error) {
	var one *waitingMail
	keep := func() {
		if one != nil && len(one.n) > 0 {
			found = append(found, one)
		}
		one = nil
	}
	var unread error
	err = v.Queue(from, func(id spool.ID, n uint32, r *pb.Recipient) bool {
		if one == nil || one.id != id {
			keep()
			if id.Compare(to) >= 0 {
				return false
			}
			if len(found) >= want || *budget <= 0 {
				next, more = id, true
				return false
			}
			one = &waitingMail{id: id, mail: admin.QueueMessage{Owner: s.owners.Node(s.owners.Of(r.Home, id))}}
			if unread = s.rulesLook(v, id); unread != nil {
				return false
			}
		}
		*budget--
		one.open++
		if s.filter.Owner != "" && s.filter.Owner != one.mail.Owner {
			return true
		}
		if seen := s.recipient(id, n, r); s.filter.MatchRecipient(seen) {
			one.n = append(one.n, n)
			one.mail.Recipients = append(one.mail.Recipients, seen)
		}
		return true
	})
	keep()
	return found, next, more, errors.Join(err, unread)
}

// recipient is a queue record as the API shows it. r is not kept.
func (s *queueScan) recipient(id spool.ID, n uint32, r *pb.Recipient) admin.QueueRecipient {
	state := statelog.StateWord(r.State)
	if len(s.active) > 0 && (r.State == pb.State_QUEUED || r.State == pb.State_DEFERRED) {
		if _, ok := s.active[queue.Ref{ID: queue.ID(id), Recipient: n}]; ok {
			state = admin.StateActive
		}
	}
	seen := admin.QueueRecipient{
		Address: r.Address, Domain: spool.DomainOf(r.Address), State: state, Attempts: r.Attempts,
		NextAttempt: admin.AtMs(r.NextMs), LastReply: r.LastReply, LastAttempt: admin.AtMs(r.LastMs),
	}
	s.underRule(&seen, r)
	return seen
}

// complete reads the messages' records and drops those that the filter does
// not pick. list is in order of ids.
func (s *queueScan) complete(v spool.View, list []*waitingMail) ([]*waitingMail, error) {
	kept := list[:0]
	err := s.records(v, list, func(one *waitingMail, m *pb.Message) {
		s.describe(one, m)
		age := time.Duration(one.mail.AgeSeconds) * time.Second
		if s.filter.MatchMessage(m.Sender, one.mail.Owner, age) {
			kept = append(kept, one)
		}
	})
	return kept, err
}

// records calls fn for each message of list that is still known. If they
// stand close together it scans, which is several times as fast as reading
// one by one; where finished messages crowd between them, it reads.
func (s *queueScan) records(v spool.View, list []*waitingMail, fn func(*waitingMail, *pb.Message)) error {
	at := 0
	if len(list) > 16 {
		passed := 0
		err := v.Messages(list[0].id, ids.After(list[len(list)-1].id), func(id spool.ID, m *pb.Message) bool {
			for at < len(list) && list[at].id.Compare(id) < 0 {
				at++ // gone
			}
			if at < len(list) && list[at].id == id {
				at++
				fn(list[at-1], m)
			}
			passed++
			return at < len(list) && passed < 3*(at+16)
		})
		if err != nil {
			return err
		}
	}
	for _, one := range list[at:] {
		m, ok, err := v.Message(one.id)
		if err != nil {
			return err
		}
		if ok {
			fn(one, m)
		}
	}
	return nil
}

func (s *queueScan) describe(one *waitingMail, m *pb.Message) {
	q := &one.mail
	q.ID, q.Created, q.Size, q.Sender = one.id.String(), admin.AtMs(m.CreatedMs), m.Size, m.Sender
	q.AgeSeconds = max(0, (s.now.UnixMilli()-m.CreatedMs)/1000)
}

// pick reads one message by id; nil where the filter does not pick it or
// nothing of it waits.
func (s *queueScan) pick(v spool.View, id spool.ID) (*waitingMail, error) {
	budget := 1
	found, _, _, err := s.read(v, id, ids.After(id), 1, &budget)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	if found, err = s.complete(v, found); err != nil || len(found) == 0 {
		return nil, err
	}
	return found[0], nil
}

// Queue implements admin.Queue. In the default order, and turned round, it
// reads no more of the queue than it must; any other order takes a pass over
// all of it. A filter that matches little makes short pages: each reads at
// most pageScan records.
func (o *Operator) Queue(ctx context.Context, p admin.QueuePage) ([]admin.QueueMessage, string, error) {
	order, err := parseOrder(p.Sort)
	if err != nil {
		return nil, "", err
	}
	at, err := parseCursor(p.After, order.key != orderCreated || p.Filter.State == admin.StateActive)
	if err != nil {
		return nil, "", err
	}
	limit := min(max(p.Limit, 1), admin.MaxPage)
	s, err := o.newScan(ctx, p.Filter)
	if err != nil {
		return nil, "", err
	}
	none, err := o.matchesNone(s)
	if err != nil || none {
		return []admin.QueueMessage{}, "", err
	}
	var found []*waitingMail
	var next string
	switch {
	case p.Filter.State == admin.StateActive:
		found, next, err = o.activePage(ctx, s, order, at, limit)
	case order.key != orderCreated:
		found, next, err = o.sortedPage(ctx, s, order, at, limit)
	case order.down:
		found, next, err = o.newestPage(ctx, s, at, limit)
	default:
		found, next, err = o.oldestPage(ctx, s, at, limit)
	}
	if err != nil {
		return nil, "", err
	}
	page := make([]admin.QueueMessage, len(found))
	for i, one := range found {
		page[i] = one.mail
	}
	return page, next, nil
}

// matchesNone asks the counters whether a filter by state or domain can match
// at all, so that the commonest empty answers cost no scan.
func (o *Operator) matchesNone(s *queueScan) (bool, error) {
	f := s.filter
	if f.State == admin.StateActive && len(s.active) == 0 {
		return true, nil
	}
	if f.State == "" && f.Domain == "" || f.State != "" && s.rules.Queues() {
		return false, nil
	}
	match := admin.QueueFilter{Domain: f.Domain, State: f.State}
	any := false
	err := o.Replica.View(func(v spool.View) error {
		all, err := v.Destinations()
		for _, d := range all {
			seen := admin.QueueRecipient{Domain: d.Domain, State: statelog.StateWord(d.State)}
			if f.State == admin.StateActive {
				seen.State = f.State
			}
			any = any || d.Count > 0 && match.MatchRecipient(seen)
		}
		return err
	})
	return !any, err
}

// oldestPage reads forward; its cursor is the id to begin with.
func (o *Operator) oldestPage(ctx context.Context, s *queueScan, at cursor,
	limit int) (page []*waitingMail, next string, err error) {
	from, budget := at.id, pageScan
	for ctx.Err() == nil {
		found, upTo, more, err := o.step(s, from, limit-len(page), &budget)
		if err != nil {
			return nil, "", err
		}
		page = append(page, found...)
		switch {
		case !more:
			return page, "", nil
		case len(page) >= limit || budget <= 0:
			return page, cursor{id: upTo}.String(), nil
		}
		from = upTo
	}
	return nil, "", ctx.Err()
}

// completeCost is what the record of a message costs of a page's budget, where
// many are read for few that match.
const completeCost = 2

// step reads and completes at most want messages from an id on, in one view.
func (o *Operator) step(s *queueScan, from spool.ID, want int,
	budget *int) (found []*waitingMail, next spool.ID, more bool, err error) {
	err = o.Replica.View(func(v spool.View) error {
		part := min(*budget, scanStep)
		left := part
		found, next, more, err = s.read(v, from, s.before(), want, &left)
		*budget -= part - left
		if err == nil && s.whole {
			*budget -= completeCost * len(found)
			found, err = s.complete(v, found)
		}
		return err
	})
	return found, next, more, err
}

// activePage shows what is being tried: the owners' lists are short, so they
// are read whole, whatever the order.
func (o *Operator) activePage(ctx context.Context, s *queueScan, order queueOrder, at cursor,
	limit int) ([]*waitingMail, string, error) {
	ids := make([]spool.ID, 0, len(s.active))
	for ref := range s.active {
		ids = append(ids, spool.ID(ref.ID))
	}
	slices.SortFunc(ids, spool.ID.Compare)
	best := &selection{order: order, after: at, limit: limit}
	err := o.Replica.View(func(v spool.View) error {
		for _, id := range slices.Compact(ids) {
			one, err := s.pick(v, id)
			if err != nil || ctx.Err() != nil {
				return cmp.Or(err, ctx.Err())
			}
			if one != nil {
				best.offer(one)
			}
		}
		return nil
	})
	page, next := best.page()
	return page, next, err
}

// newestPage reads backward; its cursor is the id below which to go on.
func (o *Operator) newestPage(ctx context.Context, s *queueScan, at cursor, limit int) ([]*waitingMail, string, error) {
	hi := s.before()
	if at.set && at.id.Compare(hi) < 0 {
		hi = at.id
	}
	oldest, err := o.oldest()
	if err != nil || oldest.IsZero() {
		return nil, "", err
	}
	var page []*waitingMail
	reached, budget := hi, pageScan
	err = backward(ctx, s.now, oldest, hi, func(lo, hi spool.ID, most int) (int, bool, error) {
		found, seen, err := o.window(s, lo, hi, most)
		if err != nil || seen > most {
			return seen, true, err
		}
		budget -= seen
		reached = lo
		for i := len(found) - 1; i >= 0; i-- {
			if len(page) == limit {
				reached = found[i+1].id
				break
			}
			page = append(page, found[i])
		}
		return seen, len(page) < limit && budget > 0, nil
	})
	if err != nil || reached.Compare(oldest) <= 0 {
		return page, "", err
	}
	return page, cursor{id: reached}.String(), nil
}

// oldest is the id of the oldest waiting message, zero where nothing waits.
func (o *Operator) oldest() (oldest spool.ID, err error) {
	err = o.Replica.View(func(v spool.View) error {
		return v.Queue(spool.ID{}, func(id spool.ID, _ uint32, _ *pb.Recipient) bool { oldest = id; return false })
	})
	return oldest, err
}

// window reads the messages of one stretch of ids. If that holds more than
// most records, seen is over most and nothing is found.
func (o *Operator) window(s *queueScan, lo, hi spool.ID, most int) (found []*waitingMail, seen int, err error) {
	err = o.Replica.View(func(v spool.View) error {
		var more bool
		left := most
		if found, _, more, err = s.read(v, lo, hi, most, &left); err != nil {
			return err
		}
		if seen = most - left; more {
			found, seen = nil, most+1
			return nil
		}
		seen += completeCost * len(found)
		found, err = s.complete(v, found)
		return err
	})
	return found, min(seen, most), err
}
