package propose

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"relay/cluster/clock"
	"relay/cluster/fault"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/tuning"
)

// applier is what the batcher needs of raft.
type applier interface {
	Apply(cmd []byte, timeout time.Duration) raft.ApplyFuture
	State() raft.RaftState
}

// sink is told what became of a proposal, exactly once and from the batcher's
// goroutine; it must not block.
type sink interface {
	settle(p *proposal, res *pb.Result, err error)
}

// proposal is one frame on its way into the log.
type proposal struct {
	frame   spool.Frame
	num     uint64 // the sink's own number for it
	sink    sink
	early   bool  // it was taken before this node's term has begun; the batcher's own
	stage   stage // guarded by the mutex of the batcher or pipe that holds it
	patient bool  // the batcher's own: it may wait for others
}

type stage uint8

const (
	queued    stage = iota
	taken           // under way; its outcome is not ours any more
	withdrawn       // the proposer gave up before it was taken
)

// fifo is a queue of proposals that reuses its memory.
type fifo struct {
	items []*proposal
	head  int
}

func (q *fifo) len() int { return len(q.items) - q.head }

func (q *fifo) push(p *proposal) {
	if q.head > 0 && q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	q.items = append(q.items, p)
}

func (q *fifo) peek() *proposal { return q.items[q.head] }

func (q *fifo) pop() *proposal {
	p := q.items[q.head]
	q.items[q.head] = nil
	if q.head++; q.head > 1024 && q.head*2 > len(q.items) {
		q.items = slices.Delete(q.items, 0, q.head)
		q.head = 0
	}
	return p
}

// Batcher stands before raft on the leader. It lets a bounded number of groups
// through at once and forms the next group from all that arrives meanwhile:
// the busier the disk, the larger the groups, the fewer the syncs.
//
// These rules say who may write which octet of a frame. A caller may propose one frame
// again, so several attempts can hold it at once. Only octets 2–9, the time, ever
// change; only a batcher writes them, under its mutex, and never twice: a frame that was
// stamped before is copied first, because the old one may stand in the log's cache under
// another index. Pipes send zeros for the time and read nothing of it.
type Batcher struct {
	raft       applier
	groupBytes int
	bulkBytes  int
	valid      func(spool.Frame) error

	forming sync.Mutex // held while a worker waits for, takes and submits a group

	mu      sync.Mutex
	control fifo
	bulk    fifo
	stamper clock.Stamper
	delay   batchDelay
	company company
	wake    chan struct{}
}

// NewBatcher makes a batcher; valid says what may enter the log, quick is a clock that never jumps.
func NewBatcher(r applier, t tuning.Tuning, valid func(spool.Frame) error, quick func() time.Duration) *Batcher {
	return &Batcher{
		raft: r, groupBytes: t.GroupBytes, bulkBytes: t.BulkBytes,
		valid: valid, wake: make(chan struct{}, 1), stamper: clock.NewStamper(quick),
		delay: batchDelay{longest: t.Linger}, company: company{longest: 2 * t.Linger},
	}
}

// submit queues a proposal. The sink hears of it unless it is withdrawn first,
// or the batcher ends.
func (g *Batcher) submit(ps ...*proposal) {
	g.mu.Lock()
	now := time.Now()
	for _, p := range ps {
		p.stage = queued
		p.patient = g.company.queued(p.frame, now)
		if p.frame.Bulk() {
			g.bulk.push(p)
		} else {
			g.control.push(p)
		}
	}
	g.mu.Unlock()
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// withdraw takes a proposal back. It reports whether that was in time: then it
// is surely not applied, and its sink hears nothing.
func (g *Batcher) withdraw(p *proposal) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.stage == taken {
		return false
	}
	p.stage = withdrawn
	return true
}

// Run works until ctx ends. As many goroutines run it as groups may be in
// flight; it returns when its last group is answered.
func (g *Batcher) Run(ctx context.Context) {
	group := make([]*proposal, 0, tuning.MaxGroup)
	futures := make([]raft.ApplyFuture, 0, tuning.MaxGroup)
	for {
		g.forming.Lock()
		group = g.wait(ctx, group[:0])
		sent := time.Now()
		futures = g.send(group, futures[:0])
		g.forming.Unlock()
		if len(group) == 0 {
			return
		}
		for i, f := range futures {
			group[i].sink.settle(outcome(group[i], f))
			group[i], futures[i] = nil, nil
		}
		g.mu.Lock()
		g.delay.answered(len(group), g.control.len()+g.bulk.len(), sent, time.Now())
		g.mu.Unlock()
	}
}

// wait returns the next group; none means that ctx has ended.
func (g *Batcher) wait(ctx context.Context, group []*proposal) []*proposal {
	for {
		g.mu.Lock()
		queued, now := g.control.len()+g.bulk.len(), time.Now()
		left := max(g.delay.left(queued, now), g.company.wait(queued, now))
		g.mu.Unlock()
		if left <= 0 {
			if group = g.form(group); len(group) > 0 {
				return group
			}
		}
		var late <-chan time.Time
		if left > 0 {
			t := time.NewTimer(left)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-g.wake:
		case <-late:
		case <-ctx.Done():
			// Raft has stopped, and answers the queued proposals itself.
			return g.form(group)
		}
	}
}

// form forms a group: control first, so that a lock or a verdict never waits
// for message bodies, but never so much of it that bulk would starve. The
// frames are stamped here, under the mutex, and a frame that was stamped
// before is copied first: the old one may still stand in the log's cache under
// another index, and must not change there.
func (g *Batcher) form(group []*proposal) []*proposal {
	g.mu.Lock()
	defer g.mu.Unlock()
	entries, bytes := tuning.MaxGroup, g.groupBytes
	if g.bulk.len() > 0 {
		entries, bytes = tuning.MaxGroup*3/4, max(g.groupBytes-g.bulkBytes, 1)
	}
	group, used := g.pull(&g.control, group, entries, bytes)
	bytes = g.groupBytes
	if used > 0 {
		bytes = g.bulkBytes
	}
	group, _ = g.pull(&g.bulk, group, tuning.MaxGroup, bytes)
	if len(group) == 0 {
		return group
	}
	at := time.UnixMilli(g.stamper.Stamp())
	for _, p := range group {
		p.early = !g.stamper.May(p.frame)
		if len(p.frame) < preamble || p.early {
			continue // apply refuses it
		}
		if stamped(p.frame) {
			p.frame = slices.Clone(p.frame)
		}
		p.frame.Stamp(at)
	}
	return group
}

// pull moves proposals to a group, within its limits but at least one.
func (g *Batcher) pull(q *fifo, group []*proposal, entries, bytes int) ([]*proposal, int) {
	used := 0
	for q.len() > 0 && len(group) < entries {
		p := q.peek()
		if p.stage == withdrawn {
			g.company.left(q.pop())
			continue
		}
		if used > 0 && used+len(p.frame) > bytes {
			break
		}
		used += len(p.frame)
		p.stage = taken
		g.company.left(p)
		group = append(group, q.pop())
	}
	return group, used
}

// stamped reports whether a frame has been through a batcher.
func stamped(f spool.Frame) bool {
	return len(f) >= stampEnd && binary.BigEndian.Uint64(f[stampStart:stampEnd]) != 0
}

// The leader's time stands at these octets of a frame.
const stampStart, stampEnd = 2, 10

// send hands a group to raft in one go, so that its main loop finds it whole.
func (g *Batcher) send(group []*proposal, futures []raft.ApplyFuture) []raft.ApplyFuture {
	leads := g.raft.State() == raft.Leader
	for _, p := range group {
		futures = append(futures, g.apply(p, leads))
	}
	return futures
}

func (g *Batcher) apply(p *proposal, leads bool) raft.ApplyFuture {
	if err := g.valid(p.frame); err != nil {
		return refused{err}
	}
	if !leads || p.early {
		return refused{fault.ErrNotLeader}
	}
	return g.raft.Apply(p.frame, 0)
}

// refused is the future of an entry that never went to raft.
type refused struct{ err error }

func (f refused) Error() error          { return f.err }
func (f refused) Response() interface{} { return nil }
func (f refused) Index() uint64         { return 0 }

// outcome waits for a future and reads it.
func outcome(p *proposal, f raft.ApplyFuture) (*proposal, *pb.Result, error) {
	if err := f.Error(); err != nil {
		return p, nil, fault.OfRaft(err)
	}
	switch r := f.Response().(type) {
	case *pb.Result:
		return p, r, nil
	case error:
		return p, nil, fmt.Errorf("cluster: apply: %w", r)
	default:
		return p, nil, fmt.Errorf("cluster: apply answered %T", r)
	}
}
