package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"relay/cluster/fault"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// The cluster version is state (spool, version.go). raiseWhenReady, a chore of the leader,
// raises it when every server of raft's configuration has a record that knows the next
// one, all have had their present session for UpgradeAfter (1 h, counted on each node,
// so that a new leader goes on counting) and nobody holds it; an operator's Raise waits
// for the records alone. Both hold Cluster.joining, as a join may bring a server that
// can't follow. The hold is a record under PutCert's generic names: builds of version 1
// apply that as we do, so it can be set while they are members; Apply of Raise looks at
// it again. Rejected: a field of the settings, which builds of version 1 keep in
// silence and write in an order of their own.
//
// The batcher decodes each frame down to its last field, since what one node does not know
// would stop it, and answers "not the leader" to a command of a version that it has not
// applied yet.

// ErrUpgrade says why the cluster version can't be raised now.
var ErrUpgrade = errors.New("cluster: the cluster version stays")

const askUpgrade = "cluster/upgrade"

// Upgrade is how the cluster version stands, as a node sees it.
type Upgrade struct {
	Version uint32        // of the cluster
	Next    uint32        // the newest that all servers know
	Held    bool          // an operator wants it to stay
	HeldBy  string        // who, and why
	Old     []string      // why Next is no higher than Version, in words; empty where this build knows no newer one
	Missing []string      // servers that do not live: they hold up the leader, but not an operator
	In      time.Duration // until the leader raises it, if all stays as it is
}

// String says in words what is coming; empty: nothing is.
func (u Upgrade) String() string {
	switch {
	case u.Next > u.Version && u.Held:
		return fmt.Sprintf("cluster version %d, all nodes can %d: held%s until 'relayctl cluster upgrade --release'",
			u.Version, u.Next, by(u.HeldBy))
	case u.Next > u.Version && len(u.Missing) > 0:
		return fmt.Sprintf("cluster version %d, all nodes can %d: not raised while %s down", u.Version,
			u.Next, are(u.Missing))
	case u.Next > u.Version && u.In < time.Minute:
		return fmt.Sprintf("cluster version %d, all nodes can %d: raised within a minute; no way back after that",
			u.Version, u.Next)
	case u.Next > u.Version:
		return fmt.Sprintf("cluster version %d, all nodes can %d: raised in %d min; no way back after that",
			u.Version, u.Next, int(u.In.Round(time.Minute)/time.Minute))
	case len(u.Old) > 0:
		return fmt.Sprintf("cluster version %d: %s", u.Version, strings.Join(u.Old, "; "))
	}
	return ""
}

func by(who string) string {
	if who == "" {
		return ""
	}
	return " by " + who
}

func are(nodes []string) string {
	if len(nodes) == 1 {
		return "node " + nodes[0] + " is"
	}
	return "nodes " + strings.Join(nodes, ", ") + " are"
}

// uptimes counts since when each session is known here.
type uptimes struct {
	mu   sync.Mutex
	seen map[string]uptime
}

type uptime struct {
	epoch uint64
	since time.Time
}

// look notes the sessions there are, and returns since when each lasts.
func (u *uptimes) look(now time.Time, sessions []*pb.Session) map[string]time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	seen, since := map[string]uptime{}, map[string]time.Time{}
	for _, s := range sessions {
		one := u.seen[s.Node]
		if one.epoch != s.Epoch {
			one = uptime{s.Epoch, now}
		}
		seen[s.Node], since[s.Node] = one, one.since
	}
	u.seen = seen
	return since
}

// Upgrade says how the cluster version stands.
func (c *Cluster) Upgrade() (u Upgrade, err error) {
	servers, now := c.book.Servers(), time.Now()
	err = c.store.View(func(v spool.View) error {
		record, _, err := v.Cluster()
		if err != nil {
			return err
		}
		if u.HeldBy, u.Held, err = v.UpgradeHeld(); err != nil {
			return err
		}
		sessions, err := v.Sessions()
		if err != nil {
			return err
		}
		since := c.uptimes.look(now, sessions)
		u.Version, u.Next = spool.VersionOf(record), spool.MaxVersion
		for _, s := range servers {
			m, _, err := v.Member(string(s.ID))
			if err != nil {
				return err
			}
			u.count(string(s.ID), m, since, now, c.t.UpgradeAfter)
		}
		return nil
	})
	return u, err
}

// count takes one server into account.
func (u *Upgrade) count(node string, m *pb.Member, since map[string]time.Time, now time.Time, after time.Duration) {
	if most := m.GetMaxCommand(); most < spool.MaxVersion {
		if most <= u.Version && u.Version < spool.MaxVersion {
			u.Old = append(u.Old, fmt.Sprintf("node %s knows no newer one: install this relayd there, too", node))
		}
		u.Next = max(min(u.Next, most), u.Version)
	}
	began, lives := since[node]
	if !lives {
		u.Missing = append(u.Missing, node)
		return
	}
	u.In = max(u.In, after-now.Sub(began))
}

// raiseWhenReady raises the cluster version when all servers have been able for long
// enough.
func (c *Cluster) raiseWhenReady(ctx context.Context) {
	if c.At(spool.MaxVersion) || !c.joining.TryLock() {
		return // a join may bring a server that can't; the next round looks again
	}
	defer c.joining.Unlock()
	u, err := c.Upgrade()
	if err != nil || u.Next <= u.Version || u.Held || len(u.Missing) > 0 || u.In > 0 {
		return
	}
	res := c.command(ctx, spool.KindRaise, &pb.Raise{From: u.Version, To: u.Next, Admin: &pb.Admin{
		Who: "cluster", Why: "all nodes can follow", Node: c.id.Node,
	}})
	if res.GetCode() == pb.Code_OK && res != nil {
		c.goRun(func() { c.comparer.Attest(c.ctx) })
		c.log.Warn("cluster: version raised; builds that do not know it can't come back", zap.Uint32("version", u.Next))
	}
}

// Raise raises the cluster version now, to the newest that all servers know.
// ErrUpgrade: it is held, or some server's build knows no newer one.
func (c *Cluster) Raise(ctx context.Context, adm *pb.Admin) error {
	body, err := proto.Marshal(adm)
	if err != nil {
		return err
	}
	b, err := c.askLeader(ctx, askUpgrade, body)
	if err != nil {
		return err
	}
	var why string
	if err := json.Unmarshal(b, &why); err != nil {
		return err
	}
	if why != "" {
		return fmt.Errorf("%w: %s", ErrUpgrade, why)
	}
	return nil
}

// answerRaise is the leader's part of Raise. It answers why not.
func (c *Cluster) answerRaise(ctx context.Context, _ string, body []byte) ([]byte, error) {
	adm := &pb.Admin{}
	if err := proto.Unmarshal(body, adm); err != nil {
		return nil, err
	}
	if c.leaderTerm.Load() == nil {
		return nil, fault.ErrNotLeader
	}
	c.joining.Lock()
	defer c.joining.Unlock()
	u, err := c.Upgrade()
	if err != nil {
		return nil, err
	}
	switch {
	case u.Held:
		return json.Marshal("it is held: release it first with 'relayctl cluster upgrade --release'")
	case u.Next <= u.Version && len(u.Old) > 0:
		return json.Marshal(strings.Join(u.Old, "; "))
	case u.Next <= u.Version:
		return json.Marshal(fmt.Sprintf("it is %d already, the newest that these builds know", u.Version))
	}
	f, err := spool.Encode(spool.KindRaise, &pb.Raise{From: u.Version, To: u.Next, Admin: adm})
	if err != nil {
		return nil, err
	}
	res, err := c.propose(ctx, f)
	if err != nil {
		return nil, err
	}
	c.log.Warn("cluster: version raised by an operator", zap.Uint32("version", u.Next), zap.String("who", adm.Who),
		zap.String("why", adm.Why))
	if res.Code == pb.Code_OK {
		c.goRun(func() { c.comparer.Attest(c.ctx) })
	}
	return json.Marshal(res.Text)
}

// Hold keeps the cluster version where it is, or lets it rise again. It works
// while older builds are members: they apply it as this one does. From version 2
// on it stands in the audit log, before that in this node's log alone.
func (c *Cluster) Hold(ctx context.Context, on bool, adm *pb.Admin) error {
	h := &pb.PutCert{Name: spool.UpgradeHold}
	if on {
		h.Data = []byte(strings.TrimSuffix(adm.GetWho()+": "+adm.GetWhy(), ": "))
	}
	if on && len(h.Data) == 0 {
		h.Data = []byte("an operator")
	}
	if c.At(2) {
		h.Admin = adm
	}
	f, err := spool.Encode(spool.KindPutCert, h)
	if err != nil {
		return err
	}
	res, err := c.Propose(ctx, f)
	switch {
	case err != nil:
		return err
	case res.Code == pb.Code_OK, res.Code == pb.Code_MISSING && !on:
		c.log.Warn("cluster: an operator has held or released the cluster version",
			zap.Bool("held", on), zap.String("who", adm.GetWho()), zap.String("why", adm.GetWhy()))
		return c.WaitApplied(ctx, res.Index)
	}
	return fmt.Errorf("%w: %s", ErrUpgrade, res.Text)
}
