package spool

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	pb "relay/cluster/spool/spoolpb"
)

// SumFormat tells ways of summing apart: sums of different formats can't be
// compared. It changes with whatever changes what is summed. A node whose store has
// another one has no chain until the states have been compared by a Mark.
const SumFormat = 2

// summed is how many octets of a large body are summed, half of them from each end: it is
// the log's own, and as such the same everywhere.
const summed = 1 << 10

// sums is a chain of hashes over what commands wrote and answered. Replicas whose
// chains differ at one index have diverged, and stay different for ever after. It
// begins with a Raise, the same on all nodes, and covers neither the clock nor the
// counters as Flush writes them: batches end anywhere.
type sums struct {
	on    bool
	value uint64
	buf   []byte // what the present command did
}

// Sum returns the chain up to the last command; false: it has not begun.
func (m *Machine) Sum() (uint64, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.st.sums.value, m.st.sums.on
}

// Resume goes on with a chain, as the store kept it.
func (m *Machine) Resume(sum uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.st.sums.on, m.st.sums.value = true, sum
}

// start begins the chain anew at an index.
func (s *sums) start(index uint64) {
	s.on, s.value = true, xxhash.Sum64(binary.BigEndian.AppendUint64([]byte("relay"), index))
}

// begin begins a command.
func (s *sums) begin(c Command, index uint64) {
	if s.on {
		s.buf = binary.LittleEndian.AppendUint64(append(s.buf[:0], byte(c.Kind)), index)
		s.buf = binary.LittleEndian.AppendUint64(s.buf, uint64(c.At))
	}
}

// write notes a write; op tells its kinds apart.
func (s *sums) write(op byte, k, v []byte) {
	if !s.on {
		return
	}
	s.buf = binary.LittleEndian.AppendUint32(append(s.buf, op), uint32(len(k)))
	s.buf = binary.LittleEndian.AppendUint32(s.buf, uint32(len(v)))
	s.buf = append(s.buf, k...)
	if len(v) > summed && len(k) > 0 && k[0] == kBody {
		s.buf = append(s.buf, v[:summed/2]...)
		v = v[len(v)-summed/2:]
	}
	s.buf = append(s.buf, v...)
}

// count notes a change of a counter.
func (s *sums) count(name string, by int64) {
	if s.on {
		s.buf = binary.LittleEndian.AppendUint64(append(append(s.buf, 'c'), name...), uint64(by))
	}
}

// end closes a command with what it was answered. Texts count where they are stored.
func (s *sums) end(res *pb.Result) {
	if !s.on {
		return
	}
	b := binary.LittleEndian.AppendUint64(append(s.buf, 'r', byte(res.GetCode())), uint64(res.GetCount()))
	b = binary.LittleEndian.AppendUint64(b, res.GetToken())
	b = binary.LittleEndian.AppendUint64(b, res.GetEpoch())
	for _, code := range res.GetCodes() {
		b = append(b, byte(code))
	}
	s.buf = b
	var link [16]byte
	binary.LittleEndian.PutUint64(link[:], s.value)
	binary.LittleEndian.PutUint64(link[8:], xxhash.Sum64(b))
	s.value = xxhash.Sum64(link[:])
	if cap(s.buf) > 1<<20 {
		s.buf = nil
	}
}
