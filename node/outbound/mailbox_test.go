package outbound

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica"
	"relay/node/replica/replicatest"
	"relay/queue"
)

// behind is a node that has not applied all there is.
type behind struct {
	fake
	*replicatest.Behind
}

// fake stands between a node and its Fake, so that what Behind does is what counts.
type fake struct{ *replicatest.Fake }

// TestRefusalOfAMailboxIsTrue: mail that waited for a mailbox is not returned by a node
// that has not applied yet that the mailbox is enabled again, and it is returned where
// the mailbox is disabled for every node.
func TestRefusalOfAMailboxIsTrue(t *testing.T) {
	r := replicatest.New(t)
	r.Register()
	r.AddAlice("")
	id := spool.ID{9}
	r.Must(spool.KindAccept, &pb.Accept{
		Message: &pb.Message{Id: id[:]}, Inline: true, Epoch: r.Session, Recipients: []*pb.Recipient{{
			Address: replicatest.Alice, Route: spool.MailboxRoute, Drop: &pb.Drop{Mailbox: replicatest.Alice},
		}},
	}, []byte("a: b\r\n\r\n"))
	r.Change(func(a *pb.Account) { a.Disabled = true })
	node := behind{fake{r}, replicatest.NewBehind(r, nil)}
	agent := NewMailboxAgent(nil, replica.NewConfirmer(node, zap.NewNop()))
	ctx := t.Context()
	deliver := func() queue.Verdict {
		job := &queue.Job{ID: queue.ID(id), Route: spool.MailboxRoute, Recipients: make([]queue.Recipient, 1)}
		return agent.Deliver(ctx, job)[0]
	}

	v := deliver()
	require.Equal(t, queue.Failed, v.Outcome)
	require.Equal(t, "5.2.1 the mailbox is disabled", v.Reply)
	require.Equal(t, 1, node.Fresh)

	r.Fail = fmt.Errorf("%w: no leader", cluster.ErrUnavailable)
	v = deliver()
	require.Equal(t, queue.Deferred, v.Outcome, "nobody can tell")
	require.False(t, v.Untried)
	over, end := context.WithCancel(t.Context())
	end()
	ctx = over
	v = deliver()
	require.Equal(t, queue.Deferred, v.Outcome)
	require.True(t, v.Untried, "the node may not act any more")
	ctx = t.Context()
	r.Fail = nil

	before := node.Fresh
	r.Change(func(a *pb.Account) { a.Disabled = false })
	require.Equal(t, queue.Delivered, deliver().Outcome)
	require.Equal(t, before+1, node.Fresh)
	require.Equal(t, queue.Delivered, deliver().Outcome)
	require.Equal(t, before+1, node.Fresh, "what is not refused costs nothing")
}
