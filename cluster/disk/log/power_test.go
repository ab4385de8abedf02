package log

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// outage runs a log whose power may fail at each step of a write to segments,
// and looks at what would be found then. Of what was not synced, any part may
// have reached the disk.
type outage struct {
	t           *testing.T
	r           *rand.Rand
	dir         string
	packed      bool // from the beginning
	grow        int64
	disk        forgetful
	log         *Log
	first, last uint64               // promised
	want        map[uint64]*raft.Log // of those
	writing     []*raft.Log          // not promised yet
	deleting    [2]uint64            // first and last, when the deletion that runs is done; 0: none runs
}

// unsafeFile tells the outage of its steps.
type unsafeFile struct {
	*forgetfulFile
	o *outage
}

func (f unsafeFile) WriteAt(b []byte, at int64) (int, error) {
	defer f.o.step()
	return f.forgetfulFile.WriteAt(b, at)
}

func (f unsafeFile) Sync() error {
	defer f.o.step()
	return f.forgetfulFile.Sync()
}

// unsafeBackend tells of the steps in bbolt, each of which is there or not.
type unsafeBackend struct {
	backend
	o *outage
}

func (b unsafeBackend) StoreLogs(logs []*raft.Log) error {
	defer b.o.stepOneIn(6)
	return b.backend.StoreLogs(logs)
}

func (b unsafeBackend) Set(k, v []byte) error {
	b.o.stepOneIn(6)
	defer b.o.stepOneIn(6)
	return b.backend.Set(k, v)
}

func (b unsafeBackend) DeleteRange(lo, hi uint64) error {
	b.o.stepOneIn(6)
	return b.backend.DeleteRange(lo, hi)
}

func (o *outage) openSegment(path string) (segmentFile, error) {
	f, err := o.disk.open(path)
	if err != nil {
		return nil, err
	}
	o.step()
	return unsafeFile{f.(*forgetfulFile), o}, nil
}

func (o *outage) open(dir string, change ...func(*Options)) *Log {
	return openLog(o.t, dir, append(change, func(lo *Options) {
		lo.segmentBytes, lo.CacheBytes, lo.GrowTo, lo.StallAfter, lo.tailEntries = 64<<10, 1, o.grow, time.Hour, 8
	})...)
}

func (o *outage) reopen() {
	o.log = o.open(o.dir, func(lo *Options) {
		lo.openSegment, lo.packed = o.openSegment, o.packed
		lo.wrap = func(b backend) backend { return unsafeBackend{b, o} }
	})
}

// step now and then looks at what a power cut would leave: of each write that
// was not synced, any pages.
func (o *outage) step() { o.stepOneIn(40) }

func (o *outage) stepOneIn(n int) {
	if o.last == 0 || o.r.IntN(n) != 0 {
		return
	}
	dir := o.t.TempDir()
	require.NoError(o.t, os.CopyFS(dir, os.DirFS(o.dir)))
	for _, f := range o.disk.files {
		for _, w := range f.pending {
			// A file that was renamed has been synced.
			half, err := os.OpenFile(filepath.Join(dir, filepath.Base(f.f.Name())), os.O_WRONLY, 0)
			require.NoError(o.t, err)
			all := o.r.IntN(4)
			for from := 0; from < len(w.data); from += 4096 {
				if all > 0 && (all == 1 || o.r.IntN(3) == 0) {
					continue
				}
				_, err = half.WriteAt(w.data[from:min(from+4096, len(w.data))], w.at+int64(from))
				require.NoError(o.t, err)
			}
			require.NoError(o.t, half.Close())
		}
	}
	o.look(dir, o.last)
}

// look opens what the power cut left in dir. The log goes up to last at least.
func (o *outage) look(dir string, last uint64) {
	l := o.open(dir)
	found := span(o.t, l)
	o.at(found, last)
	o.check(l, found)
	for _, e := range o.writing {
		if e.Index <= found[1] {
			requireEntry(o.t, l, e)
		}
	}
	more := large(found[1]+1, 1+o.r.IntN(30000))
	require.NoError(o.t, l.StoreLog(more))
	o.check(l, found)
	requireEntry(o.t, l, more)

	// And once more, behind what was cut off.
	again := o.t.TempDir()
	require.NoError(o.t, os.CopyFS(again, os.DirFS(dir)))
	require.NoError(o.t, l.Close())
	l = o.open(again)
	require.Equal(o.t, [2]uint64{found[0], more.Index}, span(o.t, l))
	o.check(l, found)
	requireEntry(o.t, l, more)
	require.NoError(o.t, l.Close())
}

// at says that a log may begin and end there now. A deletion that runs is done or not.
func (o *outage) at(found [2]uint64, last uint64) {
	if o.deleting != [2]uint64{} {
		require.Contains(o.t, [][2]uint64{{o.first, o.last}, o.deleting}, found)
		return
	}
	require.Equal(o.t, o.first, found[0])
	require.GreaterOrEqual(o.t, found[1], last)
	require.LessOrEqual(o.t, found[1], last+uint64(len(o.writing)), "what was not promised may be there, but nothing else")
}

// delete deletes so that the log is from first to last.
func (o *outage) delete(first, last uint64) {
	o.deleting = [2]uint64{first, last}
	if last < o.last {
		require.NoError(o.t, o.log.DeleteRange(last+1, o.last))
	} else {
		require.NoError(o.t, o.log.DeleteRange(0, first-1))
	}
	o.first, o.last, o.deleting = first, last, [2]uint64{}
}

func (o *outage) check(l *Log, found [2]uint64) {
	for i := found[0]; i <= min(o.last, found[1]); i++ {
		requireEntry(o.t, l, o.want[i])
	}
}

func (o *outage) store(n int, term uint64) {
	var all []*raft.Log
	for i := range uint64(n) {
		data := bytes.Repeat([]byte{byte(o.r.Uint32())}, []int{10, 1024 + o.r.IntN(40000)}[o.r.IntN(2)])
		all = append(all, &raft.Log{Index: o.last + 1 + i, Term: term, Data: data})
	}
	o.writing = all
	require.NoError(o.t, o.log.StoreLogs(all))
	o.writing = nil
	for _, e := range all {
		o.want[e.Index], o.last = e, e.Index
	}
}

// TestPowerFailsAtAnyStep: whatever of a write was done, all that was promised is
// there, nothing else is, and the log goes on.
func TestPowerFailsAtAnyStep(t *testing.T) {
	t.Parallel()
	seeds := uint64(8)
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel() // it waits for syncs of the disk
			r := rand.New(rand.NewPCG(seed, 3))
			o := &outage{
				t: t, r: r, dir: t.TempDir(), grow: []int64{-1, 512 << 10}[seed%2], first: 1, want: map[uint64]*raft.Log{},
				packed: seed%4 < 2,
			}
			o.reopen()
			o.store(1, 1)
			for term := range uint64(40) {
				some := o.first + r.Uint64N(o.last-o.first+1) // stays
				switch r.IntN(8) {
				case 0:
					o.delete(o.first, some)
				case 1, 2:
					o.delete(some, o.last)
				case 3:
					o.packed = o.packed || term > 30 // it is converted then
					require.NoError(t, o.log.Close())
					o.reopen()
				case 4:
					if term > 20 {
						require.NoError(t, o.log.SealPromises())
					}
				default:
					o.store(1+r.IntN(6), term+1)
				}
			}
			o.check(o.log, [2]uint64{o.first, o.last})
		})
	}
}
