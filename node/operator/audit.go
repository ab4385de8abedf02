package operator

import (
	"context"
	"math"
	"sort"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
)

// Bounds of one answer, and of the indexes that are read at once.
const (
	auditMost = 10000
	auditStep = 1 << 24
)

// Audit implements admin.Auditor.
func (o *Operator) Audit(ctx context.Context, q admin.AuditQuery) ([]admin.AuditEntry, error) {
	limit := q.Limit
	if limit <= 0 {
		limit = 100
	}
	limit = min(limit, auditMost)
	all := []admin.AuditEntry{}
	err := o.audits(ctx, q, limit, func(a *pb.Audit) bool {
		all = append(all, auditEntry(a))
		return len(all) < limit
	})
	return all, err
}

// audits calls fn for each line that a query picks, whatever its limit is, newest
// first, until fn returns false. Lines are kept by log index, which has gaps, and
// can be read upward only: the newest is found by halving, the rest by going back
// in widening steps. few is how many lines fn may want.
func (o *Operator) audits(ctx context.Context, q admin.AuditQuery, few int, fn func(*pb.Audit) bool) error {
	return o.Replica.View(func(v spool.View) error {
		hi, err := auditEnd(v)
		if err != nil {
			return err
		}
		if q.Before > 0 {
			hi = min(hi, q.Before)
		}
		for width := uint64(4 * min(few, auditMost)); hi > 0 && ctx.Err() == nil; width = min(2*width, auditStep) {
			lo := hi - min(hi, width)
			lines, err := auditLines(v, lo, hi)
			if err != nil {
				return err
			}
			for i := len(lines) - 1; i >= 0; i-- {
				if !q.Since.IsZero() && lines[i].AtMs < q.Since.UnixMilli() || !fn(lines[i]) {
					return nil // the state's time never runs back
				}
			}
			hi = lo
		}
		return ctx.Err()
	})
}

// auditEnd is the first index with no line at it or behind it.
func auditEnd(v spool.View) (uint64, error) {
	var bad error
	end := sort.Search(math.MaxInt64, func(i int) bool {
		none := true
		if err := v.Audits(uint64(i), func(*pb.Audit) bool { none = false; return false }); err != nil {
			bad = err
		}
		return none
	})
	return uint64(end), bad
}

// auditLines reads [lo, hi).
func auditLines(v spool.View, lo, hi uint64) (lines []*pb.Audit, err error) {
	err = v.Audits(lo, func(a *pb.Audit) bool {
		if a.Index >= hi {
			return false
		}
		lines = append(lines, a)
		return true
	})
	return lines, err
}

func auditEntry(a *pb.Audit) admin.AuditEntry {
	return admin.AuditEntry{At: admin.AtMs(a.AtMs), Who: a.Who, Why: a.Why, What: a.What, Node: a.Node, Index: a.Index}
}
