package node

import (
	"context"
	"math"
	"sort"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
)

// auditMost bounds one answer.
const auditMost = 10000

// Audit implements admin.Auditor. Lines are kept by log index, which has gaps,
// and can be read upward only: the newest is found by halving, the rest by
// going back in widening steps.
func (o *operator) Audit(ctx context.Context, q admin.AuditQuery) ([]admin.AuditEntry, error) {
	limit := q.Limit
	if limit <= 0 {
		limit = 100
	}
	limit = min(limit, auditMost)
	all := []admin.AuditEntry{}
	err := o.replica.View(func(v spool.View) error {
		hi, err := auditEnd(v)
		if err != nil {
			return err
		}
		for width := uint64(4 * limit); hi > 0 && len(all) < limit && ctx.Err() == nil; width *= 2 {
			lo := hi - min(hi, width)
			lines, err := auditLines(v, lo, hi)
			if err != nil {
				return err
			}
			for i := len(lines) - 1; i >= 0 && len(all) < limit; i-- {
				if !q.Since.IsZero() && lines[i].AtMs < q.Since.UnixMilli() {
					return nil // the state's time never runs back
				}
				all = append(all, auditEntry(lines[i]))
			}
			hi = lo
		}
		return ctx.Err()
	})
	return all, err
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
