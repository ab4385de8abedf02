package disk

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"go.uber.org/zap"
)

// format is the version of the database's files. Checkpoints travel between
// members as raw files, so it may rise only when every member can read it.
const format = pebble.FormatValueSeparation

// memTables is how many memtables of a size there may be before writes wait for a flush:
// up to 64 MiB of them, but two at least, one that is written and one that is flushed.
// More of them hold up a burst of large messages for a moment longer only, as each is
// flushed in the end, and their memory is garbage then, until it is collected: Pebble uses
// one again, and takes new memory for the others.
func memTables(size int64) int { return int(max(2, min(64<<20/max(size, 1), 4))) }

// separate is the size from which bodies live in blob files of their own, which
// compactions do not rewrite. All mail but a line or two of a program is larger.
const separate = 512

// rewriteAge is how old a blob file must be before its garbage is collected.
const rewriteAge = time.Minute

// engine returns the options of one database of the store.
func (s *Store) engine(h *handle) *pebble.Options {
	o := &pebble.Options{
		FS:                          bodyFS{s.fs, func(err error) { s.broken(h, err) }},
		Cache:                       s.cache,
		DisableWAL:                  true,
		FormatMajorVersion:          format,
		MemTableSize:                uint64(s.o.MemTableSize),
		MemTableStopWritesThreshold: memTables(s.o.MemTableSize),
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		LBaseMaxBytes:               64 << 20,
		MaxManifestFileSize:         16 << 20,
		BytesPerSync:                1 << 20,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		Logger:                      logger{s, h},
		EventListener:               s.listener(h),
	}
	o.Experimental.ReadSamplingMultiplier = -1 // reads must not start compactions
	o.Experimental.CompactionScheduler = newScheduler()
	o.Experimental.SpanPolicyFunc = s.span
	o.Experimental.ValueSeparationPolicy = func() pebble.ValueSeparationPolicy {
		garbage, depth := s.separation()
		return pebble.ValueSeparationPolicy{
			Enabled:               true,
			MinimumSize:           separate,
			MaxBlobReferenceDepth: depth,
			RewriteMinimumAge:     rewriteAge,
			TargetGarbageRatio:    garbage,
		}
	}
	for i := range o.Levels {
		o.Levels[i].BlockSize = 16 << 10
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // most lookups ask for ids not seen before
		o.Levels[i].Compression = snappy
	}
	o.Levels[0].Compression = uncompressed // it is rewritten soon
	if s.o.FS == nil {
		o.WithFSDefaults() // DiskSlow
	}
	s.o.tune(o)
	return o
}

// span says, of a table that begins with a key, where it ends at the latest, and whether
// values go to blob files: only those of bodies do. Records of other kinds come and go one
// by one, and a blob file stays until the last one in it has gone.
func (s *Store) span(start []byte) (policy pebble.SpanPolicy, end []byte, err error) {
	end = s.o.Border(start, s.o.now())
	lo, hi := bodies()
	if bytes.Compare(start, hi) >= 0 || end != nil && bytes.Compare(end, lo) <= 0 {
		policy.ValueStoragePolicy = pebble.ValueStorageLowReadLatency
	}
	return policy, end, nil
}

func snappy() *sstable.CompressionProfile       { return sstable.SnappyCompression }
func uncompressed() *sstable.CompressionProfile { return sstable.NoCompression }

// listener ends the process at errors that Pebble itself would retry for ever.
func (s *Store) listener(h *handle) *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: func(err error) { s.broken(h, fmt.Errorf("disk: store: %w", err)) },
		DataCorruption: func(i pebble.DataCorruptionInfo) {
			s.broken(h, fmt.Errorf("disk: store is damaged: %s: %w: %s", i.Path, i.Details, rebuild))
		},
		DiskSlow: func(i pebble.DiskSlowInfo) {
			if d := s.slow.lasted(i, time.Now()); d >= s.o.StallAfter {
				s.broken(h, fmt.Errorf("disk: %s of %s hangs for %s", i.OpType, i.Path, d))
				return
			}
			s.log.Warn("slow disk", zap.Stringer("operation", i.OpType), zap.String("path", i.Path),
				zap.Duration("for", i.Duration))
		},
		WriteStallBegin: func(i pebble.WriteStallBeginInfo) {
			s.count.stalls.Add(1)
			s.log.Warn("writes to the store are stalled", zap.String("reason", i.Reason))
		},
		FlushEnd: func(pebble.FlushInfo) { s.count.flushes.Add(1) },
	}
}

// broken is fatal unless the database was replaced: a failure while it is taken down
// touches nothing that is in use.
func (s *Store) broken(h *handle, err error) {
	if h != nil && h.retired.Load() {
		s.log.Warn("replaced database", zap.Error(err))
		return
	}
	s.fatal(err)
}

// checked passes an error of a read on. Damage found by a read is fatal: this
// node must not go on serving from it.
func (s *Store) checked(err error) error {
	if err != nil && pebble.IsCorruptionError(err) {
		err = fmt.Errorf("disk: store is damaged: %w: %s", err, rebuild)
		s.fatal(err)
	}
	return err
}

// logger passes Pebble's messages to the store's log.
type logger struct {
	s *Store
	h *handle
}

// Infof implements pebble.Logger.
func (l logger) Infof(format string, args ...any) { l.s.log.Sugar().Debugf(format, args...) }

// Errorf implements pebble.Logger.
func (l logger) Errorf(format string, args ...any) { l.s.log.Sugar().Errorf(format, args...) }

// Fatalf implements pebble.Logger. Pebble relies on it not to return: after a
// failed write of its manifest it does not know what is on disk.
func (l logger) Fatalf(format string, args ...any) {
	err := fmt.Errorf("disk: store: "+format, args...)
	l.s.fatal(err)
	panic(err)
}

var errLeak = errors.New("disk: a reader outlived the store")
