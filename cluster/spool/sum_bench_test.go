package spool

import (
	"testing"

	pb "relay/cluster/spool/spoolpb"
)

// BenchmarkSum is what the chain of sums costs one message of 4 KiB into a mailbox.
func BenchmarkSum(b *testing.B) {
	var s sums
	s.start(1)
	body, record, res := make([]byte, 4096), make([]byte, 120), &pb.Result{}
	for b.Loop() {
		s.begin(Command{Kind: KindAccept, At: 1}, 2)
		s.write('s', record[:21], body)
		for range 5 {
			s.write('s', record[:25], record)
			s.count(CountMailboxMessages, 1)
		}
		s.end(res)
	}
}
