package cluster

import (
	"context"
	"crypto/rand"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"relay/cluster/clock"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/tuning"
)

// watch keeps the leader watch up to date and the leader's work running exactly while this
// node leads. It ends with ctx.
func (c *Cluster) watch(ctx context.Context) {
	seen := make(chan raft.Observation, 16)
	observer := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState:
			return true
		}
		return false
	})
	c.raft.RegisterObserver(observer)
	defer c.raft.DeregisterObserver(observer)
	// Observations are dropped when the channel is full, so look by the clock too: without a
	// leader, of whom raft tells, at each tick.
	var id raft.ServerID
	tick := tuning.NewBeat(c.t.Tick).RareWhile(func() bool { return id != "" })
	defer tick.Stop()

	discovery := c.newDiscovery()
	var led uint64 // term in which we lead
	stop := func() {}
	defer func() { stop() }()
	for {
		term := c.raft.CurrentTerm()
		leads := c.raft.State() == raft.Leader
		_, id = c.raft.LeaderWithID()
		leader := discovery.Leader(ctx, string(id))
		if c.leaderWatch.Set(leader, term) {
			c.log.Info("cluster: leader", zap.String("leader", leader), zap.Uint64("term", term))
			if leader != "" && leader != c.id.Node {
				c.peers.Prepare(leader)
			}
		}
		if led != 0 && (!leads || term != led) {
			stop()
			led, stop = 0, func() {}
		}
		if leads && led == 0 {
			led = term
			c.setPatience(c.pace.Base)
			c.pace.BeginTerm()
			stop = c.leaderLoop(ctx, term)
		}
		select {
		case <-seen:
		case <-tick.Next():
		case <-ctx.Done():
			return
		}
	}
}

// leaderLoop begins the work of a leader. The returned function ends it and waits.
func (c *Cluster) leaderLoop(ctx context.Context, term uint64) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if st := c.awaitBarrier(ctx, term); st != nil {
			c.leaderDuties(ctx, st)
		}
	}()
	return func() {
		c.trans.EndTerm()
		cancel()
		<-done
		c.leaderTerm.Store(nil)
		c.batcher.TermTime().Let(clock.StampNone)
	}
}

// awaitBarrier makes sure that all that former leaders committed is applied here, and
// goes on with the state's time. Nil: the term ends before it has begun.
func (c *Cluster) awaitBarrier(ctx context.Context, term uint64) *clock.Steering {
	barrier := c.raft.Barrier(0)
	ended := make(chan error, 1)
	// Nobody waits for this goroutine: raft leaves what it had not taken out of
	// its channel unanswered for ever when it stops.
	go func() { ended <- barrier.Error() }()
	select {
	case err := <-ended:
		if err != nil {
			return nil
		}
	case <-ctx.Done():
		return nil
	}
	index := c.raft.CommitIndex()
	if f, ok := barrier.(raft.IndexFuture); ok {
		index = f.Index()
	}
	c.backdateSessions(term)
	applied := c.store.Applied()
	st := c.newSteering(index)
	if !st.Begin(ctx, c.instant, c.batcher.TermTime().Let) {
		return nil
	}
	c.leaderTerm.Store(&leaderTerm{term: term, barrier: index, applied: applied})
	return st
}

// leaderDuties does the leader's chores until ctx ends: each of its decisions is a
// command that the state machine may refuse, so that a leader that was deposed without
// knowing does no harm.
func (c *Cluster) leaderDuties(ctx context.Context, st *clock.Steering) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.reconcileLoop(ctx, st)
	}()
	defer func() { <-done }()
	// While there was no leader nobody could renew: those who live get the time
	// to do so now.
	settled := time.Now().Add(c.t.Renew + c.t.Renew/2 + 5*c.t.Latency)
	tick := tuning.NewBeat(c.t.Tick).RareWhile(c.alone)
	defer tick.Stop()
	for {
		if time.Now().After(settled) {
			c.expireDead(ctx)
		} else {
			c.observe()
		}
		if !tick.Wait(ctx) {
			return
		}
	}
}

// expireDead ends the sessions that have not been renewed for too long.
func (c *Cluster) expireDead(ctx context.Context) {
	sessions, err := c.sessions()
	if err != nil {
		return
	}
	for _, dead := range c.detector.Observe(time.Now(), sessions) {
		c.expire(ctx, dead)
	}
}

// observeSessions keeps the session detector on every node, leader or not: a new leader then
// knows since when the old one has not been heard of, instead of beginning to
// count. A session that a node has seen applied was renewed before that, so a count that
// began on a follower errs on the late side as a leader's own does. While this node leads its
// duties look as often.
func (c *Cluster) observeSessions(ctx context.Context) {
	tick := tuning.NewBeat(c.t.Tick).RareWhile(func() bool { return c.leaderTerm.Load() != nil || c.alone() })
	defer tick.Stop()
	for {
		c.observe()
		if !tick.Wait(ctx) {
			return
		}
	}
}

func (c *Cluster) observe() {
	if sessions, err := c.sessions(); err == nil {
		c.detector.Observe(time.Now(), sessions)
	}
}

// backdateSessions corrects the session detector of a new leader. A renewal that a former leader
// committed in its last moments was applied here only by the barrier, as if its
// owner had just been alive; but it was in this node's log when that leader was
// heard last, and so was sent before.
func (c *Cluster) backdateSessions(term uint64) {
	heard := c.raft.LastContact()
	sessions, err := c.sessions()
	if err != nil || heard.IsZero() {
		return
	}
	c.detector.Observe(time.Now(), sessions)
	for _, s := range sessions {
		var l raft.Log
		if c.rlog.GetLog(s.Renewed, &l) == nil && l.Term < term {
			c.detector.Backdate(s, heard)
		}
	}
}

// sessions are those of the applied state. The caller may not change them: they are read
// again only when something was applied since, because several loops ask for them.
func (c *Cluster) sessions() ([]*pb.Session, error) {
	applied := c.store.Applied()
	if seen := c.seen.Load(); seen != nil && seen.applied == applied {
		return seen.all, nil
	}
	seen := &seenSessions{applied: applied}
	err := c.store.View(func(v spool.View) (err error) {
		seen.all, err = v.Sessions()
		return err
	})
	if err != nil {
		return nil, err
	}
	c.seen.Store(seen)
	return seen.all, nil
}

// seenSessions are the sessions of a state that had applied at least that index.
type seenSessions struct {
	applied uint64
	all     []*pb.Session
}

func (c *Cluster) expire(ctx context.Context, dead *pb.Session) {
	c.log.Warn("cluster: a node's session ends", zap.String("node", dead.Node), zap.Uint64("epoch", dead.Epoch))
	c.command(ctx, spool.KindExpire, &pb.Expire{Node: dead.Node, Epoch: dead.Epoch, Renewed: dead.Renewed})
}

// command proposes one of the leader's own commands and logs its failure: the
// next round sees what is still to do.
func (c *Cluster) command(ctx context.Context, kind spool.Kind, h proto.Message) *pb.Result {
	f, err := spool.Encode(kind, h)
	if err != nil {
		c.log.Error("cluster: encode", zap.Stringer("kind", kind), zap.Error(err))
		return nil
	}
	res, err := c.propose(ctx, f)
	if err != nil {
		if ctx.Err() == nil {
			c.log.Warn("cluster: a command of the leader failed", zap.Stringer("kind", kind), zap.Error(err))
		}
		return nil
	}
	return res
}

// reconcileLoop does the slow chores: the state's time, the cluster record, promotions, addresses,
// removed members, sweeping.
func (c *Cluster) reconcileLoop(ctx context.Context, st *clock.Steering) {
	tick := tuning.NewBeat(min(time.Second, max(c.t.Promote/2, c.t.Tick))).RareWhile(c.alone)
	defer tick.Stop()
	nextSweep := time.Now().Add(c.t.Sweep)
	ripe := promotions{}
	away := c.newAbdication()
	var leave retreat
	var next time.Time
	for ok := true; ok; ok = tick.Wait(ctx) {
		if time.Now().Before(next) && !c.draining.Load() && c.allVote() {
			continue
		}
		next = time.Now().Add(3 * c.t.Tick) // each fourth tick is enough
		if c.draining.Load() {
			leave.round(ctx, c)
		}
		if in, err := c.instant(); err == nil {
			st.Round(ctx, in)
			if err := away.Round(ctx, in, c.clocks.Quick()); err != nil {
				c.log.Warn("cluster: the leadership stays with a node whose clock is far off", zap.Error(err))
			}
		}
		c.found(ctx)
		c.reconcile(ctx, ripe)
		c.rotate(ctx)
		c.beckon(ctx)
		if now := time.Now(); now.After(nextSweep) {
			c.sweep(ctx)
			nextSweep = now.Add(c.t.Sweep)
		}
	}
}

// alone reports whether this node is its cluster's only one: it waits for nobody.
func (c *Cluster) alone() bool {
	all := c.book.Servers()
	return len(all) == 1 && string(all[0].ID) == c.id.Node
}

// allVote reports whether no member waits for its vote.
func (c *Cluster) allVote() bool {
	return !slices.ContainsFunc(c.book.Servers(), func(s raft.Server) bool { return s.Suffrage != raft.Voter })
}

// found writes the cluster's record once, and later raises its version when
// every server can follow.
func (c *Cluster) found(ctx context.Context) {
	var there bool
	var record *pb.Cluster
	err := c.store.View(func(v spool.View) (err error) {
		record, there, err = v.Cluster()
		return err
	})
	if err != nil {
		return
	}
	if !there {
		c.founded(ctx)
		return
	}
	c.beginGeneration(ctx, record)
	if c.id.CAKey != "" {
		c.firstSettings(ctx)
		c.id.ForgetKey(c.o.Dir, c.log)
	}
	c.raiseWhenReady(ctx)
	if c.At(2) && len(record.Secret) == 0 {
		c.command(ctx, spool.KindPutSecret, &pb.PutSecret{Secret: []byte(rand.Text())})
	}
}

// founded puts the cluster record, which only the node that made the cluster
// has all of.
func (c *Cluster) founded(ctx context.Context) {
	if c.id.CAKey == "" {
		return
	}
	c.command(ctx, spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{
		Id: c.id.Cluster, Name: c.id.Name, CaCert: []byte(c.id.Credential().CA), CaKey: []byte(c.id.CAKey), Version: 1,
	}})
	to := c.o.FoundAt
	if to == 0 {
		to = spool.MaxVersion
	}
	if to > 1 {
		c.command(ctx, spool.KindRaise, &pb.Raise{From: 1, To: to, Admin: &pb.Admin{
			Who: "cluster", Why: "a new cluster begins at the newest version", Node: c.id.Node,
		}})
	}
	c.firstSettings(ctx)
}

// firstSettings puts what a new cluster begins with, before anybody is served:
// later it would take the place of what an operator has set.
func (c *Cluster) firstSettings(ctx context.Context) {
	defer c.founding.Store(false)
	var s *pb.Settings
	err := c.store.View(func(v spool.View) (err error) { s, err = v.Settings(); return err })
	if err != nil || !c.At(2) || s.GetFromCheck() != pb.FromCheck_FROM_DEFAULT {
		return
	}
	first := proto.CloneOf(s)
	first.FromCheck = pb.FromCheck_FROM_REFUSE
	c.command(ctx, spool.KindPutSettings, &pb.PutSettings{
		Admin: &pb.Admin{Who: "cluster", Why: "what new clusters begin with", Node: c.id.Node}, Settings: first,
	})
}

const sweepLimit = 1000

// sweep deletes what is past its time, in bounded pieces.
func (c *Cluster) sweep(ctx context.Context) {
	for range 100 {
		h := &pb.Sweep{
			Limit: sweepLimit,
		}
		if c.At(2) {
			h.Ages, h.OrphansAgeMs = c.Ageing(), c.t.Orphans.Milliseconds()
		} else {
			h.OrphansBeforeMs = c.Now().Add(-c.t.Orphans).UnixMilli()
		}
		res := c.command(ctx, spool.KindSweep, h)
		if c.o.OnRemoved != nil && len(res.GetRemoved()) > 0 {
			c.o.OnRemoved(res.Removed)
		}
		if res == nil || res.Count < sweepLimit || ctx.Err() != nil {
			return
		}
	}
}

// promotions counts since when each non-voter has been caught up.
type promotions map[raft.ServerID]time.Time

// reconcile brings raft's configuration in line with the members: nodes that have
// caught up get a vote, addresses that moved are written down, records of
// nodes that were removed are dropped.
func (c *Cluster) reconcile(ctx context.Context, ripe promotions) {
	on := c.configuration()
	sessions, err := c.sessions()
	if err != nil {
		return
	}
	live := map[string]bool{}
	for _, s := range sessions {
		live[s.Node] = true
	}
	c.dropStrangers(ctx, on.servers, live)
	for _, s := range on.servers {
		addr, err := c.book.Address(string(s.ID))
		if err != nil || !live[string(s.ID)] {
			delete(ripe, s.ID)
			continue
		}
		switch {
		case s.Suffrage == raft.Nonvoter:
			if !c.caughtUp(ctx, string(s.ID)) {
				delete(ripe, s.ID)
				continue
			}
			if since, ok := ripe[s.ID]; !ok {
				ripe[s.ID] = time.Now()
				continue
			} else if time.Since(since) < c.t.Promote {
				continue
			}
			delete(ripe, s.ID)
			c.logChange("promoted", s.ID, c.raft.AddVoter(s.ID, raft.ServerAddress(addr), on.index, changeTime))
			return // the configuration is another one now
		case addr != string(s.Address):
			c.logChange("moved", s.ID, c.raft.AddVoter(s.ID, raft.ServerAddress(addr), on.index, changeTime))
			return
		}
	}
}

func (c *Cluster) logChange(what string, id raft.ServerID, f raft.IndexFuture) {
	if err := f.Error(); err != nil {
		c.log.Warn("cluster: membership change failed", zap.String("change", what),
			zap.String("node", string(id)), zap.Error(err))
		return
	}
	c.log.Info("cluster: member "+what, zap.String("node", string(id)))
}

// caughtUp asks a non-voter how far it is.
func (c *Cluster) caughtUp(ctx context.Context, node string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	r, err := c.askReport(ctx, node)
	return err == nil && r.Applied+promoteLag >= c.raft.CommitIndex()
}

// promoteLag is how far behind a node may be when it gets its vote: some
// hundredths of a second under full load.
const promoteLag = 1000

// dropStrangers forgets members that raft no longer has: a removal that was
// broken off half-way.
func (c *Cluster) dropStrangers(ctx context.Context, servers []raft.Server, live map[string]bool) {
	known := map[string]bool{}
	for _, s := range servers {
		known[string(s.ID)] = true
	}
	for _, id := range c.book.Recorded() {
		if !known[id] && !live[id] {
			c.command(ctx, spool.KindDropMember, &pb.DropMember{
				Id: id, Admin: &pb.Admin{Who: "cluster", Why: "no longer a member", Node: c.id.Node},
			})
		}
	}
}
