package disk

import (
	"container/heap"
	"context"
	"sync"
)

// waiters wakes those who wait for an index, without polling.
type waiters struct {
	mu   sync.Mutex
	at   uint64
	heap waitHeap
}

type waiter struct {
	index uint64
	pos   int
	done  chan struct{}
}

// advance wakes all who wait for an index up to at.
func (w *waiters) advance(at uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = at
	for len(w.heap) > 0 && w.heap[0].index <= at {
		close(heap.Pop(&w.heap).(*waiter).done)
	}
}

// add returns nil where the index is reached already.
func (w *waiters) add(index uint64) *waiter {
	w.mu.Lock()
	defer w.mu.Unlock()
	if index <= w.at {
		return nil
	}
	one := &waiter{index: index, done: make(chan struct{})}
	heap.Push(&w.heap, one)
	return one
}

func (w *waiters) remove(one *waiter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if one.pos >= 0 {
		heap.Remove(&w.heap, one.pos)
	}
}

// wait returns nil when index is reached, or the reason why it will not be.
func (w *waiters) wait(ctx context.Context, index uint64, stop <-chan struct{}, why func() error) error {
	one := w.add(index)
	if one == nil {
		return nil
	}
	defer w.remove(one)
	select {
	case <-one.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-stop:
		return why()
	}
}

type waitHeap []*waiter

func (h waitHeap) Len() int           { return len(h) }
func (h waitHeap) Less(i, j int) bool { return h[i].index < h[j].index }
func (h waitHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = i, j
}
func (h *waitHeap) Push(x any) {
	x.(*waiter).pos = len(*h)
	*h = append(*h, x.(*waiter))
}
func (h *waitHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	x.pos = -1
	return x
}
