package cluster

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"relay/cluster/disk"
	raftlog "relay/cluster/disk/log"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// Status is one node's picture of the cluster.
type Status struct {
	Cluster     string // id
	Name        string
	Node        string // whose picture it is
	Leader      string // empty: none
	Term        uint64
	State       string // leader, follower, candidate, stopped
	Applied     uint64
	Commit      uint64
	FirstIndex  uint64 // of the entries the log still holds
	LastIndex   uint64
	LastContact time.Duration // since the leader was heard; 0 on the leader
	LogBytes    int64
	Failover    time.Duration  // how long others wait at most before they take the work of a node that dies
	Members     []MemberStatus // by id
}

// MemberStatus is one member as seen from here.
type MemberStatus struct {
	ID       string
	Address  string
	Admin    string
	Hostname string
	Version  string
	Role     string        // leader, voter, nonvoter, removed
	Applied  uint64        // 0 where it did not answer
	Lag      uint64        // entries behind the leader's commit index
	Answers  bool          // it answered a question just now
	Silent   time.Duration // since anything was heard of it, as far as this process can tell; 0 where it answers
	Live     bool          // it has a session
	Draining bool          // it is marked to be drained, dead or alive
	Epoch    uint64
	Ready    string // empty: ready; else why not, in its own words

	// ClockOffset is how far its wall clock is ahead of the state's time, or of where that is
	// about to jump to; 0 where nobody can know.
	ClockOffset time.Duration

	Failover time.Duration // as Status.Failover, for this one; 0 without a session
}

const (
	askStatus   = "cluster/report"
	statusPause = 500 * time.Millisecond // an answer this young is used again
	statusTime  = 500 * time.Millisecond // longest wait for one member, beside four times the latency
)

// report is what a member says of itself.
type report struct {
	Applied uint64    `json:"applied"`
	Commit  uint64    `json:"commit"`
	Term    uint64    `json:"term"`
	Leader  string    `json:"leader,omitempty"` // by its own log, not by leader discovery
	Ready   string    `json:"ready,omitempty"`
	at      time.Time // when it was had

	Silent    int64  `json:"silent_ms,omitempty"` // how long it has heard no leader
	Drains    bool   `json:"drains,omitempty"`    // it is being drained
	LastTerm  uint64 `json:"last_term,omitempty"` // of the newest entry in its log
	LastIndex uint64 `json:"last_index,omitempty"`

	Found map[string]string `json:"found,omitempty"` // addresses of nodes, for who hears no leader
}

// reports remembers what members said, so that many who look at the status do
// not make many questions.
type reports struct {
	mu   sync.Mutex
	seen map[string]report
}

func (c *Cluster) ownReport() report {
	_, leader := c.raft.LeaderWithID()
	r := report{
		Applied: c.store.Applied(), Commit: c.raft.CommitIndex(), Term: c.raft.CurrentTerm(), Leader: string(leader),
	}
	r.Silent, r.Drains = c.silence().Milliseconds(), c.draining.Load()
	if !c.trans.Vetted.Load() {
		r.Term = 0 // it has no say in who stands for election
	}
	r.LastTerm, r.LastIndex = c.lastEntry()
	if err := c.Ready(); err != nil {
		r.Ready = err.Error()
	}
	return r
}

func (c *Cluster) answerReport(_ context.Context, from string, question []byte) ([]byte, error) {
	r := c.ownReport()
	if c.tell(from, question) {
		r.Found = c.book.Found()
	}
	return json.Marshal(r)
}

func (c *Cluster) askReport(ctx context.Context, node string) (report, error) {
	return c.reportOf(ctx, node, nil)
}

// askLost asks for a report on behalf of a node that hears no leader: it says
// where it is, and takes over where others are.
func (c *Cluster) askLost(ctx context.Context, node string) (report, error) {
	here, err := json.Marshal(whereabouts{Address: c.id.Advertise})
	if err != nil {
		return report{}, err
	}
	r, err := c.reportOf(ctx, node, here)
	if err == nil {
		c.heard(r)
	}
	return r, err
}

func (c *Cluster) reportOf(ctx context.Context, node string, body []byte) (r report, err error) {
	if node == c.id.Node {
		return c.ownReport(), nil
	}
	b, err := c.peers.Ask(ctx, node, askStatus, body)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	return r, err
}

// Status asks the members and describes the cluster as seen from here. It
// takes half a second where one does not answer.
func (c *Cluster) Status(ctx context.Context) (Status, error) {
	_, leader := c.raft.LeaderWithID()
	s := Status{
		Cluster: c.id.Cluster, Name: c.id.Name, Node: c.id.Node, Leader: string(leader),
		Term: c.raft.CurrentTerm(), State: c.state(), Applied: c.store.Applied(), Commit: c.raft.CommitIndex(),
		LastIndex: c.raft.LastIndex(), LogBytes: c.rlog.Bytes(),
	}
	var err error
	if s.FirstIndex, err = c.rlog.FirstIndex(); err != nil {
		return s, err
	}
	if s.State != "leader" {
		s.LastContact = time.Since(c.raft.LastContact())
	}
	s.Members, err = c.roll(string(leader))
	if err != nil {
		return s, err
	}
	if s.Leader != "" {
		if err := c.tellOffsets(s.Members); err != nil {
			return s, err
		}
	}
	for _, m := range s.Members {
		s.Failover = max(s.Failover, m.Failover)
	}
	c.question(ctx, s.Members)
	top := s.Commit
	for i := range s.Members {
		if s.Members[i].ID == s.Leader {
			top = max(top, s.Members[i].Applied)
		}
	}
	for i := range s.Members {
		if m := &s.Members[i]; m.Answers && m.Applied < top {
			m.Lag = top - m.Applied
		}
	}
	return s, nil
}

func (c *Cluster) state() string {
	switch c.raft.State() {
	case raft.Leader:
		return "leader"
	case raft.Follower:
		return "follower"
	case raft.Candidate:
		return "candidate"
	}
	return "stopped"
}

// roll lists the members of raft and of the records.
func (c *Cluster) roll(leader string) ([]MemberStatus, error) {
	all := map[string]*MemberStatus{}
	for _, s := range c.book.Servers() {
		m := &MemberStatus{ID: string(s.ID), Address: string(s.Address), Role: "voter"}
		switch {
		case m.ID == leader:
			m.Role = "leader"
		case s.Suffrage != raft.Voter:
			m.Role = "nonvoter"
		}
		all[m.ID] = m
	}
	err := c.store.View(func(v spool.View) error {
		members, err := v.Members()
		if err != nil {
			return err
		}
		for _, r := range members {
			m := all[r.Id]
			if m == nil {
				m = &MemberStatus{ID: r.Id, Role: "removed"}
				all[r.Id] = m
			}
			m.Address, m.Admin, m.Hostname, m.Version = r.Address, r.Admin, r.Hostname, r.Version
			m.Draining = r.DrainMs != 0
		}
		sessions, err := v.Sessions()
		for _, s := range sessions {
			if m := all[s.Node]; m != nil {
				m.Live, m.Epoch, m.Failover = true, s.Epoch, c.detector.Grace(s)
				m.Draining = m.Draining || s.Draining
			}
		}
		return err
	})
	list := make([]MemberStatus, 0, len(all))
	for _, m := range all {
		list = append(list, *m)
	}
	slices.SortFunc(list, func(a, b MemberStatus) int { return strings.Compare(a.ID, b.ID) })
	return list, err
}

// question fills in what the members say of themselves.
func (c *Cluster) question(ctx context.Context, members []MemberStatus) {
	ctx, cancel := context.WithTimeout(ctx, statusTime+4*c.t.Latency)
	defer cancel()
	var wg sync.WaitGroup
	for i := range members {
		m := &members[i]
		wg.Go(func() {
			r, err := c.remembered(ctx, m.ID)
			if err != nil {
				m.Ready, m.Silent = "does not answer", c.unheard(m.ID)
				return
			}
			m.Answers, m.Applied, m.Ready = true, r.Applied, r.Ready
		})
	}
	wg.Wait()
}

// unheard is for how long nothing was heard of a node: neither an answer nor a
// renewal of its session.
func (c *Cluster) unheard(node string) time.Duration {
	c.reports.mu.Lock()
	last := c.reports.seen[node].at
	c.reports.mu.Unlock()
	if at := c.detector.Heard(node); at.After(last) {
		last = at
	}
	if last.IsZero() {
		last = c.began
	}
	return time.Since(last)
}

// Answers reports whether a node answers now: it is asked, and waited for as
// long as Status does.
func (c *Cluster) Answers(ctx context.Context, node string) bool {
	ctx, cancel := context.WithTimeout(ctx, statusTime+4*c.t.Latency)
	defer cancel()
	_, err := c.askReport(ctx, node)
	return err == nil
}

func (c *Cluster) remembered(ctx context.Context, node string) (report, error) {
	if node == c.id.Node {
		return c.ownReport(), nil
	}
	c.reports.mu.Lock()
	r, ok := c.reports.seen[node]
	c.reports.mu.Unlock()
	if ok && time.Since(r.at) < statusPause {
		return r, nil
	}
	r, err := c.askReport(ctx, node)
	if err != nil {
		return r, err
	}
	r.at = time.Now()
	c.reports.mu.Lock()
	c.reports.seen[node] = r
	c.reports.mu.Unlock()
	return r, nil
}

// Members lists the member records as this node knows them.
func (c *Cluster) Members() (all []*pb.Member, err error) {
	err = c.store.View(func(v spool.View) error {
		all, err = v.Members()
		return err
	})
	return all, err
}

// Metrics returns the numbers of this node's log and store. It may be called at
// any time and by any goroutine.
func (c *Cluster) Metrics() (raftlog.Metrics, disk.Metrics) {
	return c.rlog.Metrics(), c.store.Metrics()
}

// Standing is where this node is in its cluster, as far as it knows.
type Standing struct {
	Leads   bool
	Leader  string // node id; empty: it knows none
	Term    uint64
	Commit  uint64 // highest index that it knows to be committed
	Applied uint64
}

// Standing asks nobody.
func (c *Cluster) Standing() Standing {
	_, leader := c.raft.LeaderWithID()
	return Standing{
		Leads: c.Leads(), Leader: string(leader), Term: c.raft.CurrentTerm(), Commit: c.raft.CommitIndex(),
		Applied: c.store.Applied(),
	}
}

// Leads reports whether this node is the leader, as far as it knows.
func (c *Cluster) Leads() bool { return c.raft.State() == raft.Leader }
