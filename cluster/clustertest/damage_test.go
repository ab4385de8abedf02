package clustertest_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster"
	"relay/cluster/clustertest"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// flip turns bits round in the middle of each file of a directory that fits,
// and returns how many it did.
func flip(t *testing.T, dir string, fits func(name string) bool) (n int) {
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !fits(d.Name()) {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for at := len(b) / 4; at < len(b)*3/4; at += 512 {
			b[at] ^= 0x55
		}
		n++
		return os.WriteFile(path, b, 0o600)
	}))
	return n
}

// comesUp opens a node's directory and lets it take part for a while; it
// returns what the node gave up for, or nil.
func comesUp(t *testing.T, g *clustertest.Group, n *clustertest.Node) error {
	var fatal atomic.Pointer[error]
	c, err := cluster.Open(cluster.Options{
		Dir: n.Dir, Listen: n.Addr, Advertise: n.Addr, Log: zap.NewNop(), Tuning: clustertest.Quick(),
		Member: &pb.Member{Version: "test"}, Fatal: func(err error) { fatal.CompareAndSwap(nil, &err) },
	})
	if err != nil {
		return err
	}
	defer func() { _ = c.Crash(nil) }()
	gaveUp := func() bool { return fatal.Load() != nil }
	// All of its state is read for the mark's hash.
	id := ulid.Make().String()
	clustertest.Propose(t.Context(), t, g.Leader(g.Up()...), spool.KindMark, &pb.Mark{Id: id})
	marked := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	go func() {
		_, _, err := c.MarkHash(ctx, id)
		marked <- err
	}()
	for {
		select {
		case err := <-marked:
			return err
		case <-time.After(10 * time.Millisecond):
			if gaveUp() {
				return *fatal.Load()
			}
		}
	}
}

// TestFlippedBitsAreFound damages what one node has on disk. It must notice,
// and not serve with it; the others go on, and it can be rebuilt from them.
// (Entries of the log are checked when they are read: see package disk.)
func TestFlippedBitsAreFound(t *testing.T) {
	t.Parallel()
	tables := func(name string) bool { return strings.HasSuffix(name, ".sst") || strings.HasSuffix(name, ".blob") }
	g := clustertest.New(t, clustertest.Options{})
	l := g.NewLedger()
	for range 60 {
		l.MustSend(g.Node(0), 20_000)
	}
	g.WaitEqual()
	n := g.Followers()[0]
	n.Stop()
	require.NotZero(t, flip(t, n.Dir, tables))
	err := comesUp(t, g, n)
	require.Error(t, err, "a damaged node serves")
	require.False(t, errors.Is(err, context.DeadlineExceeded), "%v", err)
	t.Log(err)
	l.MustSend(g.Up()[0], 1000)
	n.Wipe()
	n.Rejoin(g.Up()[0])
	g.WaitReady(n)
	l.Check()
}
