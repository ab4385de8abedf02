package clustertest

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"relay/cluster"
	"relay/cluster/disk"
	"relay/cluster/porttest"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/timetest"
)

// Options describe a Group.
type Options struct {
	Nodes     int            // default 3
	Tuning    cluster.Tuning // default Quick
	OnChanges func(node string, c spool.Changes)
	Verbose   bool     // the nodes' logs go to the test's
	Weather   *Weather // of all wires; nil: none, and none can be set
	SlowDisk  func(write func() error) error
	FoundAt   uint32 // cluster version to begin with; 0: the newest
	// Load is cluster.Options.Load of a node; nil: what is right.
	Load func(node string) func(spool.Reader) (disk.Machine, error)
	Max  uint32 // Node.Max of all nodes at their first start
}

// Quick is a tuning for tests: a second where production has two to three. With
// the race detector, under which a heartbeat takes its time, it is two. A leader waits
// for its followers for as long as they wait for it, because a busy machine holds the
// nodes up for some tenths of a second.
func Quick() cluster.Tuning {
	t := cluster.Tuning{
		Heartbeat: 500 * time.Millisecond, Election: 500 * time.Millisecond, LeaderLease: 500 * time.Millisecond,
		CommitTimeout: 5 * time.Millisecond,
		Lease:         1500 * time.Millisecond, Margin: 350 * time.Millisecond, Renew: 250 * time.Millisecond,
		Tick: 50 * time.Millisecond, Promote: 100 * time.Millisecond, Sweep: time.Second, Reclaim: 100 * time.Millisecond,
		GrowTo: -1, MemTable: 8 << 20, BlockCache: 8 << 20,
	}
	if timetest.RaceDetector {
		for _, d := range []*time.Duration{&t.Heartbeat, &t.Election, &t.LeaderLease, &t.Lease, &t.Margin, &t.Renew} {
			*d += *d * 3 / 5
		}
	}
	return t
}

// Group is a cluster in this process.
type Group struct {
	t      testing.TB
	o      Options
	wires  *network
	nodes  []*Node
	copies []*Node // of nodes, beside them
	base   string  // where the nodes' directories are
	dirs   int
	diary  diary
}

// dir makes a directory for a node's data.
func (g *Group) dir() string {
	g.dirs++
	dir := filepath.Join(g.base, fmt.Sprint(g.dirs))
	require.NoError(g.t, os.Mkdir(dir, 0o700))
	return dir
}

// Node is one member of a Group.
type Node struct {
	ID   string
	Dir  string
	Addr string
	// Peers is what Options.Peers of the next start shall be.
	Peers map[string]string
	// Moved is what Options.Moved of the next starts shall be.
	Moved bool
	// Max is the newest cluster version that the node says it knows, from its next
	// start on; 0: what this build knows.
	Max uint32
	// Host is by which name the others know the node's machine, from its next start on;
	// empty: by its IP address.
	Host string
	// Version is what the node says of its build, from its next start on; empty: "test".
	Version string

	g      *Group
	wire   string // its name in the network; a copy has one of its own
	mu     sync.Mutex
	c      *cluster.Cluster
	cancel context.CancelFunc
	ended  chan error
	fatal  error
	skew   atomic.Int64 // of its wall clock
}

// New starts a cluster and waits until every node votes and is ready. All
// nodes are stopped when the test ends.
func New(t testing.TB, o Options) *Group {
	t.Helper()
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Tuning == (cluster.Tuning{}) {
		o.Tuning = Quick()
	}
	// The directory is made first, so that it is removed last.
	g := &Group{t: t, o: o, wires: newNetwork(), base: t.TempDir()}
	g.wires.weather.Store(o.Weather)
	t.Cleanup(g.stopAll)
	t.Cleanup(g.explain)
	for i := range o.Nodes {
		n := g.node(fmt.Sprintf("n%d", i+1))
		g.nodes = append(g.nodes, n)
		l := n.listen()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if i == 0 {
			require.NoError(t,
				cluster.Init(ctx, cluster.InitOptions{ID: n.ID, Name: "test", Dir: n.Dir, Advertise: n.Addr, Log: n.log()}))
		} else {
			require.NoError(t, n.join(ctx, g.nodes[0]))
		}
		require.NoError(t, n.open(l))
		g.WaitReady(n)
		cancel()
	}
	g.WaitVoters(o.Nodes)
	return g
}

func (g *Group) node(id string) *Node {
	return &Node{ID: id, Dir: g.dir(), Max: g.o.Max, g: g, wire: id}
}

// Add joins one more node by way of a member, and waits until it is ready.
func (g *Group) Add(by *Node) *Node {
	g.t.Helper()
	n := g.node(fmt.Sprintf("n%d", len(g.nodes)+1))
	g.nodes = append(g.nodes, n)
	n.Rejoin(by)
	g.WaitReady(n)
	return n
}

// Remove has a node remove a member, and asks again where there was no leader for a moment.
func (g *Group) Remove(by *Node, id string) {
	g.t.Helper()
	g.Eventually(id+" is not removed", func() bool {
		if by.C().Remove(g.t.Context(), id, false, &pb.Admin{Who: "test"}) == nil {
			return true
		}
		s, err := by.C().Status(g.t.Context()) // it may be removed all the same
		return err == nil && !slices.ContainsFunc(s.Members, func(m cluster.MemberStatus) bool {
			return m.ID == id && m.Role != "removed"
		})
	})
}

// Nodes are all members, up or not.
func (g *Group) Nodes() []*Node { return g.nodes }

// Node returns member i, from 0.
func (g *Group) Node(i int) *Node { return g.nodes[i] }

// Up lists the members that run.
func (g *Group) Up() (up []*Node) {
	for _, n := range g.nodes {
		if n.C() != nil {
			up = append(up, n)
		}
	}
	return up
}

// C is the running member, nil while the node is down.
func (n *Node) C() *cluster.Cluster {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.c
}

// Skew makes the node's wall clock wrong by a difference, at once.
func (n *Node) Skew(d time.Duration) { n.skew.Store(int64(d)) }

func (n *Node) wall() time.Time { return time.Now().Add(time.Duration(n.skew.Load())) }

// Fatal is what made the node give up, or nil.
func (n *Node) Fatal() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.fatal
}

func (n *Node) log() *zap.Logger {
	if n.g.o.Verbose {
		return zaptest.NewLogger(n.g.t, zaptest.WrapOptions(zap.Fields(zap.String("at", n.ID))))
	}
	return n.g.diary.logger(n.ID)
}

func (n *Node) listen() net.Listener {
	l := n.bind()
	n.Addr = l.Addr().String()
	if _, port, err := net.SplitHostPort(n.Addr); n.Host != "" && err == nil {
		n.Addr = net.JoinHostPort(n.Host, port)
	}
	n.g.wires.register(n.wire, n.Addr)
	return l
}

// Reserve gives a node that is down, and has no address, a new one.
func (n *Node) Reserve() {
	require.NoError(n.g.t, n.listen().Close())
}

// bind opens the node's port, which stays the same over restarts.
func (n *Node) bind() net.Listener {
	if n.Addr != "" {
		l, err := net.Listen("tcp", n.Addr)
		require.NoError(n.g.t, err)
		return l
	}
	l, err := net.Listen("tcp", porttest.Addr(n.g.t, "127.0.0.1"))
	require.NoError(n.g.t, err)
	return l
}

func (n *Node) join(ctx context.Context, by *Node) error {
	token, err := by.C().Token(ctx, 1, time.Minute, &pb.Admin{Who: "test"})
	if err != nil {
		return err
	}
	return cluster.Join(ctx, cluster.JoinOptions{
		ID: n.ID, Dir: n.Dir, Advertise: n.Addr, Token: token, Addr: by.Addr, Log: n.log(), Dial: n.g.wires.dialer(n.wire),
		MaxVersion: n.Max,
	})
}

func (n *Node) max() uint32 {
	if n.Max != 0 {
		return n.Max
	}
	return spool.MaxVersion
}

func (n *Node) version() string {
	if n.Version != "" {
		return n.Version
	}
	return "test"
}

func (n *Node) open(l net.Listener) error {
	var load func(spool.Reader) (disk.Machine, error)
	if n.g.o.Load != nil {
		load = n.g.o.Load(n.ID)
	}
	c, err := cluster.Open(cluster.Options{
		FoundAt: n.g.o.FoundAt, SlowDisk: n.g.o.SlowDisk, Peers: n.Peers,
		Load: load,
		Dir:  n.Dir, Listener: l, Advertise: n.Addr, Log: n.log(), Tuning: n.g.o.Tuning, Dial: n.g.wires.dialer(n.wire),
		Wall: n.wall, Moved: n.Moved,
		Member: &pb.Member{Version: n.version(), Hostname: n.ID + ".test", MinCommand: spool.MinVersion, MaxCommand: n.max()},
		Fatal: func(err error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			if n.fatal == nil {
				n.fatal = err
			}
		},
		OnChanges: func(ch spool.Changes) {
			if n.g.o.OnChanges != nil {
				n.g.o.OnChanges(n.ID, ch)
			}
		},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	n.mu.Lock()
	n.c, n.cancel, n.ended, n.fatal = c, cancel, ended, nil
	n.mu.Unlock()
	return nil
}

// Start starts a node that is down.
func (n *Node) Start() {
	n.g.t.Helper()
	require.Nil(n.g.t, n.C(), "%s runs", n.ID)
	require.NoError(n.g.t, n.open(n.listen()))
}

// Stop stops a node in order.
func (n *Node) Stop() {
	n.g.t.Helper()
	_, cancel, ended := n.mustDetach()
	cancel()
	select {
	case err := <-ended:
		require.NoError(n.g.t, err)
	case <-time.After(30 * time.Second):
		require.Fail(n.g.t, "a node does not stop", n.ID)
	}
}

// mustDetach is detach for a node that must run.
func (n *Node) mustDetach() (*cluster.Cluster, context.CancelFunc, chan error) {
	n.g.t.Helper()
	c, cancel, ended := n.detach()
	require.NotNil(n.g.t, c, "%s is down", n.ID)
	return c, cancel, ended
}

// detach takes the cluster out of a node; nil: the node is down.
func (n *Node) detach() (*cluster.Cluster, context.CancelFunc, chan error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.c
	n.c = nil
	return c, n.cancel, n.ended
}

// Kill stops a node as kill -9 would: its peers see the connections break,
// nothing is flushed. Start goes on with what was on the disk.
func (n *Node) Kill() {
	n.g.t.Helper()
	c, cancel, ended := n.mustDetach()
	image := n.g.dir()
	err := c.Crash(func() { require.NoError(n.g.t, copyTree(n.Dir, image)) })
	cancel()
	<-ended
	require.NoError(n.g.t, err)
	n.Dir, n.Moved = image, true // the image stands for the directory itself
}

// KillHere is Kill for a node whose next start is on the very same files.
func (n *Node) KillHere() {
	n.g.t.Helper()
	c, cancel, ended := n.mustDetach()
	err := c.Crash(nil)
	cancel()
	<-ended
	require.NoError(n.g.t, err)
}

// Wipe gives a node that is down an empty disk.
func (n *Node) Wipe() {
	require.Nil(n.g.t, n.C(), "%s runs", n.ID)
	n.Dir = n.g.dir()
}

// Rejoin brings a node with an empty disk back by way of another one.
func (n *Node) Rejoin(by *Node) {
	n.g.t.Helper()
	l := n.listen()
	ctx, cancel := context.WithTimeout(n.g.t.Context(), patience)
	defer cancel()
	require.NoError(n.g.t, n.join(ctx, by))
	require.NoError(n.g.t, n.open(l))
}

func (g *Group) stopAll() {
	g.HealAll()
	var wg sync.WaitGroup
	running := g.Up()
	for _, n := range g.copies {
		if n.C() != nil {
			running = append(running, n)
		}
	}
	for _, n := range running {
		wg.Go(func() {
			c, cancel, ended := n.detach()
			// A whole cluster that ends needs no handing over.
			_ = c.Crash(nil)
			cancel()
			<-ended
		})
	}
	wg.Wait()
}

// Cut holds what one node sends to another.
func (g *Group) Cut(from, to *Node) { g.wires.path(from.ID, to.ID).cut() }

// Refuse makes the connections that one node opens to another fail at once; those
// of the other direction do not.
func (g *Group) Refuse(from, to *Node) { g.wires.refuse(from.ID, to.ID, true) }

// Heal lets it through again.
func (g *Group) Heal(from, to *Node) { g.wires.path(from.ID, to.ID).heal() }

// Isolate cuts a node off from all others, in both directions.
func (g *Group) Isolate(n *Node) {
	for _, o := range g.nodes {
		if o != n {
			g.Cut(n, o)
			g.Cut(o, n)
		}
	}
}

// HealAll mends every wire.
func (g *Group) HealAll() { g.wires.healAll() }

// patience is how long a test waits for what comes soon on a machine that is not busy.
const patience = 2 * time.Minute

// Eventually waits for a condition, or fails the test. It asks on the test's goroutine,
// so that no question outlives the test.
func (g *Group) Eventually(what string, cond func() bool) {
	g.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); !cond(); <-tick.C {
		require.Less(g.t, time.Since(began), patience, what)
	}
}

// WaitReady waits until nodes may act.
func (g *Group) WaitReady(nodes ...*Node) {
	g.t.Helper()
	for _, n := range nodes {
		g.Eventually(n.ID+" is not ready", func() bool { return n.C().Ready() == nil })
	}
}

// WaitVoters waits until the cluster has so many voters.
func (g *Group) WaitVoters(want int) {
	g.t.Helper()
	g.Eventually(fmt.Sprintf("no %d voters", want), func() bool {
		s, err := g.Up()[0].C().Status(g.t.Context())
		if err != nil {
			return false
		}
		voters := 0
		for _, m := range s.Members {
			if m.Role == "leader" || m.Role == "voter" {
				voters++
			}
		}
		return voters == want
	})
}

// Leader waits for a leader that a majority follows, and returns it.
func (g *Group) Leader(among ...*Node) *Node {
	g.t.Helper()
	if len(among) == 0 {
		among = g.Up()
	}
	var leader *Node
	g.Eventually("no leader", func() bool {
		votes := map[string]int{}
		for _, n := range among {
			s, err := n.C().Status(g.t.Context())
			if err == nil && s.Leader != "" {
				votes[s.Leader]++
			}
		}
		for _, n := range among {
			if votes[n.ID] > len(g.nodes)/2 {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

// Followers are the running nodes but the leader.
func (g *Group) Followers() (all []*Node) {
	leader := g.Leader()
	for _, n := range g.Up() {
		if n != leader {
			all = append(all, n)
		}
	}
	return all
}

// WaitEqual marks the log, waits until all running nodes have applied the
// mark, and fails the test where their states differ.
func (g *Group) WaitEqual() {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	id := ulid.Make().String()
	up := g.Up()
	res := Propose(ctx, g.t, up[0], spool.KindMark, &pb.Mark{Id: id})
	var first []byte
	for _, n := range up {
		require.NoError(g.t, n.C().WaitApplied(ctx, res.Index), "%s", n.ID)
		_, sum, err := n.C().MarkHash(ctx, id)
		require.NoError(g.t, err, "%s", n.ID)
		if first == nil {
			first = sum
		}
		require.Equal(g.t, first, sum, "the state of %s differs from that of %s", n.ID, up[0].ID)
		require.NoError(g.t, n.Fatal(), "%s", n.ID)
	}
}

func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o600)
	})
}
