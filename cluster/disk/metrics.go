package disk

import "sync/atomic"

type counters struct {
	commands, batches, bytes, replayed atomic.Uint64
	stalls, flushes, installs          atomic.Uint64
	reclaims                           atomic.Uint64
}

// Metrics is what an operator may want to know of a store.
type Metrics struct {
	Applied uint64 // index
	Durable uint64 // index that a power loss would leave

	Commands, Batches, Bytes uint64 // applied, and committed to the store
	Replayed                 uint64 // entries that the store had already

	DiskBytes      int64 // all files of the database
	BodyBytes      int64 // blob files, garbage too
	BodyLiveBytes  int64 // of them still referenced
	MemTableBytes  int64
	CacheBytes     int64
	CacheHits      int64
	CacheMisses    int64
	ReadAmp        int
	Flushes        uint64
	Compactions    int64
	CompactionDebt int64
	WriteStalls    uint64
	Installs       uint64 // snapshots received and switched to
	Checkpoints    int    // held for sending
	Reclaims       uint64 // times that space was made by a compaction
}

// Metrics returns the store's numbers; zeros after Close.
func (s *Store) Metrics() Metrics {
	h, err := s.acquire()
	if err != nil {
		return Metrics{}
	}
	defer h.release()
	p := h.db.Metrics()
	durable, _ := s.Durable()
	return Metrics{
		Applied: s.Applied(), Durable: durable,
		Commands: s.count.commands.Load(), Batches: s.count.batches.Load(),
		Bytes: s.count.bytes.Load(), Replayed: s.count.replayed.Load(),
		DiskBytes:     int64(p.DiskSpaceUsage()),
		BodyBytes:     int64(p.BlobFiles.ValueSize),
		BodyLiveBytes: int64(p.BlobFiles.ReferencedValueSize),
		MemTableBytes: int64(p.MemTable.Size),
		CacheBytes:    p.BlockCache.Size, CacheHits: p.BlockCache.Hits, CacheMisses: p.BlockCache.Misses,
		ReadAmp: p.ReadAmp(), Flushes: s.count.flushes.Load(), Compactions: p.Compact.Count,
		CompactionDebt: int64(p.Compact.EstimatedDebt),
		WriteStalls:    s.count.stalls.Load(), Installs: s.count.installs.Load(),
		Checkpoints: s.checkpoints.len(), Reclaims: s.count.reclaims.Load(),
	}
}
