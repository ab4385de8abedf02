package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"relay/cluster/datadir"
	"relay/cluster/fault"
	"relay/cluster/members"
	"relay/cluster/propose"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// A node that starts asks the others, before it takes part in anything, whether
// they know better than its data directory: whether that was copied, or is older
// than what the node has promised.

const helloTime = 2 * time.Second // longest wait for one answer

// hello is what a node that starts says of itself.
type hello struct {
	Log    string        `json:"log"` // name of its raft log
	Start  string        `json:"start"`
	Acked  datadir.Acked `json:"acked"`
	Nonces []string      `json:"nonces"`
	Term   uint64        `json:"term"`
	Last   uint64        `json:"last"`           // index of its newest entry
	From   string        `json:"from,omitempty"` // who asks, where a member passes the question on
	At     string        `json:"at,omitempty"`   // where a leader is that looks for a server of its own
}

// helloReply is what another node knows of it.
type helloReply struct {
	Refused string             `json:"refused,omitempty"` // in words: the start must end
	Leads   bool               `json:"leads,omitempty"`   // the leader answers, after a read index
	Start   string             `json:"start"`             // of who answers
	Version uint32             `json:"version,omitempty"` // of the cluster
	Rival   *rival             `json:"rival,omitempty"`   // the session that the asker's node has
	Known   members.Configured `json:"known"`
	Where   map[string]string  `json:"where,omitempty"`
	Tombs   []members.Tomb     `json:"tombs,omitempty"`
	Nonce   string             `json:"nonce,omitempty"` // of the asker's last registration
	Epoch   uint64             `json:"epoch,omitempty"`
}

// rival is a session of this node's id that an earlier start has, or another copy.
type rival struct {
	Epoch   uint64        `json:"epoch"`
	Renewed uint64        `json:"renewed"`
	Address string        `json:"address"`
	Still   int64         `json:"still_ms"` // how long it has not been renewed
	Dead    int64         `json:"dead_ms"`  // after how long that surely means its end
	at      time.Duration // when we heard of it, on clock.BootNow's clock
}

// answerHello says what this node knows of another one. A follower of a leader lets
// that one answer: only the leader knows the newest.
func (c *Cluster) answerHello(ctx context.Context, from string, body []byte) ([]byte, error) {
	var h hello
	if err := json.Unmarshal(body, &h); err != nil {
		return nil, err
	}
	if !c.book.MayAsk(from) {
		c.heed(from, h.At)
		return json.Marshal(helloReply{Start: c.birth})
	}
	passed := h.From != ""
	if passed {
		from = h.From
	}
	leads := c.leaderTerm.Load() != nil && c.leadsYet(ctx)
	if leader := c.trans.Leader(); !leads && !passed && leader != "" && leader != c.id.Node && leader != from {
		if b, err := c.passHello(ctx, leader, from, h); err == nil {
			return b, nil
		}
	}
	r, err := c.recognise(from, h)
	if err != nil {
		return nil, err
	}
	r.Leads = leads
	return json.Marshal(r)
}

// leadsYet proves that this leader leads still. The node that asks may be the very one
// that it misses for a majority, and waits for an answer, also for one without that
// proof.
func (c *Cluster) leadsYet(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, min(helloTime/2, helloTime/4+4*c.t.Latency))
	defer cancel()
	return c.Consistent(ctx) == nil
}

func (c *Cluster) passHello(ctx context.Context, leader, from string, h hello) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTime/2)
	defer cancel()
	h.From = from
	b, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	return c.peers.Ask(ctx, leader, propose.AskHello, b)
}

// recognise compares what a node says of itself with what is known of it here.
func (c *Cluster) recognise(node string, h hello) (helloReply, error) {
	r := helloReply{
		Start: c.birth, Version: c.Version(), Known: c.book.Admission.Known(), Where: c.addresses(),
		Tombs: c.book.Admission.Graves(),
	}
	m, s := &pb.Member{}, (*pb.Session)(nil)
	live := false
	err := c.store.View(func(v spool.View) (err error) {
		if m, _, err = v.Member(node); err == nil {
			s, live, err = v.Session(node)
		}
		return err
	})
	if err != nil {
		return r, err
	}
	r.Nonce, r.Epoch = m.Nonce, m.Registered
	if live {
		r.Rival = &rival{Epoch: s.Epoch, Renewed: s.Renewed, Address: m.Address,
			Still: c.detector.UnrenewedFor(s).Milliseconds(), Dead: c.detector.SurelyDead(s).Milliseconds()}
	}
	// The node that answers may know less than the one that asks, as a store can be taken
	// back.
	if m.Nonce != "" && m.Registered > h.Acked.Epoch && !slices.Contains(h.Nonces, m.Nonce) {
		r.Refused = fmt.Sprintf("another copy of this data directory has run since, at %s (entry %d)",
			m.Address, m.Registered)
		return r, nil
	}
	if best := c.promisedBy(node, h.Log, m, s); (datadir.Mark{Term: h.Term, Index: h.Last}).Less(best) {
		r.Refused = fmt.Sprintf("this directory is older than what node %s has promised (term %d, entry %d): it was "+
			"restored from a copy",
			node, best.Term, best.Index)
	}
	return r, nil
}

// promisedBy is the furthest place that a node is known to have acknowledged or
// claimed, with the log that it has now.
func (c *Cluster) promisedBy(node, log string, m *pb.Member, s *pb.Session) (best datadir.Mark) {
	if log == "" || m.GetLog() != log {
		return best
	}
	all := []datadir.Mark{{Term: m.Term, Index: m.Last}, {Term: s.GetTerm(), Index: s.GetLast()}}
	for _, known := range []map[string]datadir.Mark{c.promise.Look().Peers, c.book.Marks(c.trans.Acks.Copy())} {
		if one := known[node]; one.Log == log {
			all = append(all, one)
		}
	}
	for _, one := range all {
		if best.Less(one) {
			best = one
		}
	}
	return best
}

// introduce makes this node's hello.
func (c *Cluster) introduce() (hello, error) {
	p := c.promise.Look()
	last, err := (&datadir.Data{Store: c.store, Log: c.rlog}).Last()
	return hello{
		Log: c.id.Log, Start: c.birth, Acked: p.Acked, Nonces: p.Nonces(), Term: c.raft.CurrentTerm(), Last: last,
	}, err
}

// greet asks one node.
func (c *Cluster) greet(ctx context.Context, node string, body []byte) (r helloReply, err error) {
	ctx, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	b, err := c.peers.Ask(ctx, node, propose.AskHello, body)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if errors.Is(err, fault.ErrUnimplemented) {
		return helloReply{}, nil // a build of before knows nothing that speaks against us
	}
	return r, err
}

// take keeps what an answer says of the others.
func (c *Cluster) take(r helloReply) {
	a := c.book.Admission
	a.Remember(r.Tombs, c.log)
	if a.Vouch(r.Known) {
		c.log.Info("cluster: a member knows a newer configuration", zap.Uint64("index", r.Known.Index),
			zap.Strings("servers", r.Known.Servers))
		for node, addr := range r.Where {
			c.book.Hear(node, addr)
		}
	}
	if r.Leads && !c.trans.Vetted.Load() {
		c.promise.Note(func(p *datadir.Promised) { p.Prune(r.Nonce, r.Epoch) })
	}
}
