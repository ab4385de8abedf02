// Package diverge finds the replicas whose state is not what the others have, by chains of hashes of what commands
// write, and takes them out of service.
package diverge

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"relay/cluster/clock"
	"relay/cluster/datadir"
	"relay/cluster/disk"
	"relay/cluster/fault"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/tuning"
)

const (
	// what nodes ask each other
	askSum     = "cluster/sum"
	askMark    = "cluster/mark"
	askJudge   = "cluster/judge"
	askCompare = "cluster/compare"

	judgeTime = 5 * time.Second
	judgeWait = time.Second // between two looks at one difference
	markWait  = time.Minute // between two full comparisons, which read everything
	markTime  = 5 * time.Minute
)

// Ports are what a Comparer needs of its node. All are required.
type Ports struct {
	Self    string
	Build   string        // of this node, and how it sums
	Renew   time.Duration // between two renewals of a session
	Life    context.Context
	Store   *disk.Store
	Promise *datadir.Promise
	Summing func() bool   // the cluster version has sums
	Version func() uint32 // of the cluster
	Ready   func() error  // nil: this node can take traffic
	Leads   func() bool   // this node, with its barrier done
	Leader  func() string // empty: none is known
	Voters  func() []string
	// Sessions are those of the applied state.
	Sessions func() ([]*pb.Session, error)
	// Ask asks a node, itself perhaps, AskLeader the leader.
	Ask       func(ctx context.Context, node, subject string, body []byte) ([]byte, error)
	AskLeader func(ctx context.Context, subject string, body []byte) ([]byte, error)
	// Command proposes one of the leader's own commands; nil: it failed, and that is logged.
	Command func(context.Context, spool.Kind, proto.Message) *pb.Result
	// StandBack keeps this node, which has diverged, from acting.
	StandBack func(context.Context)
	// Go runs fn on a goroutine that the caller waits for.
	Go    func(fn func())
	Fatal func(error)
	Log   *zap.Logger
}

// Comparer compares one node's state with the others'. Run has a goroutine of its caller's; the other methods may be
// called by any.
//
// From Raise on each command's writes and answer go into a chain of hashes
// (spool/sum.go), which the store keeps with each batch. Every 64 entries is an anchor;
// a renewal brings the newest one to everybody. A node that sees another sum than its
// own at one anchor asks the voters (cluster/sum): right is what a majority shares,
// else the leader's, as its results are what clients were told. A diverged node is
// neither counted nor believed. The wrong node writes so into its promise first, ends
// its session, takes no new one, hands the leadership over and goes on voting: its log
// is right. Each command pays for the copy and the hash of what it writes, of large
// values the first 4 KiB.
//
// If wrong and right are of different builds, full hashes at a Mark decide, for
// which the leader alone is asked (cluster/compare, one a minute); equal ones begin the
// chain anew (Raise from v to v). A difference from before the chain began is found by a
// Mark that the leader makes behind the raise (Attest): a node that is wrong by it
// judges itself. A node whose chain is void under version 2, as another build has run on
// its data, compares by a Mark and begins the chain anew.
//
// Rejected: stopping all nodes without a majority; hashing the commands alone, which
// were the same where nodes differed; hashing Pebble's batches, whose form is the
// library's.
type Comparer struct {
	Ports
	judges judge // of states that differ, while leading
}

// Answer answers a question of a node.
type Answer = func(ctx context.Context, from string, body []byte) ([]byte, error)

// Handle names the Comparer's answers to what the others ask.
func (c *Comparer) Handle(handle func(subject string, answer Answer)) {
	handle(askSum, c.answerSum)
	handle(askMark, c.answerMark)
	handle(askJudge, c.answerJudge)
	handle(askCompare, c.answerCompare)
}

// diverged says how this node's state differs from the others'; empty: it does not.
func (c *Comparer) diverged() string { return c.Promise.Look().Diverged }

// sumAnswer is what a node says of its state at an anchor, or at a mark.
type sumAnswer struct {
	Sum      string `json:"sum"` // empty: not known
	Build    string `json:"build"`
	Diverged bool   `json:"diverged,omitempty"`
}

func (c *Comparer) answerSum(_ context.Context, _ string, req []byte) ([]byte, error) {
	var index uint64
	if err := json.Unmarshal(req, &index); err != nil {
		return nil, err
	}
	a := sumAnswer{Build: c.Build, Diverged: c.diverged() != ""}
	if sum, known := c.Store.SumAt(index); known {
		a.Sum = fmt.Sprintf("%016x", sum)
	}
	return json.Marshal(a)
}

func (c *Comparer) answerMark(ctx context.Context, _ string, id []byte) ([]byte, error) {
	_, sum, err := c.Store.MarkHash(ctx, string(id))
	if err != nil {
		return nil, err
	}
	return json.Marshal(sumAnswer{Sum: hex.EncodeToString(sum), Build: c.Build, Diverged: c.diverged() != ""})
}

// Run looks, until ctx ends, for a session whose node says another sum than this one has. Its
// own difference ends this node's right to act.
func (c *Comparer) Run(ctx context.Context) {
	var since uint64 // anchor at which the present difference was seen first
	for {
		if c.diverged() != "" {
			c.StandBack(ctx)
		} else if c.unsummed() {
			if since == 0 {
				c.Log.Warn("cluster: this node's chain of sums is void, as another build has run on its data: the states " +
					"are compared")
				since = c.Store.Applied()
			}
			c.takeJudgement(ctx, since)
			clock.Sleep(ctx, judgeWait)
		} else if index := c.dissent(); index == 0 {
			if c.Store.Summed() { // a void chain stays void over a time without a session
				since = 0
			}
		} else {
			if since == 0 {
				since = index
			}
			c.judgeSums(ctx, index, since)
			clock.Sleep(ctx, judgeWait)
		}
		if clock.Sleep(ctx, tuning.NextBeat(time.Now(), min(time.Second, c.Renew))); ctx.Err() != nil {
			return
		}
	}
}

// dissent returns an anchor at which somebody has another sum; 0: nobody.
func (c *Comparer) dissent() uint64 {
	sessions, err := c.Sessions()
	if err != nil {
		return 0
	}
	for _, s := range sessions {
		if sum, known := c.Store.SumAt(s.SumIndex); known && sum != s.Sum {
			return s.SumIndex
		}
	}
	return 0
}

// judgeSums asks the voters for their sums at an anchor. Of nodes of one build the
// sums decide; between builds they are an alarm, and full hashes decide.
func (c *Comparer) judgeSums(ctx context.Context, index, since uint64) {
	req, err := json.Marshal(index)
	if err != nil {
		return
	}
	short, cancel := context.WithTimeout(ctx, judgeTime)
	defer cancel()
	said := c.poll(short, askSum, req)
	right, wrong := verdict(said, c.Voters(), c.Leader())
	if len(wrong) == 0 {
		return
	}
	c.Log.Error("cluster: states differ", zap.Uint64("index", index), zap.Strings("right", right),
		zap.Strings("wrong", wrong))
	if !sameBuild(said, right, wrong) {
		c.takeJudgement(ctx, since)
		return
	}
	c.accept(ctx, index, right, wrong)
}

// accept takes a verdict where it is about this node.
func (c *Comparer) accept(ctx context.Context, index uint64, right, wrong []string) {
	if !slices.Contains(wrong, c.Self) {
		return
	}
	what := fmt.Sprintf("differs from %s at %d", strings.Join(right, ", "), index)
	if err := c.Promise.Write(func(p *datadir.Promised) { p.Diverged = what }); err != nil {
		c.Fatal(fmt.Errorf("cluster: this node's state %s, and that can't be written down: %w", what, err))
		return
	}
	c.Log.Error("cluster: this node has diverged and stands back", zap.String("state", what))
	c.StandBack(ctx)
}

// judgement is what the leader found by full hashes at a mark.
type judgement struct {
	Index uint64   `json:"index,omitempty"` // of the mark; 0: there is none yet
	Right []string `json:"right,omitempty"`
	Wrong []string `json:"wrong,omitempty"`
}

// judge keeps the leader's newest judgement. One is made at a time.
type judge struct {
	mu    sync.Mutex
	busy  bool
	began time.Time
	last  judgement
}

// takeJudgement has the leader compare full hashes, and takes its judgement where
// that is of a place behind the first sign of the difference.
func (c *Comparer) takeJudgement(ctx context.Context, since uint64) {
	var j judgement
	b, err := c.AskLeader(ctx, askCompare, nil)
	if err == nil {
		err = json.Unmarshal(b, &j)
	}
	if err != nil {
		c.Log.Warn("cluster: the leader does not compare the states", zap.Error(err))
		return
	}
	if j.Index > since && len(j.Wrong) > 0 {
		c.accept(ctx, j.Index, j.Right, j.Wrong)
	}
}

// answerCompare tells the newest judgement, and begins another one where that is old:
// a comparison reads everything, and takes longer than anybody waits for an answer.
func (c *Comparer) answerCompare(context.Context, string, []byte) ([]byte, error) {
	if !c.Leads() {
		return nil, fault.ErrNotLeader
	}
	c.judges.mu.Lock()
	defer c.judges.mu.Unlock()
	if !c.judges.busy && (c.judges.began.IsZero() || time.Since(c.judges.began) > markWait) {
		c.judges.busy, c.judges.began = true, time.Now()
		c.Go(func() {
			j := c.judgeByMark(c.Life)
			c.judges.mu.Lock()
			defer c.judges.mu.Unlock()
			c.judges.busy, c.judges.last = false, j
			if j.Index == 0 { // nothing was read
				c.judges.began = time.Time{}
			}
		})
	}
	return json.Marshal(c.judges.last)
}

// judgeByMark compares full hashes of all voters. If they are equal the sums
// differed by the builds alone, and the chain begins anew.
func (c *Comparer) judgeByMark(ctx context.Context) (j judgement) {
	ctx, cancel := context.WithTimeout(ctx, markTime)
	defer cancel()
	id := ulid.Make().String()
	res := c.Command(ctx, spool.KindMark, &pb.Mark{Id: id})
	if res == nil {
		return j
	}
	said := c.poll(ctx, askMark, []byte(id))
	j.Index = res.Index
	j.Right, j.Wrong = verdict(said, c.Voters(), c.Leader())
	if len(j.Wrong) == 0 && len(j.Right) == len(c.Voters()) {
		c.Log.Warn("cluster: the states are equal, and builds sum them in different ways; the sums begin anew")
		v := c.Version()
		c.Command(ctx, spool.KindRaise, &pb.Raise{
			From: v, To: v, Admin: &pb.Admin{Who: "cluster", Why: "sums begin anew", Node: c.Self},
		})
	}
	return j
}

// unsummed reports whether this node has no chain of sums where it should: a build
// that knows none, or sums in another way, has run on its data since the raise. Nobody
// would see the changes that it applied by other rules.
func (c *Comparer) unsummed() bool {
	return c.Summing() && !c.Store.Summed() && c.Ready() == nil && c.diverged() == ""
}

// Attest is the leader's work behind a raise: the chain of sums says nothing of what
// was written before it began, so the voters compare all of it once.
func (c *Comparer) Attest(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, markTime)
	defer cancel()
	id := ulid.Make().String()
	if res := c.Command(ctx, spool.KindMark, &pb.Mark{Id: id}); res == nil {
		return
	}
	right, wrong := verdict(c.poll(ctx, askMark, []byte(id)), c.Voters(), c.Leader())
	c.Log.Info("cluster: states compared behind the raise", zap.Strings("right", right), zap.Strings("wrong", wrong))
	for _, node := range wrong {
		if _, err := c.Ask(ctx, node, askJudge, []byte(id)); err != nil {
			c.Log.Error("cluster: a node whose state differs does not hear of it", zap.String("at", node), zap.Error(err))
		}
	}
}

// answerJudge has this node judge itself by a mark that the leader has made.
func (c *Comparer) answerJudge(ctx context.Context, _ string, id []byte) ([]byte, error) {
	index, _, err := c.Store.MarkHash(ctx, string(id))
	if err != nil {
		return nil, err
	}
	right, wrong := verdict(c.poll(ctx, askMark, id), c.Voters(), c.Leader())
	c.accept(ctx, index, right, wrong)
	return nil, nil
}

// poll asks all voters, this node too.
func (c *Comparer) poll(ctx context.Context, method string, req []byte) map[string]sumAnswer {
	type answer struct {
		node string
		sum  sumAnswer
		err  error
	}
	voters := c.Voters()
	got := make(chan answer, len(voters))
	for _, node := range voters {
		c.Go(func() {
			a := answer{node: node}
			var b []byte
			if b, a.err = c.Ask(ctx, node, method, req); a.err == nil {
				a.err = json.Unmarshal(b, &a.sum)
			}
			got <- a
		})
	}
	said := map[string]sumAnswer{}
	for range voters {
		if a := <-got; a.err == nil && a.sum.Sum != "" && !a.sum.Diverged {
			said[a.node] = a.sum
		}
	}
	return said
}

// verdict tells who is right: those with a sum that a majority of the voters
// share; where none has one, those with the leader's, as its results are what
// clients were told. Without either nobody is wrong.
func verdict(said map[string]sumAnswer, voters []string, leader string) (right, wrong []string) {
	count := map[string]int{}
	best := said[leader].Sum
	for _, a := range said {
		if count[a.Sum]++; count[a.Sum] > len(voters)/2 {
			best = a.Sum
		}
	}
	if best == "" {
		return nil, nil
	}
	for node, a := range said {
		if a.Sum == best {
			right = append(right, node)
		} else {
			wrong = append(wrong, node)
		}
	}
	slices.Sort(right)
	slices.Sort(wrong)
	return right, wrong
}

// sameBuild reports whether all who are wrong have a build that is among the right.
func sameBuild(said map[string]sumAnswer, right, wrong []string) bool {
	builds := map[string]bool{}
	for _, node := range right {
		builds[said[node].Build] = true
	}
	return !slices.ContainsFunc(wrong, func(node string) bool { return !builds[said[node].Build] })
}
