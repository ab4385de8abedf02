package operator

import (
	"context"
	"math"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// sortedPage passes over the whole queue and keeps the best of it. If order and
// filter can do without the messages' records, it ranks by the queue's alone, and
// reads only the page's messages.
func (o *Operator) sortedPage(ctx context.Context, s *queueScan, order queueOrder, at cursor,
	limit int) ([]*waitingMail, string, error) {
	best := &selection{order: order, after: at, limit: limit}
	if order.key != orderSender && !s.byMessage() {
		all, err := o.rankAll(ctx, s, best)
		if err != nil {
			return nil, "", err
		}
		if all {
			return o.ranked(s, best)
		}
		best = &selection{order: order, after: at, limit: limit}
	}
	for from, more := (spool.ID{}), true; more; {
		if ctx.Err() != nil {
			return nil, "", ctx.Err()
		}
		var found []*waitingMail
		var err error
		budget := scanStep
		found, from, more, err = o.step(s, from, scanStep, &budget)
		if err != nil {
			return nil, "", err
		}
		for _, one := range found {
			best.offer(one)
		}
	}
	page, next := best.page()
	return page, next, nil
}

// byMessage reports whether the filter judges by the message's own record.
func (s *queueScan) byMessage() bool { return s.filter.Sender != "" || s.filter.OlderThanSeconds > 0 }

// ranked reads the messages of a page that was found by ranks alone. Those that
// were delivered meanwhile are left out.
func (o *Operator) ranked(s *queueScan, best *selection) (page []*waitingMail, next string, err error) {
	_, next = best.page()
	err = o.Replica.View(func(v spool.View) error {
		for _, k := range best.kept {
			one, err := s.pick(v, k.ID)
			if err != nil {
				return err
			}
			if one != nil {
				page = append(page, one)
			}
		}
		return nil
	})
	return page, next, err
}

// rankAll offers the rank of each message that the filter picks. all is false where
// a record does not say what the order goes by: it is of a cluster version in which
// it had no size.
func (o *Operator) rankAll(ctx context.Context, s *queueScan, best *selection) (all bool, err error) {
	all = true
	for from, more := (spool.ID{}), true; more && all && err == nil; {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		err = o.Replica.View(func(v spool.View) (err error) {
			from, more, all, err = s.rank(v, from, best)
			return err
		})
	}
	return all, err
}

// rank is one stretch of rankAll. It makes nothing of a message that is not among
// the best, which of a million nearly all are not.
func (s *queueScan) rank(v spool.View, from spool.ID, best *selection) (next spool.ID, more, all bool, err error) {
	one := summary{order: best.order}
	budget := scanStep
	all = true
	err = v.Queue(from, func(id spool.ID, n uint32, r *pb.Recipient) bool {
		if id != one.ID {
			one.offerTo(best)
			if budget <= 0 {
				next, more = id, true
				return false
			}
			one.begin(id)
		}
		budget--
		if s.picks(id, n, r) {
			one.add(r)
			all = best.order.key != orderSize || r.Size > 0
		}
		return all
	})
	if !more {
		one.offerTo(best)
	}
	return next, more, all, err
}

// picks reports whether the filter picks a recipient, by its record alone.
func (s *queueScan) picks(id spool.ID, n uint32, r *pb.Recipient) bool {
	f := &s.filter
	if f.Owner != "" && f.Owner != s.owners.Node(s.owners.Of(r.Home, id)) {
		return false
	}
	if f.State == "" && f.Domain == "" && f.Recipient == "" && f.Error == "" {
		return true
	}
	return f.MatchRecipient(s.recipient(id, n, r))
}

// summary is the rank of one message, recipient by recipient; queueOrder.rank says
// the same of a message that was read as a whole.
type summary struct {
	rank
	order  queueOrder
	picked bool
}

func (s *summary) begin(id spool.ID) {
	s.rank, s.picked = rank{ID: id}, false
	if s.order.key == orderNext {
		s.Number = math.MaxInt64
	}
}

func (s *summary) add(r *pb.Recipient) {
	switch s.order.key {
	case orderSize:
		s.Number = int64(r.Size)
	case orderAttempts:
		s.Number = max(s.Number, int64(r.Attempts))
	case orderNext:
		s.Number = min(s.Number, r.NextMs)
	case orderDomain:
		if !s.picked {
			s.Text = spool.DomainOf(r.Address)
		}
	}
	s.picked = true
}

func (s *summary) offerTo(best *selection) {
	if s.picked {
		best.offerRank(s.rank, nil)
		s.picked = false
	}
}
