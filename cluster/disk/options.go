package disk

import (
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// Machine is what the store needs of the state machine. *spool.Machine is one.
// The store calls it from one goroutine at a time.
type Machine interface {
	// Apply carries out one command. An error ends the process.
	Apply(b spool.Batch, index uint64, f spool.Frame) (*pb.Result, error)
	// Flush writes what Apply kept in memory, before a batch is committed.
	Flush(b spool.Batch) error
	// Changes returns and forgets what was changed since the last call.
	Changes() spool.Changes
}

// Options sets up a Store. The zero value is usable.
type Options struct {
	Log *zap.Logger // nil: no logging

	// Load builds the state machine from a store, at Open and after a snapshot
	// was installed. The default is spool.Load.
	Load func(spool.Reader) (Machine, error)

	// Cached says which records views read again and again while they hardly
	// change; they are kept in memory, absent ones too. It must be a pure
	// function. The default is spool.Cached.
	Cached func(key []byte) bool

	// Border returns the key that a table of the store must not reach, if start is its
	// first key; nil: it may hold all that is behind. It is asked at each flush and
	// compaction, with the time of the machine's clock. The default is spool.Border.
	Border func(start []byte, now time.Time) []byte

	// OnChanges is told what each committed batch has changed. It runs on the
	// apply goroutine: it must neither block nor call the Store's Restore,
	// ApplyBatch or Close.
	OnChanges func(spool.Changes)

	// OnInstall is told index and term of the state that the log goes on from:
	// at Open what the disk holds, and later each installed snapshot, when the
	// switch to it is on disk and before raft goes on. The log's Guard belongs
	// here. An error at Open fails Open; later it ends the process.
	OnInstall func(index, term uint64) error

	// TermAt returns the term of an entry that the log still holds. If it is set,
	// a leader's snapshot that would be dropped as nothing new is compared with it.
	TermAt func(index uint64) (term uint64, known bool)

	// OldestLog returns the index of the first entry the log still holds. If
	// it is set, a cached checkpoint is not sent again to a member that could
	// not go on from it.
	OldestLog func() uint64

	// Fatal is called once, when this node can not go on: the store failed, or
	// a command is not understood. The process is expected to end; until it
	// does, every call returns the error. Fatal may be called on any goroutine
	// and must not call the Store. The default panics.
	Fatal func(error)

	FS vfs.FS // nil: the operating system's

	MemTableSize int64         // default 64 MiB
	CacheSize    int64         // of blocks read, default 64 MiB
	BatchSize    int           // a batch is committed when it has this many octets, default 3.5 MiB
	StallAfter   time.Duration // a disk operation that hangs this long is fatal, default 30 s

	ReclaimFrom int64 // Reclaim does something for this many octets deleted, default 4 MiB

	CheckpointAge  time.Duration         // how long a checkpoint is sent again, default 60 s
	CheckpointLag  uint64                // and up to how many entries behind, default 2048
	CheckpointLife time.Duration         // after this the slowest receiver is cut off, default 1 h
	CloseWait      time.Duration         // how long Close waits for readers, default 10 s
	step           func(string)          // tests: called between the steps of an installation
	tune           func(*pebble.Options) // tests: changes those of a database
	now            func() time.Time      // tests: the machine's clock
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Load == nil {
		o.Load = func(r spool.Reader) (Machine, error) { return spool.Load(r) }
	}
	if o.Cached == nil {
		o.Cached = spool.Cached
	}
	if o.Border == nil {
		o.Border = spool.Border
	}
	if o.now == nil {
		o.now = time.Now
	}
	if o.OnChanges == nil {
		o.OnChanges = func(spool.Changes) {}
	}
	if o.OnInstall == nil {
		o.OnInstall = func(uint64, uint64) error { return nil }
	}
	if o.TermAt == nil {
		o.TermAt = func(uint64) (uint64, bool) { return 0, false }
	}
	if o.OldestLog == nil {
		o.OldestLog = func() uint64 { return 0 }
	}
	if o.Fatal == nil {
		o.Fatal = func(err error) { panic(fmt.Sprintf("disk: this node can not go on: %v", err)) }
	}
	if o.tune == nil {
		o.tune = func(*pebble.Options) {}
	}
	if o.step == nil {
		o.step = func(string) {}
	}
	setDefault(&o.MemTableSize, 64<<20)
	setDefault(&o.CacheSize, 64<<20)
	setDefault(&o.BatchSize, 7<<19) // with the entry that is one too much it fits into a buffer of 4 MiB
	setDefault(&o.StallAfter, 30*time.Second)
	setDefault(&o.ReclaimFrom, 4<<20)
	setDefault(&o.CheckpointAge, time.Minute)
	setDefault(&o.CheckpointLag, 2048)
	setDefault(&o.CheckpointLife, time.Hour)
	setDefault(&o.CloseWait, 10*time.Second)
	return o
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
