package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

const (
	leastHeadroom = 2 << 20   // an idle node allocates that in some twenty seconds
	loadHeadroom  = 48 << 20  // more saves no processor time where there is little to read
	bulkHeadroom  = 20 << 20  // where a load is chunks of large messages, which leave little to do beside them
	bulkPiece     = 4 << 10   // octets of an allocation, on average, from which on it is that
	idleRate      = 256 << 10 // octets a second: up to here a node has nothing to do
	busyRate      = 4 << 20   // and from here on it has a load
	loadOver      = 5 * time.Second
)

// heapSample is what the runtime says of the heap.
type heapSample struct {
	live      uint64 // at the end of the last collection
	scannable uint64 // of it, what a collection reads
	roots     uint64 // what it reads beside it, which GOGC counts, too
	allocated uint64 // since the start of the process
	pieces    uint64 // allocations since then
	piece     uint64 // octets of each since the last sample, on average; 0: nobody knows
}

// pacer decides how much garbage may pile up. By itself the runtime allows as much as
// there is live memory, and in a node that is mostly what no collection reads: memory
// tables and blocks of the store. So the pacer allows as much as a collection has to
// read, or what is allocated in two seconds, up to loadHeadroom, and up to bulkHeadroom
// while it comes in large pieces. Some seconds after a load
// has ended it gives back to the system what only the load needed, once. It runs after
// collections, and every five seconds while there is a load; it has no part in an idle node.
type pacer struct {
	read func() heapSample
	set  func(percent int)
	free func()

	mu        sync.Mutex
	percent   int
	since     time.Time // of the last sample
	allocated uint64    // then
	pieces    uint64
	quiet     *time.Timer
}

// paceCollector starts a pacer of this process's collector.
func paceCollector() {
	p := &pacer{read: readHeap, set: func(percent int) { debug.SetGCPercent(percent) }, free: debug.FreeOSMemory}
	p.begin(gcPercent)
	p.await()
}

// await has collected called after each collection.
func (p *pacer) await() {
	type sentinel struct{ of *pacer }
	runtime.SetFinalizer(&sentinel{p}, func(s *sentinel) {
		s.of.collected()
		s.of.await()
	})
}

func (p *pacer) begin(percent int) {
	s := p.read()
	p.percent, p.since, p.allocated, p.pieces = percent, time.Now(), s.allocated, s.pieces
	p.set(percent)
}

// collected sets the headroom of the next collection.
func (p *pacer) collected() {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.read()
	if n := s.pieces - p.pieces; n > 0 {
		s.piece = (s.allocated - p.allocated) / n
	}
	rate := p.rate(s)
	if rate >= busyRate {
		p.awaitQuiet()
	}
	percent := headroomPercent(s, rate)
	if most := max(percent, p.percent); max(percent-p.percent, p.percent-percent)*4 >= most {
		p.percent = percent
		p.set(percent)
	}
}

// awaitQuiet has look called when the load may be over. It is called under mu.
func (p *pacer) awaitQuiet() {
	if p.quiet == nil {
		p.quiet = time.AfterFunc(loadOver, p.look)
		return
	}
	p.quiet.Reset(loadOver)
}

// look gives memory back if the load is over.
func (p *pacer) look() {
	p.mu.Lock()
	over := p.rate(p.read()) < busyRate
	if !over {
		p.awaitQuiet()
	}
	p.mu.Unlock()
	if over {
		p.free() // collects, which calls collected
	}
}

// rate is how many octets a second were allocated since it was called last. It is
// called under mu.
func (p *pacer) rate(s heapSample) uint64 {
	now := time.Now()
	elapsed := max(now.Sub(p.since), 50*time.Millisecond) // shorter ones say little
	n := s.allocated - p.allocated
	p.since, p.allocated, p.pieces = now, s.allocated, s.pieces
	return uint64(float64(n) / elapsed.Seconds())
}

// headroomPercent is the value of GOGC at which the heap grows by what a collection
// reads, or by what is allocated in two seconds, up to loadHeadroom or bulkHeadroom, before
// it is collected; never by more than gcPercent of it. An idle node's grows by half of that.
func headroomPercent(s heapSample, rate uint64) int {
	if s.live == 0 {
		return gcPercent
	}
	scan := s.scannable
	if rate < idleRate {
		scan /= 2 // collections are so seldom that more of them do not matter
	}
	most := uint64(loadHeadroom)
	if s.piece >= bulkPiece {
		most = bulkHeadroom
	}
	room := max(leastHeadroom, scan, min(2*rate, most))
	return int(max(1, min(gcPercent, room*100/(s.live+s.roots))))
}

func readHeap() heapSample {
	all := [...]metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/heap:bytes"}, {Name: "/gc/heap/allocs:bytes"},
		{Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}, {Name: "/gc/heap/allocs:objects"},
	}
	metrics.Read(all[:])
	return heapSample{
		live: all[0].Value.Uint64(), scannable: all[1].Value.Uint64(), allocated: all[2].Value.Uint64(),
		roots: all[3].Value.Uint64() + all[4].Value.Uint64(), pieces: all[5].Value.Uint64(),
	}
}
