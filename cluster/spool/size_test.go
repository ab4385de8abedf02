package spool_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// TestUnendedMessages: a mailbox counts the last CRLF that POP3 adds, in entries,
// sums and quotas, whichever way the message comes into it.
func TestUnendedMessages(t *testing.T) {
	const header = "Delivered-To: " + alice + "\r\n"
	const size = uint64(len(header) + len("body") + 2)
	r := newSecond(t)
	epoch := r.register("n1", "a")
	r.user(alice)
	send := func(id byte, quota uint64) *pb.Result {
		h := acceptOf(newID(id), epoch, nil, alice)
		h.Message.Unended, h.Drops[0].QuotaBytes = true, quota
		return r.do(spool.KindAccept, h, []byte("body"))
	}
	require.Equal(t, pb.Code_OVER_QUOTA, send(1, size-1).Code)
	require.Equal(t, pb.Code_OK, send(1, size).Code)

	later := acceptOf(newID(2), epoch, []string{alice})
	later.Message.Unended = true
	later.Recipients[0].Route, later.Recipients[0].Drop = spool.MailboxRoute,
		&pb.Drop{Mailbox: alice, Header: []byte(header)}
	require.Equal(t, pb.Code_OK, r.do(spool.KindAccept, later, []byte("body")).Code)
	require.Equal(t, pb.Code_OK, r.settle(epoch, newID(2), 0, 1, pb.State_DELIVERED))

	box, _, err := r.view().Mailbox(alice)
	require.NoError(t, err)
	require.Equal(t, 2*size, box.Bytes)
	require.NoError(t, r.view().Entries(box.Box, 0, func(_ uint64, e *pb.Entry) bool {
		require.Equal(t, size, e.Size)
		return true
	}))
	require.EqualValues(t, 2*len("body"), r.counter(spool.CountSpoolBytes), "what is stored")

	lock := r.do(spool.KindLock, &pb.TakeLock{Mailbox: alice, Node: "n1", Epoch: epoch, Session: "s"})
	require.Equal(t, pb.Code_OK,
		r.do(spool.KindRemove, &pb.Remove{Mailbox: alice, Epoch: epoch, Token: lock.Token, Uids: []uint64{1, 2}}).Code)
	require.Zero(t, r.counter(spool.CountMailboxBytes))
}
