package spool

import (
	"testing"

	"github.com/stretchr/testify/require"

	pb "relay/cluster/spool/spoolpb"
)

// BenchmarkSum is what the chain of sums costs one message of 4 KiB into a mailbox.
func BenchmarkSum(b *testing.B) {
	var s sums
	s.start(1)
	body, record, res := make([]byte, 4096), make([]byte, 120), &pb.Result{}
	key := append([]byte{kBody}, record[:20]...)
	for b.Loop() {
		s.begin(Command{Kind: KindAccept, At: 1}, 2)
		s.write('s', key, body)
		for range 5 {
			s.write('s', record[:25], record)
			s.count(CountMailboxMessages, 1)
		}
		s.end(res)
	}
}

// TestLargeValuesAreSummedAtBothEnds: of a large body its length and both of its ends
// count, of a small one, and of any record, every octet.
func TestLargeValuesAreSummedAtBothEnds(t *testing.T) {
	key := []byte{kBody}
	sum := func(change func(v []byte) []byte, size int) uint64 {
		var s sums
		s.start(1)
		s.begin(Command{Kind: KindAccept, At: 1}, 2)
		s.write('s', key, change(make([]byte, size)))
		s.end(&pb.Result{})
		return s.value
	}
	flip := func(at int) func(v []byte) []byte {
		return func(v []byte) []byte {
			v[(at+len(v))%len(v)] = 1
			return v
		}
	}
	same := func(v []byte) []byte { return v }
	for _, size := range []int{1, summed - 1, summed, summed + 1, 4 * summed} {
		seen := map[uint64]bool{sum(same, size): true, sum(same, size+1): true}
		for _, at := range []int{0, min(size, summed)/2 - 1, -min(size, summed) / 2, -1} {
			seen[sum(flip(at), size)] = true
		}
		if size > 1 {
			require.Len(t, seen, 6, size)
		}
	}
	require.Equal(t, sum(same, 4*summed), sum(flip(2*summed), 4*summed), "the middle of a body is the log's own")
	key = []byte{kMeta}
	require.NotEqual(t, sum(same, 4*summed), sum(flip(2*summed), 4*summed), "the middle of a record is not")
}
