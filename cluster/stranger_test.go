package cluster_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster"
	"relay/cluster/clustertest"
	pb "relay/cluster/spool/spoolpb"
)

// TestAStrangerMaySayHelloAlone: a node that hears no leader takes a hello of a node that
// it does not know as a member, as that may be one that joined meanwhile. It answers
// nothing else, and takes no proposals.
func TestAStrangerMaySayHelloAlone(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	off := g.Followers()[0]
	off.Stop()
	stranger := g.Add(g.Leader())
	for _, n := range g.Up() {
		if n != stranger {
			n.Kill()
		}
	}
	off.Start()
	off.C().Handle("greet", func(context.Context, string, []byte) ([]byte, error) { return []byte("hello"), nil })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	g.Eventually("it takes no hello", func() bool { return stranger.C().SayHello(ctx, off.ID) == nil })
	require.True(t, off.C().Keeps(stranger.ID), "housekeeping ends the connection that the stranger speaks on")

	_, err := stranger.C().Ask(ctx, off.ID, "greet", nil)
	var remote *cluster.RemoteError
	require.ErrorAs(t, err, &remote)
	require.Equal(t, "the asker is not a member", remote.Text)
	g.Eventually("it does not refuse proposals", func() bool { // the last try need not say why
		err := stranger.C().ProposeTo(t.Context(), off.ID)
		return err != nil && strings.Contains(err.Error(), "the asker is not a member")
	})
}

// TestWhoLeavesGetsTheAnswer: housekeeping cuts off former members, but not one that waits
// for the word that it is removed.
func TestWhoLeavesGetsTheAnswer(t *testing.T) {
	t.Parallel()
	g := clustertest.New(t, clustertest.Options{})
	leader, gone := g.Leader(), g.Followers()[0]
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			leader.C().CutOff()
			runtime.Gosched()
		}
	}()
	err := gone.C().Leave(t.Context(), &pb.Admin{Who: "test"})
	cancel()
	<-ended
	require.NoError(t, err)
	g.WaitVoters(2)
	g.Eventually("its connection stays for good", func() bool {
		leader.C().CutOff()
		return !leader.C().Keeps(gone.ID)
	})
}
