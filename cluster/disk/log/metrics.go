package log

import (
	"os"
	"sync/atomic"
	"time"
)

type counters struct {
	appends, entries, bytes, moves, writes, writeNanos, hits, misses atomic.Uint64
}

// Metrics is what an operator may want to know of a log.
type Metrics struct {
	First, Last uint64 // indexes
	Entries     int    // held
	Bytes       int64  // of them
	FileBytes   int64
	CacheBytes  int64

	Appends, Appended, AppendedBytes uint64 // calls, entries, octets
	Moves                            uint64 // of the tail to bbolt; none in a packed log
	Writes                           uint64 // transactions, with deletions and votes
	WriteTime                        time.Duration
	CacheHits, CacheMisses           uint64
}

// Metrics returns the log's numbers.
func (l *Log) Metrics() Metrics {
	m := Metrics{
		Appends: l.count.appends.Load(), Appended: l.count.entries.Load(), AppendedBytes: l.count.bytes.Load(),
		Writes: l.count.writes.Load(), WriteTime: time.Duration(l.count.writeNanos.Load()),
		Moves:     l.count.moves.Load(),
		CacheHits: l.count.hits.Load(), CacheMisses: l.count.misses.Load(),
	}
	if st, err := os.Stat(l.path); err == nil {
		m.FileBytes = st.Size()
	}
	m.FileBytes += l.files().bytes()
	l.mu.RLock()
	defer l.mu.RUnlock()
	m.First, m.Last, m.Entries = l.ledger.first(), l.ledger.last(), l.ledger.len()
	m.Bytes, m.CacheBytes = l.ledger.bytes, l.cache.bytes
	return m
}
