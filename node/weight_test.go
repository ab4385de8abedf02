package node

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	pb "relay/cluster/spool/spoolpb"
)

// What is taken at RCPT must fit the frame at the end of the data.
func TestWeightIsNotLessThanTheRecord(t *testing.T) {
	for _, n := range []int{1, 20, 240} {
		address := strings.Repeat("a", n) + "@example.test"
		local := rcpt{address: address, original: address, notify: 4, targets: []target{{recipient: address, mailbox: address}}}
		remote := rcpt{address: address, original: address, notify: 4, targets: []target{{recipient: address}}}
		drop, entry := &pb.Accept{Drops: []*pb.Drop{newDrop(address, local.targets[0])}}, &pb.Accept{Recipients: []*pb.Recipient{
			{Address: address, Original: address, Notify: 4, NextMs: time.Now().UnixMilli()},
		}}
		require.GreaterOrEqual(t, local.weight(address), proto.Size(drop))
		require.GreaterOrEqual(t, remote.weight(address), proto.Size(entry))
	}
}
