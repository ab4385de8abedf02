package plan

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
)

// A recipient that is taken at RCPT must fit the frame at the end of the data.
func TestWeightIsNotLessThanTheRecord(t *testing.T) {
	for _, n := range []int{1, 20, 240} {
		address := strings.Repeat("a", n) + "@example.test"
		local := Recipient{
			Address: address, Original: address, Notify: 4, Targets: []directory.Target{{Recipient: address, Mailbox: address}},
		}
		remote := Recipient{Address: address, Original: address, Notify: 4, Targets: []directory.Target{{Recipient: address}}}
		drop, entry := &pb.Accept{Drops: []*pb.Drop{newDrop(address, local.Targets[0])}},
			&pb.Accept{Recipients: []*pb.Recipient{
				{Address: address, Original: address, Notify: 4, NextMs: time.Now().UnixMilli()},
			}}
		require.GreaterOrEqual(t, local.Weight(address, false), proto.Size(drop))
		require.GreaterOrEqual(t, remote.Weight(address, false), proto.Size(entry))
		entry.Recipients[0].Route, entry.Recipients[0].Drop = spool.MailboxRoute, drop.Drops[0]
		require.GreaterOrEqual(t, local.Weight(address, true), proto.Size(entry))
	}
}
