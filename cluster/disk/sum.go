package disk

import (
	"encoding/binary"
	"errors"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"relay/cluster/spool"
)

// sumKey holds the chain of sums: format (1 octet), index (8), sum (8), written
// with each batch. If its index is not that of meta, a build that knows nothing
// of it ran in between, and the chain is void until it is begun again.
var sumKey = []byte{0, 'h'}

// summer is a state machine that sums what it does. *spool.Machine is one.
type summer interface {
	Sum() (sum uint64, on bool)
	Resume(sum uint64)
}

// anchorEvery is the distance of the places where replicas compare their sums,
// and anchorsKept how many of them each remembers.
const (
	anchorEvery = 64
	anchorsKept = 4096
)

// anchors are the sums before the first command at or behind a multiple of
// anchorEvery. Entries of raft's own, which the store is never shown, do not matter.
type anchors struct {
	mu   sync.Mutex
	all  [anchorsKept]anchor // by number, modulo
	last uint64              // index; 0: none
}

type anchor struct{ index, sum uint64 }

func (a *anchors) add(index, sum uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all[index/anchorEvery%anchorsKept], a.last = anchor{index, sum}, index
}

// clear forgets all: another chain begins.
func (a *anchors) clear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.all[:])
	a.last = 0
}

// Anchor returns the newest place where replicas compare their sums; index 0:
// there is none yet.
func (s *Store) Anchor() (index, sum uint64) {
	s.anchors.mu.Lock()
	defer s.anchors.mu.Unlock()
	one := s.anchors.all[s.anchors.last/anchorEvery%anchorsKept]
	return one.index, one.sum
}

// Summed reports whether there is a chain of sums.
func (s *Store) Summed() bool { return s.summed.Load() }

func sums(machine Machine) bool {
	m, ok := machine.(summer)
	if ok {
		_, ok = m.Sum()
	}
	return ok
}

// SumAt returns the sum at an anchor; false where it is not known (any more).
func (s *Store) SumAt(index uint64) (sum uint64, known bool) {
	s.anchors.mu.Lock()
	defer s.anchors.mu.Unlock()
	one := s.anchors.all[index/anchorEvery%anchorsKept]
	return one.sum, index != 0 && one.index == index
}

// anchorAt notes the sum before a command where it is the first behind a multiple.
func (s *Store) anchorAt(index uint64) {
	m, ok := s.machine.(summer)
	if !ok || index/anchorEvery == s.staged.index/anchorEvery {
		return
	}
	if sum, on := m.Sum(); on {
		s.anchors.add(index/anchorEvery*anchorEvery, sum)
	}
}

// encodeSum writes the record of the chain; nothing where there is none.
func (s *Store) encodeSum(b []byte) []byte {
	m, ok := s.machine.(summer)
	if !ok {
		return b
	}
	sum, on := m.Sum()
	if !on {
		return b
	}
	b = binary.BigEndian.AppendUint64(append(b, spool.SumFormat), s.staged.index)
	return binary.BigEndian.AppendUint64(b, sum)
}

// resume goes on with the chain that a database has.
func resume(r pebble.Reader, machine Machine, index uint64) error {
	m, ok := machine.(summer)
	if !ok {
		return nil
	}
	sum, there, err := readSum(r, index)
	if there {
		m.Resume(sum)
	}
	return err
}

// readSum reads the chain that a database has; false: it has none of that index.
func readSum(r pebble.Reader, index uint64) (sum uint64, there bool, err error) {
	v, c, err := r.Get(sumKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer c.Close()
	if len(v) != 17 || v[0] != spool.SumFormat || binary.BigEndian.Uint64(v[1:]) != index {
		return 0, false, nil
	}
	return binary.BigEndian.Uint64(v[9:]), true, nil
}
