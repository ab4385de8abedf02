package main

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// fakeHeap is a runtime that a pacer drives.
type fakeHeap struct {
	mu             sync.Mutex
	sample         heapSample
	percent, freed int
}

func (h *fakeHeap) with(fn func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fn()
}

func (h *fakeHeap) pacer() *pacer {
	p := &pacer{
		read: func() (s heapSample) { h.with(func() { s = h.sample }); return s },
		set:  func(percent int) { h.with(func() { h.percent = percent }) },
	}
	p.free = func() {
		h.with(func() { h.freed++ })
		p.collected()
	}
	p.begin(gcPercent)
	return p
}

// allocate lets time pass in which so much is allocated, and returns all of it.
func (h *fakeHeap) allocate(octets uint64, in time.Duration) (all uint64) {
	time.Sleep(in)
	synctest.Wait()
	h.with(func() { h.sample.allocated += octets; all = h.sample.allocated })
	return all
}

func (h *fakeHeap) require(t *testing.T, percent, freed int) {
	t.Helper()
	h.with(func() {
		require.Equal(t, [2]int{percent, freed}, [2]int{h.percent, h.freed}, "GOGC, memory given back")
	})
}

// A load is collected as before, and no sooner than what it allocates asks for; when it
// is over memory is given back once, and an idle node's garbage stays small.
func TestPacerFollowsTheLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHeap{sample: heapSample{live: 80 << 20, scannable: 6 << 20}}
		p := h.pacer()
		h.require(t, gcPercent, 0)
		for range 20 {
			h.allocate(20<<20, time.Second)
			p.collected()
		}
		h.require(t, 50, 0) // two seconds of it
		h.allocate(0, time.Hour)
		h.require(t, 3, 1) // half of what a collection reads
		for range 100 {
			h.allocate(6<<20, time.Minute)
			p.collected()
		}
		h.require(t, 3, 1)
	})
}

// Chunks of large messages are collected sooner than as many octets of small ones.
func TestPacerKnowsLargeMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHeap{sample: heapSample{live: 100 << 20, scannable: 6 << 20}}
		p := h.pacer()
		for _, load := range []struct {
			pieces  uint64
			percent int
		}{{1 << 20, 48}, {8 << 10, 20}, {1 << 20, 48}} {
			h.with(func() { h.sample.pieces += load.pieces })
			h.allocate(100<<20, time.Second)
			p.collected()
			h.require(t, load.percent, 0)
		}
		h.allocate(0, time.Hour)
	})
}

// A load that is collected seldom is not taken for its end.
func TestPacerWaitsForTheEndOfALoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &fakeHeap{sample: heapSample{live: 400 << 20, scannable: 300 << 20}}
		p := h.pacer()
		for range 40 {
			if h.allocate(10<<20, time.Second)%(300<<20) == 0 {
				p.collected()
			}
		}
		h.require(t, 75, 0)
		h.allocate(0, time.Hour)
		h.require(t, 37, 1)
	})
}

func TestHeadroomIsAtMostTheHeap(t *testing.T) {
	require.Equal(t, gcPercent, headroomPercent(heapSample{}, 0), "before the first collection")
	require.Equal(t, gcPercent, headroomPercent(heapSample{live: 1 << 20}, 0))
	require.Equal(t, gcPercent, headroomPercent(heapSample{live: 40 << 20, scannable: 1 << 20}, 1<<30))
	require.Equal(t, 48, headroomPercent(heapSample{live: 100 << 20, scannable: 1 << 20}, 1<<30))
	require.Equal(t, 60, headroomPercent(heapSample{live: 100 << 20, scannable: 60 << 20}, 1<<30))
	require.Equal(t, 40, headroomPercent(heapSample{live: 100 << 20, roots: 50 << 20, scannable: 60 << 20}, 1<<20))
	require.Equal(t, 30, headroomPercent(heapSample{live: 100 << 20, scannable: 60 << 20}, 0), "idle")
	require.Equal(t, 1, headroomPercent(heapSample{live: 100 << 30}, 0))
}

// The runtime tells of each collection.
func TestPacerHearsOfCollections(t *testing.T) {
	var heard atomic.Int64
	p := &pacer{set: func(int) {}, free: func() {}, read: func() heapSample {
		heard.Add(1)
		return readHeap()
	}}
	p.await()
	for n := int64(1); n <= 3; n++ {
		require.Eventually(t, func() bool { runtime.GC(); return heard.Load() >= n }, 20*time.Second, time.Millisecond)
	}
	require.NotZero(t, readHeap().live)
	require.NotZero(t, readHeap().scannable)
	require.NotZero(t, readHeap().pieces)
}
