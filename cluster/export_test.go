package cluster

import (
	"context"
	"encoding/json"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"relay/cluster/clock"
	"relay/cluster/datadir"
	"relay/cluster/internal/wire"
	"relay/cluster/liveness"
	"relay/cluster/members"
	"relay/cluster/propose"
	"relay/cluster/session"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/transport"
)

// Impostor is a raft network that shows the certificate of a data directory, and
// calls at address. It takes no calls.
func Impostor(dir, node, address string) (*raft.NetworkTransport, error) {
	id, err := datadir.Load(dir)
	if err != nil {
		return nil, err
	}
	me, err := id.Wire()
	if err != nil {
		return nil, err
	}
	port := wire.New(wire.Options{Identity: me, Log: zap.NewNop()})
	b := members.NewAddressBook(id.Node, members.NewPlaces("", nil, map[string]string{node: address}))
	return transport.Outbound(make(chan struct{}), port, b, zap.NewNop()), nil
}

// Place is the newest entry of the log, and the term.
func (c *Cluster) Place() (term, lastTerm, last uint64) {
	lastTerm, last = c.lastEntry()
	return c.raft.CurrentTerm(), lastTerm, last
}

// Broken reports whether a call has contradicted what is committed here.
func (c *Cluster) Broken() bool { return c.trans.Broken.Load() }

// Silence is how long this node has heard no leader.
func (c *Cluster) Silence() time.Duration { return c.silence() }

// StandsAgainst counts how often this node would stand for election in so many
// looks at a leader that nothing listens for, if all others said that they miss
// it too. asked runs before each of them answers.
func (c *Cluster) StandsAgainst(ctx context.Context, leader string, looks int, asked func()) (stands int) {
	v := &liveness.Election{ElectionPorts: c.electionPorts()}
	v.Stand = func() error { stands++; return nil }
	v.PortClosed = func(context.Context, string) bool { return true }
	term := c.raft.CurrentTerm()
	v.Ask = func(context.Context, string) (liveness.View, error) {
		asked()
		return liveness.View{Term: term, Leader: leader, SilentMs: time.Hour.Milliseconds()}, nil
	}
	for range looks {
		v.StandIfDue(ctx)
	}
	return stands
}

// Graft makes the promise of a data directory know the registrations of another
// one, and nothing else of it: an old directory that was copied at a running node.
func Graft(from, to string) error {
	id, err := datadir.Load(to)
	if err != nil {
		return err
	}
	newer, err := datadir.OpenPromise(from, id, datadir.Promised{})
	if err != nil {
		return err
	}
	defer newer.Close()
	older, err := datadir.OpenPromise(to, id, datadir.Promised{})
	if err != nil {
		return err
	}
	defer older.Close()
	return older.Write(func(p *datadir.Promised) { p.Acked, p.Pending = newer.Look().Acked, newer.Look().Pending })
}

// Told is how far the log of a node goes by its own last renewal.
func (c *Cluster) Told(node string) (last uint64) {
	_ = c.store.View(func(v spool.View) error {
		s, _, err := v.Session(node)
		last = s.GetLast()
		return err
	})
	return last
}

// Reintroduce asks the others again, as a node does that hears no leader, and
// says what was true of it some time ago.
func (c *Cluster) Reintroduce(ctx context.Context) error {
	h, err := c.introduce()
	if err != nil {
		return err
	}
	h.Term, h.Last, h.Acked, h.Nonces = 0, 0, datadir.Acked{}, nil
	body, err := json.Marshal(h)
	if err != nil {
		return err
	}
	v := &vetter{c: c}
	v.ask(ctx, v.census(), body)
	return nil
}

// AnswerHello has this node answer a start of another one.
func (c *Cluster) AnswerHello(ctx context.Context, node string) error {
	body, err := json.Marshal(hello{})
	if err == nil {
		_, err = c.answerHello(ctx, node, body)
	}
	return err
}

// Unanswered makes a data directory know so many registrations that were never
// answered, the last of which is the one that was.
func Unanswered(dir string, n int) error {
	id, err := datadir.Load(dir)
	if err != nil {
		return err
	}
	p, err := datadir.OpenPromise(dir, id, datadir.Promised{})
	if err != nil {
		return err
	}
	defer p.Close()
	return p.Write(func(p *datadir.Promised) {
		var pending []string
		for len(pending) < n-1 {
			pending = append(pending, session.NewNonce())
		}
		newest := p.Acked.Nonce
		if len(p.Pending) > 0 {
			newest = p.Pending[len(p.Pending)-1]
		}
		p.Acked, p.Pending = datadir.Acked{}, append(pending, newest)
	})
}

// ChangeConfiguration writes a member's address again, as if the configuration had
// been looked at so many entries ago.
func (c *Cluster) ChangeConfiguration(ago uint64) error {
	on := c.configuration()
	return c.raft.AddVoter(on.servers[0].ID, on.servers[0].Address, on.index-ago, time.Second).Error()
}

// DecideRemoval decides to take a member out, and returns what does it.
func (c *Cluster) DecideRemoval(ctx context.Context, id string) (act func() error) {
	on := c.configuration()
	return func() error { return c.expel(ctx, on, raft.ServerID(id)) }
}

// DecideEntry decides to enter a node without a vote, and returns what does it.
func (c *Cluster) DecideEntry(ctx context.Context, id, addr string) (act func() error) {
	on := c.configuration()
	return func() error { return c.enter(ctx, on, raft.ServerID(id), raft.ServerAddress(addr)) }
}

// Summed reports whether this node has a chain of sums.
func (c *Cluster) Summed() bool { return c.store.Summed() }

// Anchor is the newest place where this node's chain of sums is compared.
func (c *Cluster) Anchor() (index, sum uint64) { return c.store.Anchor() }

// SumAt is the chain's value at such a place.
func (c *Cluster) SumAt(index uint64) (sum uint64, known bool) { return c.store.SumAt(index) }

// SayHello says hello to a node as one does that starts.
func (c *Cluster) SayHello(ctx context.Context, node string) error {
	h, err := c.introduce()
	if err != nil {
		return err
	}
	body, err := json.Marshal(h)
	if err == nil {
		_, err = c.greet(ctx, node, body)
	}
	return err
}

// ProposeTo proposes to a node, whether it leads or not, and returns how that ends.
func (c *Cluster) ProposeTo(ctx context.Context, node string) error {
	watch := propose.NewLeaderWatch()
	watch.Set(node, 1)
	p := propose.New(propose.Ports{
		Self: c.id.Node, Deadline: time.Second, Budget: spool.MaxFrame, Boot: c.clocks.Boot, At: c.At, Ended: c.ctx.Done(),
	}, watch)
	p.Peers = c.peers
	f, err := spool.Encode(spool.KindRenew, &pb.Renew{Node: c.id.Node})
	if err == nil {
		_, err = p.Propose(ctx, f)
	}
	return err
}

// CompareClock is what this node says of its own clock; false: nothing.
func (c *Cluster) CompareClock() (offset time.Duration, known bool) { return c.compareClock() }

// AwaitEnd waits as one that registers does while an unknown session of its node is in the way.
func (c *Cluster) AwaitEnd(ctx context.Context, epoch uint64) {
	k := &claims{c: c, over: rival{Epoch: epoch, at: clock.BootNow()}}
	k.await(ctx)
}

// CutOff is what housekeeping does now and then: it ends the connections to those who are
// no members any more.
func (c *Cluster) CutOff() { c.cutOff() }

// Keeps reports whether there are connections of a node, all of which outlive housekeeping.
func (c *Cluster) Keeps(node string) bool {
	all, ended := 0, 0
	c.port.CutOff(func(l wire.Link) bool {
		if l.Peer.Node == node {
			all++
			if c.mustEnd(l) {
				ended++
			}
		}
		return false
	})
	return all > 0 && ended == 0
}

// FindTime looks whether the state's time is near what a majority agrees on, and reports
// whether this process has seen it there.
func (c *Cluster) FindTime() bool {
	c.findTime()
	return c.timeFound.Load()
}
