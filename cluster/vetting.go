package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"

	"github.com/hashicorp/raft"

	"relay/cluster/clock"
	"relay/cluster/fault"
	"relay/cluster/internal/wire"
	"relay/cluster/propose"
	"relay/cluster/tuning"
)

// A start of a node with other voters is on probation: its raft runs, but the
// transport lets no call out or in, so that it neither votes nor wins a vote, and
// it registers no session. It is vetted by a good answer of the leader, or by
// those of a majority, itself counted, when all have answered or had the time to; a
// directory that was copied, by the leader's or by those of all (birth.go).
// A refusal ends it. While its id has a session, the answers must also show that
// whoever has it is gone: the session's address is our own, or it has not been
// renewed for so long that its owner has stopped by itself.

// Refused are a copy that does not know the member's last nonce, and a directory whose
// (term, last index) is below what anybody remembers. Our own address is an IP address
// of this machine, on the port that we hold; "for so long" is lease + two margins;
// a node that answers at the session's address under our id ends us.

// vetter is the probation of one start. It belongs to one goroutine.
type vetter struct {
	c      *Cluster
	good   int // of voters
	still  int // of those: they know of no session, or of one that is over
	voters int // the majority is of these
	self   bool
}

// vet ends the probation, and goes on to ask while no leader is heard: a node that was
// off for long learns in this way who came since.
func (c *Cluster) vet(ctx context.Context) {
	for ctx.Err() == nil && !c.probation(ctx) {
		c.sayCopied()
		clock.Sleep(ctx, c.t.Heartbeat/10)
	}
	if ctx.Err() != nil {
		return
	}
	c.settleIn()
	c.trans.Vetted.Store(true)
	close(c.vetted)
	for ctx.Err() == nil {
		if c.silence() > 2*c.t.Heartbeat {
			c.probation(ctx)
		}
		clock.Sleep(ctx, tuning.UntilBeat(time.Now(), 4*c.t.Pulse()))
	}
}

// probation asks once around, and reports whether this start may take part.
func (c *Cluster) probation(ctx context.Context) bool {
	v := &vetter{c: c}
	others := v.census()
	if v.voters == 0 || v.voters == 1 && v.self {
		return true
	}
	h, err := c.introduce()
	if err != nil {
		return false
	}
	body, err := json.Marshal(h)
	if err != nil {
		return false
	}
	return v.ask(ctx, others, body)
}

// census lists the other voters, of the newest configuration that is known.
func (v *vetter) census() (others map[string]bool) {
	others = map[string]bool{}
	own := map[string]raft.ServerSuffrage{}
	for _, s := range v.c.book.Servers() {
		own[string(s.ID)] = s.Suffrage
	}
	for _, node := range v.c.book.Admission.Known().Servers {
		suffrage, known := own[node]
		votes := !known || suffrage == raft.Voter
		if votes {
			v.voters++
		}
		if node == v.c.id.Node {
			v.self = votes
			continue
		}
		others[node] = votes
	}
	return others
}

type greeting struct {
	votes bool
	reply helloReply
	err   error
}

// ask puts the question to all and judges the answers as they come.
func (v *vetter) ask(ctx context.Context, others map[string]bool, body []byte) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan greeting, len(others))
	for node, votes := range others {
		v.c.goRun(func() {
			r, err := v.c.greet(ctx, node, body)
			answers <- greeting{votes, r, err}
		})
	}
	for range others {
		a := <-answers
		if a.err != nil {
			continue
		}
		vetted := v.c.trans.Vetted.Load()
		if a.reply.Refused != "" && !vetted {
			v.c.disqualified(ctx, a.reply.Refused)
			return false
		}
		v.c.take(a.reply)
		if vetted {
			// It asks who the members are. The members may know newer things of this node than
			// it said of itself: it votes and registers meanwhile.
			continue
		}
		gone := v.c.gone(ctx, a.reply)
		if a.reply.Leads {
			return gone
		}
		if a.votes {
			v.good++
			if gone {
				v.still++
			}
		}
	}
	if v.self {
		v.good++
		v.still++
	}
	if v.c.copied.Load() {
		return v.good >= v.voters && v.still >= v.voters
	}
	return v.good > v.voters/2 && v.still > v.voters/2
}

// gone reports whether whoever has this node's session, as an answer tells, can
// not act any more.
func (c *Cluster) gone(ctx context.Context, r helloReply) bool {
	if r.Version >= 2 {
		c.newer.Store(true)
	}
	if r.Rival == nil {
		return true
	}
	r.Rival.at = clock.BootNow()
	c.recogniseFormer(r)
	if old := c.rival.Load(); r.Leads && (old == nil || old.Epoch != r.Rival.Epoch || old.Renewed != r.Rival.Renewed) {
		c.rival.Store(r.Rival)
	}
	if r.Version < 2 || c.ownAddress(r.Rival.Address) || c.wasHere(r.Rival.Epoch) {
		return true
	}
	if c.isElsewhere(ctx, r.Rival.Address) {
		c.disqualified(ctx, fmt.Sprintf("node %s runs at %s, too", c.id.Node, r.Rival.Address))
		return false
	}
	return r.Rival.Still >= r.Rival.Dead
}

// ownAddress reports whether an address is surely this process's own: nobody
// else can listen there while we do. A name may mean another machine elsewhere.
func (c *Cluster) ownAddress(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	_, listens, err2 := net.SplitHostPort(c.port.Addr().String())
	ip := net.ParseIP(host)
	if err != nil || err2 != nil || addr != c.id.Advertise || port != listens || ip == nil {
		return false
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(ip) {
			return true
		}
	}
	return false
}

// isElsewhere reports whether another process answers at an address under this
// node's id.
func (c *Cluster) isElsewhere(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, helloTime/2)
	defer cancel()
	h, err := c.introduce()
	if err != nil {
		return false
	}
	h.From = c.id.Node
	body, err := json.Marshal(h)
	if err != nil {
		return false
	}
	dial := func(ctx context.Context) (net.Conn, error) { return c.port.Dial(ctx, wire.RPC, c.id.Node, addr) }
	var r helloReply
	b, err := propose.AskOnce(ctx, dial, c.id.Node, propose.AskHello, body)
	if err != nil || json.Unmarshal(b, &r) != nil {
		return false
	}
	return r.Start != c.birth
}

// disqualified tells the owner that this start must not go on, and waits for the
// end.
func (c *Cluster) disqualified(ctx context.Context, why string) {
	c.fatal(fmt.Errorf("%w: %s; move the data directory %s away and join it anew with 'relayd join' and a token of "+
		"'relayctl node token'",
		fault.ErrCopy, why, c.o.Dir))
	<-ctx.Done()
}

// awaitVetted waits for the end of the probation.
func (c *Cluster) awaitVetted(ctx context.Context) bool {
	select {
	case <-c.vetted:
		return true
	case <-ctx.Done():
		return false
	}
}
