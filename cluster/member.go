package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"relay/cluster/fault"
	"relay/cluster/propose"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

const (
	askRemove   = "cluster/remove"
	askTransfer = "cluster/transfer"
)

// Handler answers a question of another node. It runs on a goroutine of its
// own; ctx ends with the asker's patience or the connection.
type Handler = propose.Handler

// Handle registers the answer to a question that other nodes may ask. Names
// that begin with "cluster/" are taken.
func (c *Cluster) Handle(method string, h Handler) { c.server.Handle(method, h) }

// Ask puts a question to a node, which may be this one, and waits for the
// answer. An error the other side answered with is a *RemoteError.
func (c *Cluster) Ask(ctx context.Context, node, method string, req []byte) ([]byte, error) {
	if node != c.id.Node {
		return c.peers.Ask(ctx, node, method, req)
	}
	h := c.server.Handler(method)
	if h == nil {
		return nil, fmt.Errorf("cluster: nobody answers the question %q", method)
	}
	return h(ctx, node, req)
}

// askPause is between two questions to one leader.
const askPause = 100 * time.Millisecond

// askLeader puts a question to the leader; while there is none, or it is not
// the one any more, it waits and asks again.
func (c *Cluster) askLeader(ctx context.Context, method string, req []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.t.Deadline)
	defer cancel()
	for {
		mark := c.leaderWatch.Current()
		err := error(fault.ErrNoLeader)
		if mark.Leader != "" {
			var b []byte
			if b, err = c.Ask(ctx, mark.Leader, method, req); err == nil {
				return b, nil
			}
			if !errors.Is(err, fault.ErrUnavailable) && !errors.Is(err, fault.ErrNotLeader) {
				return nil, err
			}
		}
		t := time.NewTimer(askPause)
		select {
		case <-mark.Changed:
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("%w: %w", fault.ErrUnavailable, err)
		case <-c.ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("%w: %w", fault.ErrUnavailable, fault.ErrStopping)
		}
		t.Stop()
	}
}

type removeRequest struct {
	ID    string `json:"id"`
	Force bool   `json:"force"`
	Admin []byte `json:"admin"`
}

// Remove takes a node out of the cluster. It refuses, with ErrQuorum, what
// would leave too few live voters to go on; force removes nevertheless, as
// long as the present majority can still decide it. ErrChanged: the members changed
// while it was decided; nothing was removed. A node that runs and is
// removed keeps its data, but nobody talks to it any more.
func (c *Cluster) Remove(ctx context.Context, id string, force bool, adm *pb.Admin) error {
	b, err := proto.Marshal(adm)
	if err != nil {
		return err
	}
	req, err := json.Marshal(removeRequest{id, force, b})
	if err != nil {
		return err
	}
	_, err = c.askLeader(ctx, askRemove, req)
	return err
}

// Leave takes this node out of the cluster, as Remove does; Run is to be ended
// after it.
func (c *Cluster) Leave(ctx context.Context, adm *pb.Admin) error {
	return c.Remove(ctx, c.id.Node, false, adm)
}

// Transfer moves the leadership to a node, or, with an empty id, to whichever
// is most up to date. It returns when the leader has given up its place. ErrStays,
// where the leader is this node: it did not.
func (c *Cluster) Transfer(ctx context.Context, id string) error {
	_, err := c.askLeader(ctx, askTransfer, []byte(id))
	return err
}

func (c *Cluster) answerTransfer(_ context.Context, _ string, req []byte) ([]byte, error) {
	id := string(req)
	if c.raft.State() != raft.Leader {
		return nil, fault.ErrNotLeader
	}
	if id == c.id.Node {
		return nil, nil
	}
	if err := c.mayLead(id); err != nil {
		return nil, err
	}
	return nil, c.handOver(id)
}

// handOver moves the leadership away from here; with an empty id to a node that
// is up to date, and not to one that is being drained where there is another.
func (c *Cluster) handOver(id string) error {
	defer c.trans.Moving()()
	var f raft.Future
	if id == "" {
		id = c.heir(c.ctx)
	}
	if id == "" {
		f = c.raft.LeadershipTransfer()
	} else {
		if !c.book.Votes(id) {
			return fmt.Errorf("%w: %s is no voting member", fault.ErrStays, id)
		}
		addr, err := c.book.Address(id)
		if err != nil {
			return err
		}
		f = c.raft.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(addr))
	}
	if err := await(c.ctx, f); err != nil {
		return fmt.Errorf("%w: %w", fault.ErrStays, err)
	}
	return nil
}

// heir is a voter that is up to date, not being drained, and has a right clock;
// empty: there is none.
func (c *Cluster) heir(ctx context.Context) string {
	sessions, err := c.sessions()
	if err != nil {
		return ""
	}
	for _, s := range sessions {
		if s.Node != c.id.Node && c.book.Votes(s.Node) && c.mayLead(s.Node) == nil && c.caughtUp(ctx, s.Node) {
			return s.Node
		}
	}
	return ""
}

// retreat moves the leadership away from a node that is being drained.
type retreat struct{ said string }

func (r *retreat) round(ctx context.Context, c *Cluster) {
	to := c.heir(ctx)
	if to == "" {
		return // better this one than none
	}
	if r.said != to {
		r.said = to
		c.log.Info("cluster: this node is being drained: it hands the leadership over", zap.String("to", to))
	}
	if err := c.handOver(to); err != nil {
		c.log.Warn("cluster: the leadership stays with a node that is being drained", zap.Error(err))
	}
}

// answerRemove is the leader's part of Remove.
func (c *Cluster) answerRemove(ctx context.Context, from string, body []byte) ([]byte, error) {
	var req removeRequest
	if err := json.Unmarshal(body, &req); err != nil {
		return nil, err
	}
	adm := &pb.Admin{}
	if err := proto.Unmarshal(req.Admin, adm); err != nil {
		return nil, err
	}
	if c.leaderTerm.Load() == nil {
		return nil, fault.ErrNotLeader
	}
	c.joining.Lock()
	defer c.joining.Unlock()
	if from == req.ID {
		defer c.leaves(from)()
	}
	on := c.configuration()
	if err := c.removable(on.servers, req); err != nil {
		return nil, err
	}
	if on.has(raft.ServerID(req.ID)) {
		if req.ID == c.id.Node {
			// A leader that removes itself would decide without itself; let
			// another one do it.
			if err := c.handOver(""); err != nil {
				return nil, err
			}
			return nil, fault.ErrNotLeader
		}
		if err := c.expel(ctx, on, raft.ServerID(req.ID)); err != nil {
			return nil, err
		}
		if from != req.ID { // who leaves still waits for the answer
			c.cutOff()
		}
	}
	c.log.Warn("cluster: member removed", zap.String("node", req.ID), zap.String("who", adm.Who),
		zap.String("why", adm.Why))
	f, err := spool.Encode(spool.KindDropMember, &pb.DropMember{Id: req.ID, Admin: adm})
	if err != nil {
		return nil, err
	}
	_, err = c.propose(ctx, f)
	return nil, err
}

// leaver is a node that has asked to be removed and waits for the answer.
type leaver struct {
	node  string
	until time.Time // zero: the answer is not there yet
}

// answerTime is for the answer's way to a node that leaves.
const answerTime = time.Second

// leaves keeps a node's connection until the answer that it waits for, which the returned
// func announces, is there.
func (c *Cluster) leaves(node string) func() {
	c.leaving.Store(&leaver{node: node})
	return func() { c.leaving.Store(&leaver{node, time.Now().Add(answerTime)}) }
}

// waits reports whether a node waits for the answer to its leave.
func (l *leaver) waits(node string) bool {
	return l != nil && l.node == node && (l.until.IsZero() || time.Now().Before(l.until))
}

// expel takes a server out of the configuration that this was decided on.
func (c *Cluster) expel(ctx context.Context, on configuration, id raft.ServerID) error {
	return c.reconfigure(ctx, on,
		func(index uint64) raft.IndexFuture { return c.raft.RemoveServer(id, index, changeTime) })
}

// removable says whether the cluster can go on without a node.
func (c *Cluster) removable(servers []raft.Server, req removeRequest) error {
	sessions, err := c.sessions()
	if err != nil {
		return err
	}
	live := map[string]bool{}
	for _, s := range sessions {
		live[s.Node] = true
	}
	there, votes := false, false
	voters, up := 0, 0
	for _, s := range servers {
		if string(s.ID) == req.ID {
			there, votes = true, s.Suffrage == raft.Voter
			continue
		}
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if live[string(s.ID)] {
			up++
		}
	}
	if !there {
		if _, err := c.book.Address(req.ID); err != nil {
			return fmt.Errorf("cluster: there is no member %s", req.ID)
		}
		return nil
	}
	if votes && voters == 0 {
		return fmt.Errorf("%w: %s is the only voter", fault.ErrQuorum, req.ID)
	}
	if votes && up < voters/2+1 && !req.Force {
		return fmt.Errorf("%w: without %s only %d of %d voters would be up: bring the others back first, or use --force",
			fault.ErrQuorum, req.ID, up, voters)
	}
	return nil
}
