package spool_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// auditLines counts the audit log and its octets.
func auditLines(r *replica) (lines int, first uint64) {
	require.NoError(r.t, r.view().Audits(0, func(a *pb.Audit) bool {
		if lines++; first == 0 {
			first = a.Index
		}
		return true
	}))
	return lines, first
}

func putRoutes(r *replica, n int, why string) {
	for range n {
		r.do(spool.KindPutRoute, &pb.PutRoute{
			Admin: &pb.Admin{Who: "ann", Why: why}, Route: &pb.Route{Domain: "far.example", Target: "mx"},
		})
	}
}

func TestAuditLogIsBoundedInTime(t *testing.T) {
	r := newReplica(t)
	r.do(spool.KindPutSettings, &pb.PutSettings{Settings: &pb.Settings{AuditMs: time.Hour.Milliseconds()}})
	putRoutes(r, 10, "old")
	r.now = r.now.Add(50 * time.Minute)
	putRoutes(r, 5, "young")
	r.do(spool.KindSweep, &pb.Sweep{Limit: 100})
	lines, _ := auditLines(r)
	require.Equal(t, 16, lines)
	r.now = r.now.Add(11 * time.Minute)
	res := r.do(spool.KindSweep, &pb.Sweep{Limit: 4})
	require.EqualValues(t, 4, res.Count, "a bounded piece")
	r.do(spool.KindSweep, &pb.Sweep{Limit: 100})
	lines, _ = auditLines(r)
	require.Equal(t, 5, lines)
	r.now = r.now.Add(time.Hour)
	r.do(spool.KindSweep, &pb.Sweep{Limit: 100})
	require.Zero(t, r.counter(spool.CountAuditBytes))
}

func TestAuditLogIsBoundedInOctets(t *testing.T) {
	r := newReplica(t)
	r.do(spool.KindPutSettings, &pb.PutSettings{Settings: &pb.Settings{AuditBytes: 10_000}})
	putRoutes(r, 30, strings.Repeat("x", 1000))
	require.Greater(t, r.counter(spool.CountAuditBytes), int64(30_000))
	newest := r.index
	for r.do(spool.KindSweep, &pb.Sweep{Limit: 7}).Count > 0 {
	}
	lines, first := auditLines(r)
	require.LessOrEqual(t, r.counter(spool.CountAuditBytes), int64(10_000))
	require.InDelta(t, 9, lines, 1)
	require.Equal(t, newest-uint64(lines)+1, first, "the oldest go")
}
