package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"relay/cluster/clock"
	"relay/cluster/datadir"
	"relay/cluster/disk"
	raftlog "relay/cluster/disk/log"
	"relay/cluster/diverge"
	"relay/cluster/internal/wire"
	"relay/cluster/liveness"
	"relay/cluster/members"
	"relay/cluster/pki"
	"relay/cluster/propose"
	"relay/cluster/rounds"
	"relay/cluster/secret"
	"relay/cluster/session"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/transport"
	"relay/cluster/tuning"
)

// Cluster is this node's membership in the cluster. All methods may be called
// concurrently; after Run has returned only the identity is left.
type Cluster struct {
	o   Options
	t   tuning.Tuning
	log *zap.Logger
	id  *datadir.Identity

	store     *disk.Store
	rlog      *raftlog.Log
	promise   *datadir.Promise
	clocks    *clock.Clocks
	now       *clock.StateClock
	steered   atomic.Bool   // this process has led before
	timeFound atomic.Bool   // and has seen the state's time near what a majority agrees on
	founding  atomic.Bool   // the cluster's first records are not there yet
	agree     atomic.Bool   // the clocks of a majority with the state's time, as of a second ago
	jumps     atomic.Int64  // of the state's time that were applied here
	holdUntil atomic.Int64  // in Unix milliseconds: nothing goes by age before
	judging   sync.Mutex    // of judgeClocks
	short     atomic.Bool   // of space: the disk
	pinch     chan struct{} // it has become so
	port      *wire.Port
	trans     transport.Transport
	raft      *raft.Raft
	grpc      *grpc.Server

	reload *tuning.Reloader // of raft's configuration
	pace   *tuning.Pace

	book        *members.AddressBook
	roster      *pki.Roster               // which certificates count
	self        atomic.Pointer[wire.Peer] // our own
	newCA       chan struct{}             // the state's word on certificates has changed
	adopting    sync.Mutex                // one change of our credential at a time
	says        atomic.Pointer[[]byte]    // of the CA, in renewals
	leaderWatch *propose.LeaderWatch
	proposer    *propose.Proposer
	batcher     *propose.Batcher
	peers       *propose.Peers
	server      *propose.Server
	detector    *liveness.Detector // since when sessions have not been renewed
	session     *session.Session
	leaderTerm  atomic.Pointer[leaderTerm] // nil unless leading, with the barrier done
	leaving     atomic.Pointer[leaver]     // the last node that asked to be removed
	seen        atomic.Pointer[seenSessions]
	reads       *rounds.Rounds[uint64] // read indexes for this node
	verified    *rounds.Rounds[uint64] // read indexes as the leader gives them
	reports     reports
	refused     wire.Sparing // lines about nodes that were not let in
	outcast     sync.Once    // this node has met a later generation
	joining     sync.Mutex   // one membership change by a person at a time
	secrets     *secret.Keeper
	version     atomic.Uint32 // of the cluster, as applied here
	draining    atomic.Bool   // this node is, as applied here
	began       time.Time     // when this process opened the node
	uptimes     uptimes
	comparer    *diverge.Comparer
	beckoned    sync.Map      // servers that this leader says hello to just now
	heeding     atomic.Bool   // a stranger is being asked back
	here        []string      // nonces of registrations by former processes in this place
	former      atomic.Uint64 // session of such a process
	birth       string        // names this start of the node
	vetted      chan struct{} // closed when this start may take part
	born        string        // birth of the log's file
	copied      atomic.Bool   // the file is not the one beside which the promise was made
	copiedSaid  wire.Sparing
	newer       atomic.Bool           // a member said that the cluster version is 2 or later
	rival       atomic.Pointer[rival] // the session this node's id had when it started, as the leader knows it

	ctx      context.Context // ends when everything must stop
	cancel   context.CancelFunc
	acting   context.CancelFunc // ends the session's goroutine
	acted    chan struct{}      // closed when it has ended
	gateEnd  context.CancelFunc
	wg       sync.WaitGroup
	batchers sync.WaitGroup
	stop     sync.Once
	stopErr  error
}

// Open opens a node that Init or Join made, and starts it: when it returns,
// the port accepts, the log runs, and the node looks for its leader. The
// caller must call Run, which also ends it.
func Open(o Options) (*Cluster, error) {
	if err := datadir.CheckNode(o.Dir, o.ID); err != nil {
		if o.Listener != nil {
			err = errors.Join(err, o.Listener.Close())
		}
		return nil, err
	}
	if o.Listener == nil {
		l, err := net.Listen("tcp", o.Listen)
		if err != nil {
			return nil, fmt.Errorf("cluster: %w", err)
		}
		o.Listener = l
	}
	c, err := open(o)
	if err != nil {
		return nil, errors.Join(err, o.Listener.Close())
	}
	return c, nil
}

func open(o Options) (*Cluster, error) {
	id, err := datadir.Load(o.Dir)
	if err != nil {
		return nil, err
	}
	if o.Advertise != "" {
		id.Advertise = o.Advertise
	}
	if err := datadir.CheckNames(id.Node, id.Advertise); err != nil {
		return nil, err
	}
	me, err := id.Wire()
	if err != nil {
		return nil, err
	}
	self, err := me.Self()
	if err != nil {
		return nil, fmt.Errorf("cluster: the node's certificate: %w", err)
	}
	c := &Cluster{
		o: o, t: o.Tuning.WithDefaults(), log: o.Log, id: id,
		leaderWatch: propose.NewLeaderWatch(),
		server:      propose.NewServer(),
		reports:     reports{seen: map[string]report{}},
		pinch:       make(chan struct{}, 1),
		newCA:       make(chan struct{}, 1),
		clocks:      clock.NewClocks(o.Wall, o.Boot),
		birth:       session.NewNonce(), vetted: make(chan struct{}), began: time.Now(),
	}
	c.self.Store(&self)
	c.founding.Store(id.Fresh && id.CAKey != "")
	c.says.Store(new([]byte))
	c.now = clock.NewStateClock(c.clocks)
	c.pace = tuning.NewPace(c.t)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.proposer = propose.New(propose.Ports{
		Self: id.Node, Deadline: c.t.Deadline, Budget: c.t.Budget, Boot: c.clocks.Boot, At: c.At, Ended: c.ctx.Done(),
	}, c.leaderWatch)
	c.book = members.NewAddressBook(id.Node, members.NewPlaces(id.Advertise, o.Peers, id.Peers))
	if err := c.openAdmission(); err != nil {
		c.cancel()
		return nil, err
	}
	c.book.OnLog = func(node string) { c.trans.Acks.Forget(node) }
	_, generation := wire.GenerationOf(id.CertName())
	c.roster = pki.NewRoster(c.Now, generation)
	c.port = wire.New(wire.Options{
		Listener: o.Listener, Identity: me, Allow: c.allow, Later: c.outlived, Dial: o.Dial, Log: o.Log,
	})
	if err := c.openRaft(); err != nil {
		c.cancel()
		return nil, errors.Join(err, c.port.Close())
	}
	c.start()
	return c, nil
}

// members.OpenAdmission opens the record of who is a member.
func (c *Cluster) openAdmission() error {
	a, err := members.OpenAdmission(c.o.Dir, c.id.Node, c.id.Peers)
	if err != nil {
		return err
	}
	a.Joined = c.id.Joined
	// Raft does not say which entry its latest configuration is of.
	a.Latest = func() ([]raft.Server, uint64) {
		servers := c.book.Servers()
		if servers == nil {
			return nil, 0
		}
		return servers, c.store.ConfigIndex()
	}
	c.book.Admission = a
	return nil
}

// openRaft opens what is on disk and starts raft on it.
func (c *Cluster) openRaft() error {
	d, err := datadir.OpenData(c.o.Dir, c.t, c.log, disk.Options{OnChanges: c.changed, Load: c.o.Load}, c.o.SlowDisk,
		c.fatal)
	if err != nil {
		return err
	}
	c.store, c.rlog = d.Store, d.Log
	c.trans = transport.New(c.port, c.book, c.log, c.pace.Answered)
	entries := c.trans.Quiesce(d.Log, c.t.Quiet, c.t.Pulse(), c.t.Renew)
	conf := c.t.RaftConfig(c.id.Node, c.log)
	if err = c.promiseOf(d); err != nil {
		return errors.Join(fmt.Errorf("cluster: start: %w", err), c.trans.Close(), d.Close())
	}
	err = c.id.Settle(c.o.Dir, d.Log, func() error { return c.bootstrap(conf, d) })
	if err == nil {
		err = d.Store.View(c.book.Learn)
	}
	if err == nil {
		err = d.Store.View(c.roster.Learn)
	}
	if err == nil {
		err = d.Store.View(c.learnVersion)
	}
	if err == nil && c.At(2) {
		err = d.Log.SealPromises()
	}
	if err == nil {
		err = d.Store.View(c.learnTime)
	}
	if err == nil {
		c.raft, err = raft.NewRaft(conf, d.Store, entries, d.Log, d.Store.Snapshots(), c.trans)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cluster: start: %w", err), c.trans.Close(), c.promise.Close(), d.Close())
	}
	c.book.Follow(c.raft)
	c.guard()
	c.reload = tuning.NewReloader(c.raft)
	return nil
}

// guard sets the filter before raft, and the last line behind it: the log.
func (c *Cluster) guard() {
	leads := func(term uint64) bool { return c.raft.State() == raft.Leader && c.raft.CurrentTerm() == term }
	c.trans.Guard(transport.Guards{
		Admits: c.book.Admission.Member, Term: c.raft.CurrentTerm, Floor: c.floor, Applied: c.store.Applied,
		TermAt: c.rlog.TermAt,
		Leader: func() string {
			_, id := c.raft.LeaderWithID()
			return string(id)
		},
		Leads: leads, Commit: c.raft.CommitIndex,
		Petty: func(e *raft.Log) bool {
			return e.Type == raft.LogCommand && spool.Frame(e.Data).Kind() == spool.KindRenew
		},
		Serves: func(node string, term uint64) bool { return leads(term) && c.book.Member(node) },
		Voted: func(term uint64, took time.Duration) {
			c.pace.Voted(c.clocks.Boot(), term, took, len(c.others()))
		},
		Fatal: c.fatal,
	})
	c.rlog.Floor(c.floor)
}

// floor is the index up to which everything is surely committed, as far as this
// node knows: by what it has applied, or had before it was killed.
func (c *Cluster) floor() uint64 { return max(c.store.Applied(), c.promise.Look().Commit) }

// bootstrap writes the first entry of a new cluster's log: this node, alone.
func (c *Cluster) bootstrap(conf *raft.Config, d *datadir.Data) error {
	had, err := raft.HasExistingState(d.Log, d.Log, d.Store.Snapshots())
	if err != nil || had {
		return err
	}
	return raft.BootstrapCluster(conf, d.Log, d.Log, d.Store.Snapshots(), c.trans, raft.Configuration{
		Servers: []raft.Server{{ID: conf.LocalID, Address: raft.ServerAddress(c.id.Advertise)}},
	})
}

// start starts every goroutine but raft's own.
func (c *Cluster) start() {
	c.peers = propose.NewPeers(c.ctx, c.port, c.book, c.log)
	c.batcher = propose.NewBatcher(c.raft, c.t, c.proposer.Admits, c.clocks.Quick)
	c.proposer.Batcher, c.proposer.Peers = c.batcher, c.peers
	c.server.Batcher, c.server.Mark, c.server.Asks = c.batcher, c.withCertificate, c.book.MayAsk
	c.reads = rounds.New(c.ctx, &c.wg, 0, c.fetchReadIndex)
	c.verified = rounds.New(c.ctx, &c.wg, 0, c.readIndex)
	c.server.Handle(askReadIndex, c.answerReadIndex)
	c.server.Handle(askStatus, c.answerReport)
	c.server.Handle(askJoin, c.admit)
	c.server.Handle(askMember, c.answerMember)
	c.server.Handle(askCertify, c.answerCertify)
	c.server.Handle(askCertifyFor, c.answerCertifyFor)
	c.server.Handle(askRotate, c.answerRotate)
	c.server.Handle(askRemove, c.answerRemove)
	c.server.Handle(askTransfer, c.answerTransfer)
	c.server.Handle(askUpgrade, c.answerRaise)
	c.server.Handle(propose.AskHello, c.answerHello)
	c.secrets = c.newKeeper()
	c.server.Handle(secret.Subject, c.secrets.Answer)
	c.comparer = c.newComparer()
	c.session = c.newSession()

	gateCtx, gateEnd := context.WithCancel(context.Background())
	c.gateEnd = gateEnd
	for range c.t.BatchDepth {
		c.batchers.Add(1)
		go func() {
			defer c.batchers.Done()
			c.batcher.Run(gateCtx)
		}()
	}
	c.grpc = c.server.GRPC()
	for _, proto := range []string{wire.RPC, wire.Bulk} {
		c.goRun(func() { _ = c.grpc.Serve(c.port.Listen(proto)) })
	}
	c.goRun(func() { c.joinServer(c.ctx) })
	c.detector = liveness.NewDetector(c.t.Lease, c.t.Margin)
	c.goRun(func() { c.observeSessions(c.ctx) })
	c.goRun(func() { c.watch(c.ctx) })
	c.goRun(func() { c.runEarlyElection(c.ctx) })
	c.goRun(func() { c.housekeep(c.ctx) })
	c.goRun(func() { c.comparer.Run(c.ctx) })
	c.goRun(func() { c.reclaim(c.ctx) })
	if len(c.id.Outcasts) > 0 {
		c.goRun(func() { c.proclaim(c.ctx) })
	}
	c.goRun(func() { c.certificates(c.ctx) })
	c.port.Start()
	c.goRun(func() { c.vet(c.ctx) })
	c.electSole()
	acting, stop := context.WithCancel(c.ctx)
	c.acting, c.acted = stop, make(chan struct{})
	go func() {
		defer close(c.acted)
		if c.awaitVetted(acting) {
			c.session.Run(acting)
		}
	}()
}

func (c *Cluster) goRun(fn func()) {
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		fn()
	}()
}

func (c *Cluster) newSession() *session.Session {
	s := session.New(c.t)
	m := proto.CloneOf(c.o.Member)
	if m == nil {
		m = &pb.Member{}
	}
	m.Id, m.Address = c.id.Node, c.id.Advertise
	if m.MaxCommand == 0 {
		m.MinCommand, m.MaxCommand = spool.MinVersion, spool.MaxVersion
	}
	s.Member, s.Log, s.Now, s.Recent = m, c.log, c.clocks.Boot, c.clocks.Recent
	s.Send = func(ctx context.Context, f spool.Frame, t *propose.Trip) (*pb.Result, time.Duration, error) {
		return c.proposer.ProposeTimed(ctx, c.withCertificate(f, c.self.Load()), t)
	}
	s.Leased, s.Says = func() bool { return c.At(2) }, func() []byte { return *c.says.Load() }
	s.Prober = session.NewProber(c.slowProbe, c.t.Renew, s.Now)
	s.Behind = c.store.Applied
	s.Barred, s.Anchor = c.barred, c.anchor
	s.Wall = func() int64 {
		if !c.At(2) {
			return 0 // members of version 1 do not know the field
		}
		return c.clocks.Wall().UnixMilli()
	}
	s.Claims = &claims{c: c}
	s.Place = func() (uint64, uint64) {
		if !c.At(2) {
			return 0, 0
		}
		return c.place()
	}
	return s
}

// slowProbe is probe on a disk that may be made slow.
func (c *Cluster) slowProbe() error {
	if c.o.SlowDisk != nil {
		return c.o.SlowDisk(c.probe)
	}
	return c.probe()
}

// electSole spares a cluster of one the wait for a leader that can't be: it
// tells its own raft to stand for election now, as a leader that hands over
// would.
func (c *Cluster) electSole() {
	if !c.alone() || !c.allVote() {
		return
	}
	c.goRun(func() {
		if !c.awaitVetted(c.ctx) {
			return
		}
		if err := c.stand(); err != nil {
			c.log.Debug("cluster: no early election", zap.Error(err))
		}
	})
}

// changed runs on the applying goroutine.
func (c *Cluster) changed(ch spool.Changes) {
	if ch.Clock || ch.Restored {
		c.judgeClocks() // before Now jumps: nothing may go by age then
	}
	c.now.Applied(ch.ClockMs, ch.Clock || ch.Restored)
	if ch.Clock {
		c.jumps.Add(1)
	}
	if ch.Version != 0 || ch.Members || ch.Restored {
		if err := c.store.View(c.learnVersion); err != nil {
			c.log.Warn("cluster: the cluster version can't be read", zap.Error(err))
		}
	}
	if ch.Members || ch.Sessions || ch.Restored {
		if err := c.store.View(c.roster.Learn); err != nil {
			c.log.Warn("cluster: certificates can't be read", zap.Error(err))
		}
	}
	if ch.Members || ch.Restored {
		select {
		case c.newCA <- struct{}{}:
		default:
		}
	}
	if ch.Sessions {
		// Registrations come with sessions, and may bring a new address.
		if err := errors.Join(c.store.View(c.book.Learn), c.store.View(c.learnDrain)); err != nil {
			c.log.Warn("cluster: members can't be read", zap.Error(err))
		}
	}
	if c.o.OnChanges != nil {
		c.o.OnChanges(ch)
	}
}

// learnVersion reads the cluster version from the state.
func (c *Cluster) learnVersion(v spool.View) error {
	record, there, err := v.Cluster()
	if err == nil && there {
		c.version.Store(spool.VersionOf(record))
	}
	return err
}

// learnDrain reads whether this node is being drained.
func (c *Cluster) learnDrain(v spool.View) error {
	s, there, err := v.Session(c.id.Node)
	if err == nil {
		c.draining.Store(there && s.Draining)
	}
	return err
}

// learnTime goes on from where the state's time stood.
func (c *Cluster) learnTime(v spool.View) error {
	ms, err := v.Clock()
	if err == nil {
		c.now.Applied(ms, true)
	}
	return err
}

// fatal ends this node's work as far as it can, and tells the owner.
func (c *Cluster) fatal(err error) {
	c.log.Error("cluster: this node can't go on", zap.Error(err))
	if c.o.Fatal != nil {
		c.o.Fatal(err)
		return
	}
	panic(fmt.Sprintf("cluster: this node can't go on: %v", err))
}

// Run waits for ctx to end and then stops the node in order: no new
// proposals, those under way answered, the session resigned, the leadership
// handed over, the store flushed. It returns when every goroutine of the
// Cluster has ended, with the first error of closing.
func (c *Cluster) Run(ctx context.Context) error {
	<-ctx.Done()
	return c.shutdown(true, nil)
}

// Crash stops the node as a power cut would, for tests: nobody is told,
// nothing is flushed. image is called when the log has stopped and before the
// store, in closing, can write: it may copy the directory.
func (c *Cluster) Crash(image func()) error { return c.shutdown(false, image) }

const stopTime = 5 * time.Second

func (c *Cluster) shutdown(graceful bool, image func()) error {
	c.stop.Do(func() { c.stopErr = c.end(graceful, image) })
	return c.stopErr
}

func (c *Cluster) end(graceful bool, image func()) error {
	if graceful {
		c.retire()
	} else {
		c.proposer.Close()
	}
	c.acting()
	c.cancel()
	<-c.acted
	// The port goes first: raft waits for its calls to others, and a dead
	// link would hold it.
	err := c.trans.Close()
	_ = c.port.Close()
	err = errors.Join(err, c.raft.Shutdown().Error())
	c.gateEnd()
	if !endsIn(&c.batchers, leaveBatchers) {
		c.log.Debug("cluster: raft stopped without an answer to all it was given")
	}
	c.peers.Close()
	c.grpc.Stop()
	c.reads.Drain()
	c.verified.Drain()
	c.wg.Wait()
	if image != nil {
		image()
	}
	return errors.Join(err, c.store.Close(), c.rlog.Close(), c.promise.Close())
}

// leaveBatchers is how long the batcher's workers are waited for when raft has
// stopped. It answers all it has taken; it never answers a group that was still in its
// channel, and the worker that waits for that is left behind. Those who proposed it
// were told by the Cluster's end.
const leaveBatchers = time.Second

// endsIn waits for a group, and reports whether it ended in time.
func endsIn(g *sync.WaitGroup, d time.Duration) bool {
	done := make(chan struct{})
	go func() {
		g.Wait()
		close(done)
	}()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// retire is the graceful part of stopping.
func (c *Cluster) retire() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	empty := c.proposer.Close()
	c.acting()
	<-c.acted
	select {
	case <-empty:
	case <-ctx.Done():
	}
	short, cancelShort := context.WithTimeout(ctx, stopTime/3)
	c.session.Resign(short)
	cancelShort()
	if c.raft.State() != raft.Leader || len(c.book.Servers()) < 2 {
		return
	}
	if err := c.handOver(""); err != nil {
		c.log.Warn("cluster: stops as the leader", zap.Error(err))
	}
}

// ------------------------------------------------------- state and reading

// ID is this node's id.
func (c *Cluster) ID() string { return c.id.Node }

// Addr is the address the cluster port listens on.
func (c *Cluster) Addr() net.Addr { return c.port.Addr() }

// View reads the latest local state; see disk.Store.View.
func (c *Cluster) View(fn func(spool.View) error) error { return c.store.View(fn) }

// Frozen reads the local state as of one index; see disk.Store.Frozen.
func (c *Cluster) Frozen(fn func(v spool.View, index uint64) error) error { return c.store.Frozen(fn) }

// OpenBody reads a message; see disk.Store.OpenBody.
func (c *Cluster) OpenBody(id spool.ID, chunks uint32, prefix []byte) (io.ReadCloser, error) {
	return c.store.OpenBody(id, chunks, prefix)
}

// Applied is the index up to which commands are applied here.
func (c *Cluster) Applied() uint64 { return c.store.Applied() }

// WaitApplied returns when a command's index, as in its Result, is applied here.
func (c *Cluster) WaitApplied(ctx context.Context, index uint64) error {
	return c.store.WaitApplied(ctx, index)
}

// MarkHash returns this node's hash of the state as of a Mark command.
func (c *Cluster) MarkHash(ctx context.Context, id string) (index uint64, sum []byte, err error) {
	return c.store.MarkHash(ctx, id)
}

// Now is the state's time: it is what every time in the state, or on its way
// there, must be compared with or made from, since the clock of this machine may
// be wrong. It is the same on all nodes, but for the way of the newest entry, and
// never before a stamp that is applied here. It is cheap.
func (c *Cluster) Now() time.Time { return c.now.Now() }

// Epoch is the session under which this node may act now; 0: none.
func (c *Cluster) Epoch() uint64 { return c.session.Current() }

// Until is the instant up to which this node may act on what it owns, counted
// from before its last renewal was sent; the zero time where it may not act at
// all. It is cheap. Callers that act ask again before each step that can't be taken
// back.
func (c *Cluster) Until() time.Time { return c.session.Until() }

// SessionLost returns a channel that is closed when the present session's
// right to act ends; closed already where there is none.
func (c *Cluster) SessionLost() <-chan struct{} { return c.session.Lost() }

// RaftStats is what raft says of itself, in words for people who look for a fault.
func (c *Cluster) RaftStats() map[string]string { return c.raft.Stats() }

// Leader is the member that this node takes for the leader, itself perhaps;
// empty: none is known. It is cheap.
func (c *Cluster) Leader() string { return c.leaderWatch.Current().Leader }

// electionPatience is how long it is worth to wait for the next leader: one that
// hands over is followed within some hundredths of a second, one that dies within
// a few seconds.
const electionPatience = 5 * time.Second

// AwaitReady is Ready, but where all that is missing is a leader, and not for long,
// it waits for one, and then returns what Ready does.
func (c *Cluster) AwaitReady(ctx context.Context) error {
	for {
		mark, err := c.leaderWatch.Current(), c.Ready()
		if err == nil || mark.Leader != "" || c.ctx.Err() != nil {
			return err
		}
		left := time.Until(mark.Since.Add(electionPatience))
		if left <= 0 {
			return err
		}
		t := time.NewTimer(left)
		select {
		case <-mark.Changed:
			t.Stop()
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

// Ready returns nil when the node can take traffic, else why not.
func (c *Cluster) Ready() error {
	switch {
	case c.ctx.Err() != nil:
		return errors.New("the node is stopping")
	case !c.trans.Vetted.Load() && c.copied.Load():
		return errors.New("the node waits, for " + copiedWords)
	case !c.trans.Vetted.Load():
		return errors.New("the node asks the others whether its data directory is the newest of it: too few of them answer")
	case c.leaderWatch.Current().Leader == "":
		return errors.New("the cluster has no leader: too few nodes are up, or an election is under way")
	case c.Diverged() != "":
		return errors.New(c.barred())
	case c.founding.Load():
		return errors.New("the cluster is being made")
	case c.Epoch() == 0 && c.session.Registered():
		return errors.New("the node is catching up with the others")
	case c.Epoch() == 0:
		return errors.New("the node has no session: it can't reach the leader, or its disk takes no writes")
	}
	return nil
}
