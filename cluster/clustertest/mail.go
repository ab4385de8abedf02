package clustertest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// Ledger sends messages to one mailbox by way of many nodes, and remembers
// which of them were acknowledged.
type Ledger struct {
	g       *Group
	mailbox string

	// Pause is what a sender of Flood waits between two messages; 0: they load the
	// machine as much as they can. NewLedger sets 10 ms.
	Pause time.Duration

	sent     atomic.Int64
	failures atomic.Int64

	mu sync.Mutex
	ok map[spool.ID]bool
}

// NewLedger makes a mailbox.
func (g *Group) NewLedger() *Ledger {
	ctx, n := g.t.Context(), g.Leader()
	mailbox := "alice@example.test"
	Propose(ctx, g.t, n, spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "example.test"}})
	Propose(ctx, g.t, n, spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: mailbox}})
	return &Ledger{g: g, mailbox: mailbox, ok: map[spool.ID]bool{}, Pause: 10 * time.Millisecond}
}

// Send sends one message by way of a node. It returns an error where the
// message was not acknowledged: it may be there or not.
func (l *Ledger) Send(ctx context.Context, n *Node, size int) error {
	c := n.C()
	if c == nil {
		return fmt.Errorf("%s is down", n.ID)
	}
	id := ulid.Make()
	f, err := spool.Encode(spool.KindAccept, &pb.Accept{
		Message: &pb.Message{Id: id[:], Sender: "bob@example.test", Size: uint64(size), Chunks: 1},
		Inline:  true, Drops: []*pb.Drop{{Mailbox: l.mailbox, Recipient: l.mailbox}},
	}, make([]byte, size))
	if err != nil {
		return err
	}
	l.sent.Add(1)
	res, err := c.Propose(ctx, f)
	switch {
	case err != nil:
		l.failures.Add(1)
		return err
	case res.Code != pb.Code_OK && res.Code != pb.Code_DUPLICATE:
		l.failures.Add(1)
		return fmt.Errorf("%s: %s", res.Code, res.Text)
	}
	l.mu.Lock()
	l.ok[id] = true
	l.mu.Unlock()
	return nil
}

// MustSend sends one message, again where a node had no leader for a moment.
func (l *Ledger) MustSend(n *Node, size int) {
	l.g.t.Helper()
	l.g.Eventually(n.ID+" takes no message", func() bool {
		err := l.Send(l.g.t.Context(), n, size)
		require.True(l.g.t, err == nil || transient(err), "%v", err)
		return err == nil
	})
}

// Acknowledged is how many messages were.
func (l *Ledger) Acknowledged() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.ok)
}

// Sent is how many were tried.
func (l *Ledger) Sent() int { return int(l.sent.Load()) }

// Flood sends from so many goroutines a node until the returned function is
// called; that one waits for the last of them.
func (l *Ledger) Flood(ctx context.Context, each, size int, nodes ...*Node) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	done := make(chan struct{})
	for _, n := range nodes {
		for range each {
			wg.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					if l.Send(ctx, n, size) != nil {
						// The node is down, or has lost its leader: a client
						// would come back a little later.
						nap(done, 20*time.Millisecond)
					} else if l.Pause > 0 {
						nap(done, l.Pause)
					}
				}
			})
		}
	}
	return func() {
		close(done)
		wg.Wait()
		cancel()
	}
}

// Check fails the test unless every acknowledged message is in the mailbox
// exactly once on every running node, and nothing is there twice. All nodes
// must be the same.
func (l *Ledger) Check() {
	t := l.g.t
	t.Helper()
	l.g.WaitEqual()
	for _, n := range l.g.Up() {
		there := map[spool.ID]int{}
		uids := map[uint64]bool{}
		require.NoError(t, n.C().View(func(v spool.View) error {
			box, ok, err := v.Mailbox(l.mailbox)
			require.True(t, ok)
			if err != nil {
				return err
			}
			return v.Entries(box.Box, 0, func(uid uint64, e *pb.Entry) bool {
				there[spool.ID(e.Id)]++
				require.False(t, uids[uid], "uid %d twice", uid)
				uids[uid] = true
				return true
			})
		}))
		l.mu.Lock()
		for id := range l.ok {
			require.Equal(t, 1, there[id], "acknowledged message %s on %s", id, n.ID)
		}
		for id, times := range there {
			require.Equal(t, 1, times, "message %s on %s", id, n.ID)
		}
		l.mu.Unlock()
	}
	t.Logf("%d sent, %d acknowledged", l.Sent(), l.Acknowledged())
}
