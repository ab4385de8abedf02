package log

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// storm runs a log whose disk fails at any step, also of its start, whose
// process is killed, and whose power fails after that: then names that were
// not synced are the former ones, too.
type storm struct {
	t    *testing.T
	r    *rand.Rand
	dir  string
	past string // the names that are on the disk, as links
	disk *cached
	rate int   // one in so many steps fails
	dead error // what the process ended with
	log  *Log
	// packed is the kind of log that a start makes: the storm begins with one that is not,
	// or with none.
	packed bool

	first, last uint64
	want        map[uint64]*raft.Log
	restarts    int
}

func (s *storm) fault() error {
	if s.dead == nil && s.rate > 0 && s.r.IntN(s.rate) == 0 {
		s.dead = []error{errKilled, syscall.EIO, syscall.ENOSPC}[s.r.IntN(3)]
	}
	if s.dead != nil && !errors.Is(s.dead, errKilled) {
		defer func() { s.dead = errKilled }() // the process ends at the first error
	}
	return s.dead
}

func (s *storm) syncDir(dir string) error {
	if err := s.fault(); err != nil {
		return err
	}
	s.remember()
	return syncPath(dir)
}

func (s *storm) remember() {
	require.NoError(s.t, os.RemoveAll(s.past))
	require.NoError(s.t, os.Mkdir(s.past, 0o700))
	for _, n := range names(s.t, s.dir, "*") {
		require.NoError(s.t, os.Link(filepath.Join(s.dir, n), filepath.Join(s.past, n)))
	}
}

// stormyBackend fails before or after what it does.
type stormyBackend struct {
	backend
	s *storm
}

func (b stormyBackend) try(fn func() error) error {
	if err := b.s.fault(); err != nil {
		return err
	}
	if err := fn(); err != nil {
		return err
	}
	return b.s.fault()
}

func (b stormyBackend) StoreLogs(logs []*raft.Log) error {
	return b.try(func() error { return b.backend.StoreLogs(logs) })
}

func (b stormyBackend) Set(k, v []byte) error {
	return b.try(func() error { return b.backend.Set(k, v) })
}

func (b stormyBackend) DeleteRange(lo, hi uint64) error {
	return b.try(func() error { return b.backend.DeleteRange(lo, hi) })
}

func (s *storm) open() error {
	s.dead = nil
	l, err := Open(s.dir, Options{
		GrowTo: []int64{-1, 512 << 10}[s.r.IntN(2)], MmapBytes: 1 << 20, CacheBytes: 1,
		segmentBytes: 64 << 10, tailEntries: 8,
		Fatal: func(error) {}, openSegment: s.disk.open, syncDir: s.syncDir, packed: s.packed,
		wrap: func(b backend) backend { return stormyBackend{b, s} },
	})
	if err == nil {
		s.log = l
	}
	return err
}

// restart starts the log after its end, as often as it takes. It returns what
// the log has.
func (s *storm) restart() (first, last uint64) {
	_ = s.log.Close()
	for rate := s.rate; ; rate *= 2 {
		s.restarts++
		if s.r.IntN(2) == 0 {
			dir := s.dir
			if s.r.IntN(2) == 0 {
				dir = s.past
			}
			some := s.r.IntN(3)
			s.dir = s.disk.powerFails(s.t, dir, func() bool { return some == 0 || some == 1 && s.r.IntN(2) == 0 })
			s.disk.pages = nil
			s.remember()
		}
		s.rate = rate
		if err := s.open(); err == nil {
			break
		} else if s.dead == nil {
			require.NoError(s.t, err)
		}
	}
	found := span(s.t, s.log)
	return found[0], found[1]
}

func (s *storm) check() {
	found := span(s.t, s.log)
	require.Equal(s.t, [2]uint64{s.first, s.last}, found)
	for i := s.first; i <= s.last; i++ {
		requireEntry(s.t, s.log, s.want[i])
	}
	require.ErrorIs(s.t, s.log.GetLog(s.last+1, &raft.Log{}), raft.ErrLogNotFound)
}

func (s *storm) store(term uint64) {
	var all []*raft.Log
	for i := range uint64(1 + s.r.IntN(6)) {
		e := large(s.last+1+i, []int{10, 1000 + s.r.IntN(30000)}[s.r.IntN(2)])
		e.Term = term
		s.want[e.Index] = e
		all = append(all, e)
	}
	if s.log.StoreLogs(all) == nil {
		s.last += uint64(len(all))
		return
	}
	_, last := s.restart()
	require.GreaterOrEqual(s.t, last, s.last)
	require.LessOrEqual(s.t, last, s.last+uint64(len(all)))
	s.last = last
}

func (s *storm) step(term uint64) {
	some := s.first + s.r.Uint64N(s.last-s.first+1) // stays
	switch s.r.IntN(10) {
	case 9:
		if term < 20 {
			return
		}
		if s.convert(); s.log.SealPromises() != nil {
			s.restart()
		}
	case 0:
		if s.log.DeleteRange(some+1, s.last) == nil {
			s.last = some
			return
		}
		_, last := s.restart()
		require.Contains(s.t, []uint64{some, s.last}, last)
		s.last = last
	case 1, 2, 3:
		if s.log.DeleteRange(0, some-1) == nil {
			s.first = some
			return
		}
		first, _ := s.restart()
		require.Contains(s.t, []uint64{some, s.first}, first)
		s.first = first
	case 4:
		s.dead = errKilled
		s.restart()
	default:
		s.store(term)
	}
}

// convert has the log converted, now and then: by a start from now on, or by the caller.
func (s *storm) convert() {
	if s.packed {
		return
	}
	s.packed = true
	if s.r.IntN(2) == 0 {
		s.dead = errKilled
		s.restart()
	}
}

// TestStorm: whatever fails, and whenever, all that was promised is there, nothing
// that was deleted is, and the log goes on.
func TestStorm(t *testing.T) {
	t.Parallel()
	seeds := uint64(9)
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel() // it waits for syncs of the disk
			rage(t, seed)
		})
	}
}

func rage(t *testing.T, seed uint64) {
	s := &storm{
		t: t, r: rand.New(rand.NewPCG(seed, 9)), dir: t.TempDir(), past: filepath.Join(t.TempDir(), "past"),
		disk: &cached{}, first: 1, want: map[uint64]*raft.Log{},
	}
	s.disk.write, s.disk.sync, s.packed = s.fault, s.fault, seed%3 == 0
	require.NoError(t, s.open())
	s.store(1)
	s.rate = 40
	for term := range uint64(60) {
		s.step(term + 1)
		s.rate = 0
		s.check()
		s.rate = 40
	}
	s.rate = 0
	require.NoError(t, s.log.Close())
	require.Positive(t, s.restarts)
}
