package nodetest_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/nodetest"
)

// bigMailbox is how many messages the test's mailbox has; RELAY_SCALE=1 makes
// them 100,000.
func bigMailbox() int {
	if os.Getenv("RELAY_SCALE") == "" {
		return 5000
	}
	return 100_000
}

// TestBigMailbox holds a large mailbox against its budget: login in 300 ms, 200,000
// lines of UIDL a second, 64 octets a message in a session; and prints how long
// the deletion of all of it takes, and holds up others.
func TestBigMailbox(t *testing.T) {
	n := bigMailbox()
	c := nodetest.New(t, nodetest.Options{Nodes: 1})
	m := c.Nodes[0]
	stuff(t, m, "alice@example.test", n)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for range 2 { // the first login hashes the password
		one, err := m.Login(ctx, "alice")
		require.NoError(t, err)
		require.NoError(t, one.Quit(ctx))
	}
	before := heap()
	began := time.Now()
	one, err := m.Login(ctx, "alice")
	require.NoError(t, err)
	login := time.Since(began)
	perMessage := float64(heap()-before) / float64(n)
	count, _, err := one.Stat(ctx)
	require.NoError(t, err)
	require.Equal(t, n, count)
	lines := 0
	began = time.Now()
	require.NoError(t, one.UIDL(ctx, func(int, []byte) { lines++ }))
	rate := float64(lines) / time.Since(began).Seconds()
	require.Equal(t, n, lines)

	began = time.Now()
	require.NoError(t, deleteAll(one, n))
	marks := time.Since(began)
	stalls := watchStalls(ctx, m)
	began = time.Now()
	require.NoError(t, one.Quit(ctx))
	quit := time.Since(began)
	worst, probes := stalls()
	t.Logf("mailbox of %d: login %s, UIDL %.0f lines/s, %.1f octets a message in a session, DELE of all %s, QUIT %s; "+
		"meanwhile %d other commands, the slowest %s",
		n, login.Round(time.Millisecond), rate, perMessage, marks.Round(time.Millisecond), quit.Round(time.Millisecond),
		probes, worst.Round(time.Millisecond))
	one, err = m.Login(ctx, "alice")
	require.NoError(t, err)
	count, _, err = one.Stat(ctx)
	require.NoError(t, err)
	require.Zero(t, count)
	require.NoError(t, one.Quit(ctx))
	if os.Getenv("RELAY_SCALE") != "" { // alone on the machine, or the times mean nothing
		require.Less(t, login, 300*time.Millisecond)
		require.Greater(t, rate, 200_000.0)
		require.Less(t, perMessage, 64.0)
	}
}

// stuff puts n small messages into a mailbox, many at once.
func stuff(t *testing.T, m *nodetest.Member, mailbox string, n int) {
	t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 128 {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				id := spool.ID{1, 2, 3, 4, 5, 6}
				binary.BigEndian.PutUint64(id[8:], uint64(i))
				f, err := spool.Encode(spool.KindAccept, &pb.Accept{
					Message: &pb.Message{Id: id[:], Size: 12, Chunks: 1}, Inline: true, Drops: []*pb.Drop{{Mailbox: mailbox}},
				}, []byte("A: b\r\n\r\nbig\r\n"))
				if err == nil {
					_, err = m.Node().Cluster().Propose(t.Context(), f)
				}
				if err != nil {
					t.Errorf("message %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	require.False(t, t.Failed())
}

type pipelined interface {
	Send(line string) error
	Reply() (string, error)
}

// deleteAll marks all messages, in windows that fit the buffers of a connection.
func deleteAll(one pipelined, n int) error {
	const window = 1000
	for from := 1; from <= n; from += window {
		last := min(from+window-1, n)
		for i := from; i <= last; i++ {
			if err := one.Send(fmt.Sprintf("DELE %d", i)); err != nil {
				return err
			}
		}
		for i := from; i <= last; i++ {
			if _, err := one.Reply(); err != nil {
				return err
			}
		}
	}
	return nil
}

// watchStalls proposes a small command again and again until the function it
// returns is called, which tells how long the slowest took, and how many there
// were.
func watchStalls(ctx context.Context, m *nodetest.Member) func() (time.Duration, int) {
	done, ended := make(chan struct{}), make(chan struct{})
	var took []time.Duration
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			f, err := spool.Encode(spool.KindTally, &pb.Tally{Node: "probe", Seq: uint64(i + 1)})
			if err != nil {
				return
			}
			began := time.Now()
			if _, err := m.Node().Cluster().Propose(ctx, f); err != nil {
				return
			}
			took = append(took, time.Since(began))
		}
	}()
	return func() (time.Duration, int) {
		close(done)
		<-ended
		if len(took) == 0 {
			return 0, 0
		}
		return slices.Max(took), len(took)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}
