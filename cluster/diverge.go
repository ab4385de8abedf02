package cluster

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"

	"relay/cluster/clock"
	"relay/cluster/datadir"
	"relay/cluster/fault"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/cluster/tuning"
)

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
// Mark that the leader makes behind the raise (attest): a node that is wrong by it
// judges itself. A node whose chain is void under version 2, as another build has run on
// its data, compares by a Mark and begins the chain anew.
//
// Rejected: stopping all nodes without a majority; hashing the commands alone, which
// were the same where nodes differed; hashing Pebble's batches, whose form is the
// library's.

const (
	askSum     = "cluster/sum"
	askMark    = "cluster/mark"
	askJudge   = "cluster/judge"
	askCompare = "cluster/compare"
	judgeTime  = 5 * time.Second
	judgeWait  = time.Second // between two looks at one difference
	markWait   = time.Minute // between two full comparisons, which read everything
	markTime   = 5 * time.Minute
)

// sumAnswer is what a node says of its state at an anchor, or at a mark.
type sumAnswer struct {
	Sum      string `json:"sum"` // empty: not known
	Build    string `json:"build"`
	Diverged bool   `json:"diverged,omitempty"`
}

// Diverged says how this node's state differs from the others'; empty: it does
// not. Such a node has no session and answers no client, but votes: its log is
// right. Its directory has to be moved away, and the node joined anew; of two nodes
// the other one has to be recovered as a cluster of one before (TestOfTwo…IsRebuilt).
func (c *Cluster) Diverged() string { return c.promise.Look().Diverged }

func (c *Cluster) build() string {
	version := ""
	if c.o.Member != nil {
		version = c.o.Member.Version
	}
	return fmt.Sprintf("%s/%d", version, spool.SumFormat)
}

// anchor is what a renewal says of this node's state.
func (c *Cluster) anchor() (index, sum uint64) {
	if !c.At(2) {
		return 0, 0
	}
	return c.store.Anchor()
}

// barred says why this node must have no session; empty: it may.
func (c *Cluster) barred() string {
	if d := c.Diverged(); d != "" {
		return "this node's state " + d + ": move its data directory away and join it anew; " +
			"see \"A node whose state differs\" in the guide"
	}
	return ""
}

func (c *Cluster) answerSum(_ context.Context, _ string, req []byte) ([]byte, error) {
	var index uint64
	if err := json.Unmarshal(req, &index); err != nil {
		return nil, err
	}
	a := sumAnswer{Build: c.build(), Diverged: c.Diverged() != ""}
	if sum, known := c.store.SumAt(index); known {
		a.Sum = fmt.Sprintf("%016x", sum)
	}
	return json.Marshal(a)
}

func (c *Cluster) answerMark(ctx context.Context, _ string, id []byte) ([]byte, error) {
	_, sum, err := c.store.MarkHash(ctx, string(id))
	if err != nil {
		return nil, err
	}
	return json.Marshal(sumAnswer{Sum: hex.EncodeToString(sum), Build: c.build(), Diverged: c.Diverged() != ""})
}

// compare looks for a session whose node says another sum than this one has. Its
// own difference ends this node's right to act.
func (c *Cluster) compare(ctx context.Context) {
	var since uint64 // anchor at which the present difference was seen first
	for {
		if c.Diverged() != "" {
			c.standBack(ctx)
		} else if c.unsummed() {
			if since == 0 {
				c.log.Warn("cluster: this node's chain of sums is void, as another build has run on its data: the states " +
					"are compared")
				since = c.store.Applied()
			}
			c.takeJudgement(ctx, since)
			clock.Sleep(ctx, judgeWait)
		} else if index := c.differs(); index == 0 {
			if c.store.Summed() { // a void chain stays void over a time without a session
				since = 0
			}
		} else {
			if since == 0 {
				since = index
			}
			c.judgeSums(ctx, index, since)
			clock.Sleep(ctx, judgeWait)
		}
		if clock.Sleep(ctx, tuning.NextBeat(time.Now(), min(time.Second, c.t.Renew))); ctx.Err() != nil {
			return
		}
	}
}

// differs returns an anchor at which somebody has another sum; 0: nobody.
func (c *Cluster) differs() uint64 {
	sessions, err := c.sessions()
	if err != nil {
		return 0
	}
	for _, s := range sessions {
		if sum, known := c.store.SumAt(s.SumIndex); known && sum != s.Sum {
			return s.SumIndex
		}
	}
	return 0
}

// standBack keeps a node that has diverged from acting.
func (c *Cluster) standBack(ctx context.Context) {
	c.session.Stop(ctx, c.barred())
	if c.raft.State() == raft.Leader && len(c.book.Servers()) > 1 {
		if err := c.handOver(""); err != nil {
			c.log.Warn("cluster: a leader whose state is wrong could not hand over", zap.Error(err))
		}
	}
}

// judgeSums asks the voters for their sums at an anchor. Of nodes of one build the
// sums decide; between builds they are an alarm, and full hashes decide.
func (c *Cluster) judgeSums(ctx context.Context, index, since uint64) {
	req, err := json.Marshal(index)
	if err != nil {
		return
	}
	short, cancel := context.WithTimeout(ctx, judgeTime)
	defer cancel()
	said := c.poll(short, askSum, req)
	right, wrong := verdict(said, c.voters(), c.Leader())
	if len(wrong) == 0 {
		return
	}
	c.log.Error("cluster: states differ", zap.Uint64("index", index), zap.Strings("right", right),
		zap.Strings("wrong", wrong))
	if !sameBuild(said, right, wrong) {
		c.takeJudgement(ctx, since)
		return
	}
	c.accept(ctx, index, right, wrong)
}

// accept takes a verdict where it is about this node.
func (c *Cluster) accept(ctx context.Context, index uint64, right, wrong []string) {
	if !slices.Contains(wrong, c.id.Node) {
		return
	}
	what := fmt.Sprintf("differs from %s at %d", strings.Join(right, ", "), index)
	if err := c.promise.Write(func(p *datadir.Promised) { p.Diverged = what }); err != nil {
		c.fatal(fmt.Errorf("cluster: this node's state %s, and that can't be written down: %w", what, err))
		return
	}
	c.log.Error("cluster: this node has diverged and stands back", zap.String("state", what))
	c.standBack(ctx)
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
func (c *Cluster) takeJudgement(ctx context.Context, since uint64) {
	var j judgement
	b, err := c.askLeader(ctx, askCompare, nil)
	if err == nil {
		err = json.Unmarshal(b, &j)
	}
	if err != nil {
		c.log.Warn("cluster: the leader does not compare the states", zap.Error(err))
		return
	}
	if j.Index > since && len(j.Wrong) > 0 {
		c.accept(ctx, j.Index, j.Right, j.Wrong)
	}
}

// answerCompare tells the newest judgement, and begins another one where that is old:
// a comparison reads everything, and takes longer than anybody waits for an answer.
func (c *Cluster) answerCompare(context.Context, string, []byte) ([]byte, error) {
	if c.leaderTerm.Load() == nil {
		return nil, fault.ErrNotLeader
	}
	c.judges.mu.Lock()
	defer c.judges.mu.Unlock()
	if !c.judges.busy && (c.judges.began.IsZero() || time.Since(c.judges.began) > markWait) {
		c.judges.busy, c.judges.began = true, time.Now()
		c.goRun(func() {
			j := c.judgeByMark(c.ctx)
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
func (c *Cluster) judgeByMark(ctx context.Context) (j judgement) {
	ctx, cancel := context.WithTimeout(ctx, markTime)
	defer cancel()
	id := ulid.Make().String()
	res := c.command(ctx, spool.KindMark, &pb.Mark{Id: id})
	if res == nil {
		return j
	}
	said := c.poll(ctx, askMark, []byte(id))
	j.Index = res.Index
	j.Right, j.Wrong = verdict(said, c.voters(), c.Leader())
	if len(j.Wrong) == 0 && len(j.Right) == len(c.voters()) {
		c.log.Warn("cluster: the states are equal, and builds sum them in different ways; the sums begin anew")
		v := c.Version()
		c.command(ctx, spool.KindRaise, &pb.Raise{
			From: v, To: v, Admin: &pb.Admin{Who: "cluster", Why: "sums begin anew", Node: c.id.Node},
		})
	}
	return j
}

// unsummed reports whether this node has no chain of sums where it should: a build
// that knows none, or sums in another way, has run on its data since the raise. Nobody
// would see the changes that it applied by other rules.
func (c *Cluster) unsummed() bool {
	return c.At(2) && !c.store.Summed() && c.Ready() == nil && c.Diverged() == ""
}

// attest is the leader's work behind a raise: the chain of sums says nothing of what
// was written before it began, so the voters compare all of it once.
func (c *Cluster) attest(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, markTime)
	defer cancel()
	id := ulid.Make().String()
	if res := c.command(ctx, spool.KindMark, &pb.Mark{Id: id}); res == nil {
		return
	}
	right, wrong := verdict(c.poll(ctx, askMark, []byte(id)), c.voters(), c.Leader())
	c.log.Info("cluster: states compared behind the raise", zap.Strings("right", right), zap.Strings("wrong", wrong))
	for _, node := range wrong {
		if _, err := c.Ask(ctx, node, askJudge, []byte(id)); err != nil {
			c.log.Error("cluster: a node whose state differs does not hear of it", zap.String("at", node), zap.Error(err))
		}
	}
}

// answerJudge has this node judge itself by a mark that the leader has made.
func (c *Cluster) answerJudge(ctx context.Context, _ string, id []byte) ([]byte, error) {
	index, _, err := c.store.MarkHash(ctx, string(id))
	if err != nil {
		return nil, err
	}
	right, wrong := verdict(c.poll(ctx, askMark, id), c.voters(), c.Leader())
	c.accept(ctx, index, right, wrong)
	return nil, nil
}

// poll asks all voters, this node too.
func (c *Cluster) poll(ctx context.Context, method string, req []byte) map[string]sumAnswer {
	type answer struct {
		node string
		sum  sumAnswer
		err  error
	}
	voters := c.voters()
	got := make(chan answer, len(voters))
	for _, node := range voters {
		c.goRun(func() {
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
