package operator

import (
	"context"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
)

// Bounds of counting what a limit leaves out of a list: waiting recipients,
// messages and audit lines that are looked at, and histories that are read for
// recipients.
const (
	countScan      = 200000
	countHistories = 5000
)

// CountQueue implements admin.Queue. A counter has the number of all that wait; the
// recipients that a filter picks are counted up to countScan.
func (o *Operator) CountQueue(ctx context.Context, f admin.QueueFilter) (*admin.Count, error) {
	if f.Empty() {
		var all admin.QueueTotals
		err := o.Replica.View(func(v spool.View) error { return queueTotals(v, &all) })
		return &admin.Count{Count: all.Messages}, err
	}
	s, err := o.newScan(ctx, f)
	if err != nil {
		return nil, err
	}
	n := &admin.Count{}
	if none, err := o.matchesNone(s); err != nil || none {
		return n, err
	}
	s.whole = f.Sender != "" || f.OlderThanSeconds > 0
	budget := countScan
	for from, more := (spool.ID{}), true; more; {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if n.AtLeast = budget <= 0; n.AtLeast {
			break
		}
		var found []*waitingMail
		if found, from, more, err = o.step(s, from, scanStep, &budget); err != nil {
			return nil, err
		}
		n.Count += uint64(len(found))
	}
	return n, nil
}

// CountFound implements admin.History.
func (o *Operator) CountFound(ctx context.Context, q admin.TraceQuery) (*admin.Count, error) {
	q.Before, q.Limit = "", countScan
	f := &finder{query: q, scan: countScan, histories: countHistories, count: &admin.Count{}}
	if q.To == "" {
		f.histories = countScan
	} else {
		var err error
		if f.queueScan, err = o.newScan(ctx, admin.QueueFilter{}); err != nil {
			return nil, err
		}
	}
	more, err := o.search(ctx, f)
	f.count.AtLeast = more
	return f.count, err
}

// CountAudit implements admin.Auditor.
func (o *Operator) CountAudit(ctx context.Context, q admin.AuditQuery) (*admin.Count, error) {
	n := &admin.Count{}
	q.Before = 0
	err := o.audits(ctx, q, countScan, func(*pb.Audit) bool {
		n.AtLeast = n.Count == countScan
		if !n.AtLeast {
			n.Count++
		}
		return !n.AtLeast
	})
	return n, err
}
