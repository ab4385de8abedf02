package operator

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/operator/edit"
	"relay/node/wording"
	"relay/smtp/printable"
)

// membership is what the operator needs of the cluster beside the replica;
// *cluster.Cluster meets it.
type membership interface {
	Status(ctx context.Context) (cluster.Status, error)
	Token(ctx context.Context, uses int, ttl time.Duration, adm *pb.Admin) (string, error)
	Remove(ctx context.Context, id string, force bool, adm *pb.Admin) error
	Transfer(ctx context.Context, id string) error
	RotateCA(ctx context.Context, without []string, adm *pb.Admin) error
	Rotation() (cluster.Rotation, error)
	NewSealKey(ctx context.Context) error
	Upgrade() (cluster.Upgrade, error)
	Raise(ctx context.Context, adm *pb.Admin) error
	Hold(ctx context.Context, on bool, adm *pb.Admin) error
	MarkHash(ctx context.Context, id string) (uint64, []byte, error)
	Ask(ctx context.Context, node, method string, req []byte) ([]byte, error)
}

// Roles as package cluster names them.
const (
	memberLeader  = "leader"
	memberVoter   = "voter"
	memberLearner = "nonvoter"
)

func votes(m *cluster.MemberStatus) bool { return m.Role == memberLeader || m.Role == memberVoter }

// maxLag is how many entries behind the leader a node may be and still count
// as caught up, and unheard how long a session may go without a renewal.
const (
	maxLag  = 1000
	unheard = 3 * time.Second
)

// localState is what the replicated state adds to the membership.
type localState struct {
	total    admin.QueueTotals
	owned    map[uint64]int64
	sessions map[string]*pb.Session
	history  spool.HistoryLength
}

func (o *Operator) local() (l localState, err error) {
	l.sessions = map[string]*pb.Session{}
	err = o.Replica.Frozen(func(v spool.View, _ uint64) error {
		if err := queueTotals(v, &l.total); err != nil {
			return err
		}
		var err error
		if l.owned, err = v.OwnedCounts(); err != nil {
			return err
		}
		if l.history, err = v.HistoryLength(); err != nil {
			return err
		}
		sessions, err := v.Sessions()
		for _, s := range sessions {
			l.sessions[s.Node] = s
		}
		return err
	})
	return l, err
}

// Status implements admin.Cluster.
func (o *Operator) Status(ctx context.Context) (*admin.Status, error) {
	raft, err := o.Members.Status(ctx)
	if err != nil {
		return nil, err
	}
	state, err := o.local()
	if err != nil {
		return nil, err
	}
	upgrade, err := o.Members.Upgrade()
	if err != nil {
		return nil, err
	}
	said := o.allVitals(ctx)
	s := &admin.Status{
		Cluster: raft.Name, Leader: raft.Leader, Term: raft.Term, Node: o.Node, Queue: state.total,
		Nodes: []admin.Node{}, Problems: []string{}, Advice: []string{}, FailoverSeconds: raft.Failover.Seconds(),
		ClusterVersion: upgrade.Version, Upgrade: upgrade.String(),
	}
	if s.Cluster == "" {
		s.Cluster = raft.Cluster
	}
	for i := range raft.Members {
		m := &raft.Members[i]
		s.Nodes = append(s.Nodes, memberNode(m, state, said[m.ID], &raft))
	}
	count := votesOf(&raft)
	s.MayFail = count.spare()
	s.Advice = append(s.Advice, count.advice()...)
	s.Advice = append(s.Advice, history(s, state.history)...)
	s.Problems = append(s.Problems, o.problems(&raft, s, state, count)...)
	words, held := o.rotation(&raft)
	s.Rotation, s.Problems = words, append(s.Problems, held...)
	for _, n := range s.Nodes {
		if said[n.ID].Full {
			s.Problems = append(s.Problems,
				fmt.Sprintf("node %s refuses new mail: the disk of its data directory is past the watermark of [storage]; make "+
					"room or lower it", n.ID))
		}
		s.Problems = append(s.Problems, said[n.ID].Troubles...)
		s.Advice = append(s.Advice, said[n.ID].Advice...)
	}
	s.Healthy = len(s.Problems) == 0
	return s, nil
}

// history says how far back the history goes, and where its bound cuts it short.
func history(s *admin.Status, h spool.HistoryLength) []string {
	lasts, known := h.Lasts()
	s.HistorySpan, s.HistoryLasts = int64(h.Span/time.Second), int64(lasts/time.Second)
	if !known || lasts >= h.Keep-h.Keep/10 {
		return nil
	}
	return []string{fmt.Sprintf("at the rate so far the history of a message lasts %s, not %s: its bound is too low; "+
		"raise it with 'relayctl settings set --history-bytes'", wording.Span(lasts), wording.Span(h.Keep))}
}

// Overview is the members as this node sees them, for what is not the admin API.
type Overview struct {
	Raft             cluster.Status
	Nodes            []admin.Node    // in the order of Raft.Members
	Full             map[string]bool // nodes whose disk has no room for mail
	Voters, UpVoters int
	Held             []string // why a change of the CA does not go on
}

// Overview asks all members what only they know.
func (o *Operator) Overview(ctx context.Context) (*Overview, error) {
	raft, err := o.Members.Status(ctx)
	if err != nil {
		return nil, err
	}
	state, err := o.local()
	if err != nil {
		return nil, err
	}
	said, count := o.allVitals(ctx), votesOf(&raft)
	v := &Overview{Raft: raft, Full: map[string]bool{}, Voters: count.all, UpVoters: count.up}
	for i := range raft.Members {
		m := &raft.Members[i]
		v.Nodes = append(v.Nodes, memberNode(m, state, said[m.ID], &raft))
		v.Full[m.ID] = m.Answers && said[m.ID].Full
	}
	_, v.Held = o.rotation(&raft)
	return v, nil
}

// voteCount is how many of the voting nodes answer.
type voteCount struct{ all, up int }

func votesOf(raft *cluster.Status) (c voteCount) {
	for i := range raft.Members {
		if m := &raft.Members[i]; votes(m) {
			c.all++
			if m.Answers {
				c.up++
			}
		}
	}
	return c
}

// need is how many must be up.
func (c voteCount) need() int { return c.all/2 + 1 }

// spare is how many of those that are up may fail.
func (c voteCount) spare() int { return max(c.up-c.need(), 0) }

// advice says what an even number of nodes is worth.
func (c voteCount) advice() []string {
	switch {
	case c.all == 0 || c.all%2 == 1 || c.up < c.all:
		return nil
	case c.all == 2:
		return []string{"of 2 voting nodes none may fail: without either of them the cluster stops; with a third one may"}
	}
	return []string{
		fmt.Sprintf("of %d voting nodes %d may fail, as of %d; with one more %d may", c.all, c.spare(), c.all-1, c.spare()+1),
	}
}

// memberNode is one member as the API shows it. Figures that it told before it fell
// silent are not shown.
func memberNode(m *cluster.MemberStatus, state localState, said NodeStats, raft *cluster.Status) admin.Node {
	owned := uint64(max(state.owned[m.Epoch], 0))
	if m.Epoch == 0 {
		owned = 0 // what nobody owns is no node's
	}
	if !m.Answers {
		said = NodeStats{}
	}
	n := admin.Node{
		ID: m.ID, State: memberState(m, said, owned, raft), Role: memberRole(m), Applied: m.Applied,
		Lag: m.Lag, Owned: owned,
		POP3Sessions: said.POP3, SMTPSessions: said.SMTP, Version: m.Version, Hostname: m.Hostname,
		Address: m.Address, Admin: m.Admin, DiskFree: said.DiskFree, DiskTotal: said.DiskTotal, UptimeSeconds: said.Uptime,
	}
	if !m.Answers {
		n.SilentSeconds = max(m.Silent.Round(time.Second/10).Seconds(), 0.1)
	}
	n.Drained = n.State == admin.NodeDrained || m.Draining && !m.Live && owned == 0
	if session := state.sessions[m.ID]; session != nil {
		n.LastSeen = admin.AtMs(session.RenewedMs)
		n.ClockOffsetSeconds = m.ClockOffset.Round(time.Millisecond).Seconds()
	}
	return n
}

// memberState names a node's state. Without a leader no session ends, so that a
// node that does not answer is taken for dead when its session would have. With one
// the session tells: others may hear a node that does not answer this one.
func memberState(m *cluster.MemberStatus, said NodeStats, owned uint64, raft *cluster.Status) string {
	switch {
	case !m.Live && m.Role == memberLearner && m.Answers:
		return admin.NodeJoining
	case !m.Live || !m.Answers && raft.Leader == "" && m.Silent >= max(m.Failover, raft.Failover):
		return admin.NodeDead
	case !m.Answers:
		return admin.NodeSilent
	case m.Draining && owned == 0 && m.Role != memberLeader && left(said):
		return admin.NodeDrained
	case m.Draining:
		return admin.NodeDraining
	case m.Role == memberLearner:
		return admin.NodeJoining
	}
	return admin.NodeAlive
}

// left reports whether the last client of a node that is drained is gone. A build
// that refuses no clients is taken as it always was.
func left(said NodeStats) bool {
	if said.Refusing == nil {
		return said.Version != "" // else it has not said anything in time
	}
	return *said.Refusing && said.Served == 0
}

func memberRole(m *cluster.MemberStatus) string {
	switch m.Role {
	case memberLeader:
		return admin.RoleLeader
	case memberVoter:
		return admin.RoleFollower
	case memberLearner:
		return admin.RoleNonVoter
	}
	return admin.RoleNone
}

// problems says in words what is wrong. A node that was drained on purpose is
// none.
func (o *Operator) problems(raft *cluster.Status, s *admin.Status, state localState, count voteCount) []string {
	var all []string
	if raft.Leader == "" {
		all = append(all, "the cluster has no leader: too few nodes are up, or an election is under way; nothing can be "+
			"changed and no mail is taken in")
	}
	taken := false
	for i := range raft.Members {
		m, n := &raft.Members[i], &s.Nodes[i]
		taken = taken || m.Answers && !m.Draining
		all = append(all, o.troubles(m, n)...)
	}
	if !taken {
		all = append(all, "every node that is up is being drained: none takes new clients; take one back with 'relayctl "+
			"node undrain ID'")
	}
	switch {
	case count.up < count.need():
		all = append(all, fmt.Sprintf("%d of %d voting nodes answer, and %d are needed: no mail is taken in "+
			"until more are up", count.up, count.all, count.need()))
	case count.up == count.need() && count.up < count.all:
		all = append(all, fmt.Sprintf("%d of %d voting nodes are up: no other may fail now", count.up, count.all))
	}
	if n := state.owned[0]; n > 0 {
		all = append(all, fmt.Sprintf("%s wait without a node to deliver them", wording.Counted(uint64(n), "recipient")))
	}
	return all
}

// troubles says what is wrong with one node.
func (o *Operator) troubles(m *cluster.MemberStatus, n *admin.Node) []string {
	var all []string
	switch {
	case m.Role == "removed":
		all = append(all, fmt.Sprintf("node %s is no member any more, but its record is still there: take it out with "+
			"'relayctl node rm %s'", m.ID, m.ID))
	case !m.Live && !m.Answers && m.Draining:
		all = append(all, fmt.Sprintf("node %s is down, and drained: start it, then 'relayctl node undrain %s', or take it "+
			"out with 'relayctl node rm %s'", m.ID, m.ID, m.ID))
	case !m.Live && !m.Answers:
		all = append(all, fmt.Sprintf("node %s is down: start it, or take it out with 'relayctl node rm %s'", m.ID, m.ID))
	case !m.Live:
		all = append(all, fmt.Sprintf("node %s answers but has no session: %s", m.ID, reason(m.Ready, "it is starting")))
	case !m.Answers && n.State == admin.NodeDead:
		all = append(all, fmt.Sprintf("node %s has not been heard of for %s: start it, or bring the link to it back",
			m.ID, wording.Span(m.Silent)))
	case !m.Answers:
		all = append(all, fmt.Sprintf("node %s does not answer node %s", m.ID, o.Node))
	case m.Lag > maxLag:
		all = append(all, fmt.Sprintf("node %s is %d entries behind the leader", m.ID, m.Lag))
	case n.State == admin.NodeJoining:
		all = append(all, fmt.Sprintf("node %s is joining: it has no vote yet", m.ID))
	case m.Ready != "" && !m.Draining:
		all = append(all, fmt.Sprintf("node %s is not ready: %s", m.ID, m.Ready))
	}
	if m.Live && m.Answers && !n.LastSeen.IsZero() && o.Now().Sub(n.LastSeen.Time) > unheard {
		all = append(all, fmt.Sprintf("node %s has not renewed its session for %s", m.ID,
			wording.Span(o.Now().Sub(n.LastSeen.Time))))
	}
	if words := cluster.ClockWords(m.ID, m.ClockOffset); m.Live && words != "" {
		all = append(all, words)
	}
	if n.DiskTotal > 0 && n.DiskFree*20 < n.DiskTotal {
		all = append(all, fmt.Sprintf("node %s has only %d%% of its disk free", m.ID, n.DiskFree*100/n.DiskTotal))
	}
	return all
}

func reason(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// holders lists the nodes that have applied an index.
func (o *Operator) holders(ctx context.Context, index uint64) []string {
	nodes := []string{}
	raft, err := o.Members.Status(ctx)
	if err != nil {
		return nodes
	}
	for i := range raft.Members {
		if m := &raft.Members[i]; index > 0 && m.Applied >= index {
			nodes = append(nodes, m.ID)
		}
	}
	return nodes
}

// Token implements admin.Cluster.
func (o *Operator) Token(ctx context.Context, by admin.By, r admin.TokenRequest) (*admin.Token, error) {
	if r.Uses == 0 {
		r.Uses = 1
	}
	if r.TTLSeconds == 0 {
		r.TTLSeconds = 3600
	}
	if r.Uses < 1 || r.Uses > 100 {
		return nil, admin.Invalid("a join token can be used 1 to 100 times, not %d", r.Uses)
	}
	if r.TTLSeconds < 1 || r.TTLSeconds > 30*24*3600 {
		return nil, admin.Invalid("a join token is valid for 1 second to 30 days, not %d seconds", r.TTLSeconds)
	}
	adm, err := o.edit.Admin(by)
	if err != nil {
		return nil, err
	}
	ttl := time.Duration(r.TTLSeconds) * time.Second
	t := &admin.Token{Uses: r.Uses, Expires: admin.At(o.Now().Add(ttl))}
	o.edit.Annotate(&pb.PutToken{Admin: adm, Token: &pb.JoinToken{
		Uses: uint32(r.Uses), ExpiresMs: o.Now().Add(ttl).UnixMilli(),
	}})
	if t.Token, err = o.Members.Token(ctx, r.Uses, ttl, adm); err != nil {
		return nil, edit.ProposalError(err)
	}
	err = o.Replica.View(func(v spool.View) error {
		m, _, err := v.Member(o.Node)
		t.Address = m.GetAddress()
		return err
	})
	return t, err
}

// member finds a node, or says that there is none.
func (o *Operator) member(ctx context.Context, id string) (*cluster.Status, *cluster.MemberStatus, error) {
	raft, err := o.Members.Status(ctx)
	if err != nil {
		return nil, nil, err
	}
	i := slices.IndexFunc(raft.Members, func(m cluster.MemberStatus) bool { return m.ID == id })
	if i < 0 {
		return nil, nil, admin.NotFound("node", printable.Text(id, 64))
	}
	return &raft, &raft.Members[i], nil
}

// Remove implements admin.Cluster.
func (o *Operator) Remove(ctx context.Context, by admin.By, id string,
	opts admin.RemoveOptions) (*admin.NodeChange, error) {
	change := &admin.NodeChange{ID: id, DryRun: opts.DryRun}
	err := o.decide(ctx, func() error {
		raft, m, err := o.member(ctx, id)
		if err == nil {
			change.Effects = []string{}
			err = o.removal(ctx, raft, m, opts.Force, change)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if opts.DryRun {
		return change, nil
	}
	adm, err := o.edit.Admin(by)
	if err != nil {
		return nil, err
	}
	if err := o.Members.Remove(ctx, id, opts.Force, adm); err != nil {
		return nil, memberError(err)
	}
	return change, o.shown(ctx)
}

// decide judges a command about nodes. This node's list of members may be behind, so that
// what it refuses for good is judged again once it has caught up; where nobody answers for
// that, the refusal stands.
func (o *Operator) decide(ctx context.Context, judge func() error) error {
	err := judge()
	if !errors.Is(err, admin.ErrConflict) && !errors.Is(err, admin.ErrNotFound) || o.Replica.Consistent(ctx) != nil {
		return err
	}
	return judge()
}

// shown waits until this node's reads show a change that is made.
func (o *Operator) shown(ctx context.Context) error {
	if err := o.Replica.Consistent(ctx); err != nil {
		return edit.ErrBehind()
	}
	return nil
}

// memberError maps what a change of membership can end with.
func memberError(err error) error {
	if errors.Is(err, cluster.ErrQuorum) {
		detail, next, _ := strings.Cut(strings.TrimPrefix(plain(err), cluster.ErrQuorum.Error()+": "), ": ")
		return admin.Conflict(detail, next)
	}
	if errors.Is(err, cluster.ErrChanged) {
		return admin.Conflict("nothing was changed: the members have changed meanwhile",
			"look at 'relayctl status' and try again")
	}
	var remote *cluster.RemoteError
	if mapped := edit.ProposalError(err); mapped != err || !errors.As(err, &remote) && !errors.Is(err, cluster.ErrStays) {
		return mapped
	}
	return admin.Conflict(plain(err), "")
}

// plain is the text of an error without the node that said it.
func plain(err error) string {
	var remote *cluster.RemoteError
	if errors.As(err, &remote) {
		return remote.Text
	}
	return err.Error()
}

// removal says what the removal of a node does, or why it must not be.
func (o *Operator) removal(ctx context.Context, raft *cluster.Status, m *cluster.MemberStatus, force bool,
	change *admin.NodeChange) error {
	if c := votesOf(raft); c.up < c.need() {
		return admin.Problem(http.StatusServiceUnavailable,
			fmt.Sprintf("%d of %d voting nodes answer, and %d are needed to take one out", c.up, c.all, c.need()),
			"start the others first; where their disks are lost, 'relayd recover' goes on without them")
	}
	voters, up := 0, 0
	for i := range raft.Members {
		other := &raft.Members[i]
		if other.ID != m.ID && votes(other) {
			voters++
			if other.Live {
				up++
			}
		}
	}
	say := func(format string, args ...any) {
		change.Effects = append(change.Effects, fmt.Sprintf(format, args...))
	}
	if votes(m) {
		if voters == 0 {
			return admin.Conflict(fmt.Sprintf("node %s is the only voting node: without it there is no cluster", m.ID),
				"add another one first")
		}
		if need := voters/2 + 1; up < need {
			if !force {
				return admin.Conflict(fmt.Sprintf("without %s only %d of %d voting nodes would be up, and %d are needed", m.ID,
					up, voters, need),
					"bring the others back first, or use --force")
			}
			say("the cluster loses its quorum: %d of %d voting nodes are up then, and %d are needed", up, voters, need)
		}
	}
	switch {
	case m.Role == "removed":
		say("the record of node %s is deleted", m.ID)
	case votes(m):
		say("node %s leaves the cluster for good, which then has %s", m.ID, wording.Counted(uint64(voters), "voting node"))
	default:
		say("node %s, which has no vote, leaves the cluster for good", m.ID)
	}
	if m.ID == raft.Leader {
		say("the leadership moves to another node first")
	}
	switch spare := up - (voters/2 + 1); {
	case voters <= 0 || !votes(m):
	case spare <= 0:
		say("no node may fail then: the cluster would stop")
	default:
		say("the cluster can then lose %s without stopping", wording.Counted(uint64(spare), "node"))
	}
	return o.inheritance(ctx, m, say)
}

// inheritance says what becomes of a node's work.
func (o *Operator) inheritance(ctx context.Context, m *cluster.MemberStatus, say func(string, ...any)) error {
	state, err := o.local()
	if err != nil {
		return err
	}
	if n := state.owned[m.Epoch]; n > 0 && m.Epoch != 0 {
		say("the other nodes deliver what it was to: %s", wording.Counted(uint64(n), "recipient"))
	}
	switch said := o.allVitals(ctx)[m.ID]; {
	case !m.Answers:
	case said.SMTP+said.POP3 > 0:
		say("its clients are cut: %s and %s; 'relayctl node drain %s --wait' before it would let them end",
			wording.Counted(uint64(said.SMTP), "SMTP connection"), wording.Counted(uint64(said.POP3), "POP3 session"), m.ID)
	default:
		say("no client is connected to it now; 'relayctl node drain %s --wait' before it would keep new ones away", m.ID)
	}
	return nil
}

// Drain implements admin.Cluster.
func (o *Operator) Drain(ctx context.Context, by admin.By, id string,
	opts admin.DrainOptions) (*admin.NodeChange, error) {
	change := &admin.NodeChange{ID: id, DryRun: opts.DryRun}
	err := o.decide(ctx, func() error {
		raft, m, err := o.member(ctx, id)
		switch {
		case err != nil:
		case opts.Off:
			change.Effects, err = undrainage(m)
		default:
			change.Effects, err = o.drainage(raft, m, opts.Notice)
		}
		return err
	})
	if err != nil || opts.DryRun {
		return change, err
	}
	upgrade, err := o.Members.Upgrade()
	if err != nil {
		return nil, err
	}
	_, err = o.edit.Do(ctx, by, spool.KindDrain, func(adm *pb.Admin) proto.Message {
		h := &pb.Drain{Admin: adm, Node: id, Off: opts.Off}
		if upgrade.Version > 1 && !opts.Off {
			h.NoticeMs = opts.Notice.Milliseconds()
		}
		return h
	})
	return change, err
}

// undrainage says what the end of a drain does.
func undrainage(m *cluster.MemberStatus) ([]string, error) {
	switch {
	case !m.Draining:
		return []string{fmt.Sprintf("node %s is not being drained: nothing changes", m.ID)}, nil
	case !m.Answers:
		return []string{fmt.Sprintf("node %s does not run; it takes mail and work again when it does", m.ID)}, nil
	}
	return []string{fmt.Sprintf("node %s takes new clients, mail and work again", m.ID)}, nil
}

// drainage says what a drain does, or why it must not be.
func (o *Operator) drainage(raft *cluster.Status, m *cluster.MemberStatus, notice time.Duration) ([]string, error) {
	if !m.Live {
		return nil, admin.Conflict(fmt.Sprintf("node %s is down: the others have its work already", m.ID),
			fmt.Sprintf("start it, or take it out with 'relayctl node rm %s'", m.ID))
	}
	takers := 0
	for i := range raft.Members {
		if other := &raft.Members[i]; other.ID != m.ID && other.Live && other.Answers && !other.Draining {
			takers++
		}
	}
	if takers == 0 {
		return nil, admin.Conflict(fmt.Sprintf("no other node is there to take over what %s does", m.ID),
			"start or undrain another node first")
	}
	state, err := o.local()
	if err != nil {
		return nil, err
	}
	effects := []string{
		fmt.Sprintf("node %s is not ready for load balancers any more; it takes new clients for %s yet, then refuses them, "+
			"and lets open sessions end", m.ID, wording.Span(notice)),
	}
	if n := state.owned[m.Epoch]; n > 0 {
		effects = append(effects, fmt.Sprintf("what it is to deliver goes to %s: %s", wording.Counted(uint64(takers),
			"other node"),
			wording.Counted(uint64(n), "recipient")))
	}
	if m.ID == raft.Leader {
		effects = append(effects, "the leadership moves to another node")
	}
	if c := votesOf(raft); votes(m) && m.Answers && c.spare() == 0 {
		effects = append(effects,
			fmt.Sprintf("when it is stopped the cluster stops, too, until it is back: %d of %d voting nodes would be up, and "+
				"%d are needed", c.up-1, c.all, c.need()))
	}
	if m.Draining {
		effects = append(effects, "it is being drained already")
	}
	return effects, nil
}

// Transfer implements admin.Cluster. Leadership is not part of the replicated
// state, so that the step has no line in the audit log, only in the log files.
func (o *Operator) Transfer(ctx context.Context, by admin.By, to string) (*admin.NodeChange, error) {
	raft, err := o.Members.Status(ctx)
	if err != nil {
		return nil, err
	}
	if raft.Leader == "" {
		return nil, admin.NoQuorum("there is no leader whose place could be taken")
	}
	change := &admin.NodeChange{ID: to}
	if to == raft.Leader {
		change.Effects = []string{fmt.Sprintf("node %s leads already: nothing changes", to)}
		return change, nil
	}
	heir := ""
	for i := range raft.Members {
		m := &raft.Members[i]
		if to == m.ID && (!votes(m) || !m.Live) {
			return nil, admin.Conflict(fmt.Sprintf("node %s can not lead: it must be up and have a vote", to),
				"'relayctl node ls' shows which can")
		}
		if to == m.ID && m.Draining {
			return nil, admin.Conflict(fmt.Sprintf("node %s is being drained and would hand the leadership over at once", to),
				fmt.Sprintf("take it back first with 'relayctl node undrain %s'", to))
		}
		if votes(m) && m.Live && m.ID != raft.Leader && (to == "" || to == m.ID) {
			heir = m.ID
		}
	}
	switch {
	case heir == "" && to != "":
		return nil, admin.NotFound("node", printable.Text(to, 64))
	case heir == "":
		return nil, admin.Conflict("there is no other node that could lead", "")
	}
	if err := o.Members.Transfer(ctx, to); err != nil {
		return nil, memberError(err)
	}
	o.Log.Info("leadership moved by an operator", zap.String("from", raft.Leader), zap.String("to", to),
		zap.String("who", by.Who), zap.String("why", by.Why))
	change.Effects = []string{fmt.Sprintf("node %s gave up the leadership%s", raft.Leader, toward(to))}
	return change, nil
}

func toward(node string) string {
	if node == "" {
		return " to the node that is most up to date"
	}
	return " to node " + node
}
