package disk

import (
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// When Pebble tells of a slow operation: first after slowAfter, then every
// slowEvery, by the time that has passed.
const (
	slowAfter = 5 * time.Second
	slowEvery = 2 * time.Second
)

// slowness counts how often Pebble told of each operation that is under way, for
// the same reason as the log's watchdog counts ticks.
type slowness struct {
	mu   sync.Mutex
	seen map[slowOp]slowCount
}

type slowOp struct{ path, op string }

type slowCount struct {
	began time.Time
	times int
}

// slowOps is how many operations are remembered; more do not hang at once.
const slowOps = 64

// lasted is how long an operation takes by now, without the time that the
// machine was paused.
func (s *slowness) lasted(i pebble.DiskSlowInfo, now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	op, began := slowOp{i.Path, i.OpType.String()}, now.Add(-i.Duration)
	one := s.seen[op]
	if began.Sub(one.began).Abs() > slowEvery/2 {
		one = slowCount{began: began}
	}
	one.times++
	if s.seen == nil || len(s.seen) >= slowOps {
		s.seen = map[slowOp]slowCount{}
	}
	s.seen[op] = one
	return min(i.Duration, slowAfter+time.Duration(one.times)*slowEvery)
}
