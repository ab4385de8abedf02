package limit

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const (
	step  = 10 * time.Millisecond
	site  = "site:x"
	conns = 10
	rate  = 50
)

// sim is a cluster, its clock and what a receiver would count.
type sim struct {
	now    time.Duration
	nodes  []*simNode
	term   uint64
	leader int // -1: none
	set    Set
	begun  []time.Duration // messages
	most   int             // connections open at a time
	rand   func(n int) int
	loss   int // of 100 messages between nodes
}

// simNode is one node: its gates, and the jobs that it runs.
type simNode struct {
	w       *sim
	name    string
	gates   *Gates
	ledger  *Ledger
	skew    time.Duration
	epoch   uint64
	demand  int // jobs that it could run at once
	told    int
	jobs    []*simJob
	idle    []*Place
	next    time.Duration // of the next ask
	inbox   []simAnswer
	paused  bool
	dead    bool
	cut     bool
	stalled bool // jobs do not end
}

type simJob struct {
	pass  *Pass
	place *Place
	ends  time.Duration
}

type simAnswer struct {
	at     time.Duration
	ask    *Ask
	answer *Answer
}

func newSim(n int, limit string) *sim {
	w := &sim{leader: -1, rand: func(int) int { return 1 }}
	var err error
	if w.set, err = ParseSet([]string{limit}); err != nil {
		panic(err)
	}
	for i := range n {
		node := &simNode{w: w, name: fmt.Sprintf("n%d", i+1), skew: time.Duration(i) * time.Hour}
		node.start()
		w.nodes = append(w.nodes, node)
	}
	w.lead(0)
	return w
}

func (w *sim) lead(i int) {
	w.term++
	w.leader = i
	for _, n := range w.nodes {
		n.next = w.now // it sees a new leader
	}
}

func (n *simNode) start() {
	n.epoch++
	n.dead, n.jobs, n.idle, n.told, n.inbox = false, nil, nil, 0, nil
	n.gates = NewGates(func() time.Duration { return n.w.now + n.skew }, func() { n.next = n.w.now })
	n.gates.SetLimits(n.w.set)
	n.ledger = NewLedger()
	n.ledger.SetLimits(n.w.set)
	n.next = n.w.now
}

func (w *sim) live() (all []string) {
	for _, n := range w.nodes {
		if !n.dead {
			all = append(all, n.name)
		}
	}
	return all
}

// run goes on for a time.
func (w *sim) run(d time.Duration) {
	for end := w.now + d; w.now < end; w.now += step {
		for _, n := range w.nodes {
			if !n.paused && !n.dead {
				n.step()
			}
		}
		open := 0
		for _, n := range w.nodes {
			open += n.open()
		}
		w.most = max(w.most, open)
	}
}

func (n *simNode) open() (all int) {
	all = len(n.idle)
	for _, j := range n.jobs {
		if j.place != nil {
			all++
		}
	}
	return all
}

func (n *simNode) step() {
	n.hear()
	if n.w.now >= n.next {
		n.ask()
	}
	if len(n.gates.Lapse(errors.New("lapsed"))) > 0 {
		for _, j := range n.jobs {
			n.end(j, false)
		}
		n.jobs = nil
		n.closeIdle(len(n.idle))
	}
	n.jobs = slices.DeleteFunc(n.jobs, func(j *simJob) bool {
		if n.w.now < j.ends || n.stalled {
			return false
		}
		n.end(j, true)
		return true
	})
	gates := n.gates.For(site)
	if n.demand != n.told {
		gates[0].Demand(n.demand-n.told, n.demand-n.told)
		n.told = n.demand
	}
	for len(n.jobs) < n.demand && n.begin(gates) {
	}
}

func (n *simNode) begin(gates []*Gate) bool {
	p := Begin(gates, 1)
	if p == nil {
		return false
	}
	j := &simJob{pass: p, ends: n.w.now + time.Duration(1+n.w.rand(20))*step}
	if len(n.idle) > 0 {
		j.place, n.idle = n.idle[0], n.idle[1:]
	} else if j.place, _ = p.Open(); j.place == nil {
		p.End()
		return false
	}
	if p.Start(1) != "" {
		n.end(j, true)
		return false
	}
	n.w.begun = append(n.w.begun, n.w.now)
	n.jobs = append(n.jobs, j)
	return true
}

func (n *simNode) end(j *simJob, keep bool) {
	if keep && !j.place.Over() {
		n.idle = append(n.idle, j.place)
	} else {
		j.place.Close()
	}
	j.pass.End()
}

func (n *simNode) closeIdle(k int) {
	for ; k > 0 && len(n.idle) > 0; k-- {
		n.idle[0].Close()
		n.idle = n.idle[1:]
	}
}

func (n *simNode) ask() {
	n.next = n.w.now + Period
	ask, _ := n.gates.Ask(n.epoch)
	to := n.w.nodes[n.w.leader]
	if n.cut || to.cut || to.dead || to.paused || to != n && n.w.rand(100) < n.w.loss {
		return
	}
	if to != n {
		n.ledger.Tell(ask)
	}
	to.ledger.Lead(n.w.term, n.w.live, n.w.now)
	answer, err := to.ledger.Take(n.name, ask, n.w.now)
	if err == nil && (to == n || n.w.rand(100) >= n.w.loss) {
		n.inbox = append(n.inbox, simAnswer{at: n.w.now + time.Duration(n.w.rand(4))*step, ask: ask, answer: answer})
	}
}

func (n *simNode) hear() {
	for len(n.inbox) > 0 && n.inbox[0].at <= n.w.now {
		_, excess := n.gates.Grant(n.inbox[0].ask, n.inbox[0].answer)
		n.inbox = n.inbox[1:]
		for _, over := range excess {
			n.closeIdle(over)
		}
	}
}

// burst is the most that a receiver counted beyond what the rate brings, in any span.
func (w *sim) burst() (most float64) {
	lowest := 0.0 // of count - rate × time before a message
	for i, at := range w.begun {
		here := float64(i) - at.Seconds()*rate
		if i == 0 || here < lowest {
			lowest = here
		}
		most = max(most, here+1-lowest)
	}
	return most
}

func (w *sim) perSecond(since time.Duration, from int) float64 {
	return float64(len(w.begun)-from) / (w.now - since).Seconds()
}

// TestUseOfTheLimit: with demand at one node, at all and in turns at least 95 % of a rate is used, and never more.
func TestUseOfTheLimit(t *testing.T) {
	for name, demand := range map[string]func(i int, at time.Duration) int{
		"one": func(i int, _ time.Duration) int { return 40 * max(0, 1-i) },
		"all": func(int, time.Duration) int { return 40 },
		"in turns": func(i int, at time.Duration) int {
			if int(at/(5*time.Second))%3 == i {
				return 40
			}
			return 0
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newSim(3, site+" rate=50/s")
			run := func(d time.Duration) {
				for end := w.now + d; w.now < end; {
					for i, n := range w.nodes {
						n.demand = demand(i, w.now)
					}
					w.run(step)
				}
			}
			run(2 * time.Second)
			since, from := w.now, len(w.begun)
			run(60 * time.Second)
			require.GreaterOrEqual(t, w.perSecond(since, from), 0.95*rate)
			require.LessOrEqual(t, w.burst(), 12.5)
		})
	}
}

// TestConnectionsAreUsed: all of them, by one node or by all, and they move within a second.
func TestConnectionsAreUsed(t *testing.T) {
	w := newSim(3, site+" connections=10")
	w.nodes[0].demand = 40
	w.run(12 * time.Second)
	require.Equal(t, conns, w.nodes[0].open())
	w.nodes[1].demand, w.nodes[2].demand = 40, 40
	w.run(3 * time.Second)
	for _, n := range w.nodes {
		require.GreaterOrEqual(t, n.open(), 3)
	}
	w.nodes[0].demand, w.nodes[1].demand = 0, 0
	w.run(time.Second)
	require.Equal(t, conns, w.nodes[2].open())
	require.Equal(t, conns, w.most)
}

// TestOneConnectionGoesRound: three nodes that want the only one have it in turns.
func TestOneConnectionGoesRound(t *testing.T) {
	w := newSim(3, site+" connections=1")
	had := map[string]int{}
	for _, n := range w.nodes {
		n.demand = 5
	}
	for range 300 {
		w.run(10 * step)
		for _, n := range w.nodes {
			had[n.name] += n.open()
		}
	}
	require.Equal(t, 1, w.most)
	for _, n := range w.nodes {
		require.Greater(t, had[n.name], 40, "%v of 300", had)
	}
}

// TestDeadPausedAndCutOff: what becomes of the share of a node that does not ask any more.
func TestDeadPausedAndCutOff(t *testing.T) {
	begin := func() (*sim, *simNode) {
		w := newSim(3, site+" connections=10")
		for _, n := range w.nodes {
			n.demand = 40
		}
		w.run(2 * time.Second)
		return w, w.nodes[1]
	}
	others := func(w *sim) int { return w.nodes[0].open() + w.nodes[2].open() }
	t.Run("paused", func(t *testing.T) {
		w, n := begin()
		n.paused = true
		had := n.open()
		require.Positive(t, had)
		w.run(time.Minute)
		require.Equal(t, conns-had, others(w), "a process that is stopped keeps its connections open")
		n.paused = false
		w.run(step)
		require.Zero(t, n.open(), "it closes them when it finds its share over")
		w.run(3 * time.Second)
		require.Positive(t, n.open())
		require.Equal(t, conns, w.most)
	})
	t.Run("paused for good", func(t *testing.T) {
		w, n := begin()
		n.paused = true
		w.run(Gone + time.Second)
		require.Equal(t, conns, others(w))
	})
	t.Run("known to be dead", func(t *testing.T) {
		w, n := begin()
		n.dead, n.jobs, n.idle = true, nil, nil
		w.run(Learning + time.Second)
		require.Equal(t, []string{n.name}, w.nodes[0].ledger.Silent(w.now))
		w.nodes[0].ledger.Forget(n.name)
		w.run(time.Second)
		require.Equal(t, conns, others(w))
	})
	t.Run("back", func(t *testing.T) {
		w, n := begin()
		n.dead, n.jobs, n.idle = true, nil, nil
		w.run(2 * time.Second)
		n.start()
		n.demand = 0
		w.run(time.Second)
		require.Equal(t, conns, others(w), "the new process has none of them")
		require.Equal(t, conns, w.most)
	})
	t.Run("cut off", func(t *testing.T) {
		w, n := begin()
		n.cut = true
		w.run(Lease + Period)
		require.Zero(t, n.open())
		n.cut = false
		w.run(3 * time.Second)
		require.Positive(t, n.open())
		require.Equal(t, conns, n.open()+others(w))
		require.Equal(t, conns, w.most)
	})
	t.Run("leader paused", func(t *testing.T) {
		w, n := begin()
		w.nodes[0], w.nodes[1] = n, w.nodes[0] // n is the leader
		n.paused = true
		w.run(700 * time.Millisecond)
		w.lead(1)
		w.run(30 * time.Second)
		require.Equal(t, conns, w.most, "the others know what the former leader may have")
	})
}

// TestALedgerTakesNoOldAsk: one that comes late would bring back what was given up.
func TestALedgerTakesNoOldAsk(t *testing.T) {
	l := NewLedger()
	l.Lead(1, func() []string { return []string{"n1"} }, 0)
	_, err := l.Take("n1", &Ask{Epoch: 2, Seq: 5}, 0)
	require.NoError(t, err)
	for _, ask := range []*Ask{{Epoch: 2, Seq: 5}, {Epoch: 2, Seq: 4}, {Epoch: 1, Seq: 9}} {
		_, err = l.Take("n1", ask, 0)
		require.ErrorIs(t, err, ErrOld)
	}
	_, err = l.Take("n1", &Ask{Epoch: 3, Seq: 1}, 0)
	require.NoError(t, err)
}

// well reports whether all nodes but one are.
func (w *sim) well(but *simNode) bool {
	return !slices.ContainsFunc(w.nodes, func(n *simNode) bool { return n != but && (n.paused || n.cut || n.dead) })
}

// TestTheLimitHolds: whatever happens to one node at a time, to leaders and to messages, a receiver never counts more.
func TestTheLimitHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newSim(3, site+" connections=10 rate=50/s")
		state := uint64(rapid.Uint64().Draw(t, "seed")) | 1
		w.rand = func(n int) int { // drawn once, so that a course is cheap
			state ^= state << 13
			state ^= state >> 7
			state ^= state << 17
			return int(state % uint64(n))
		}
		for range rapid.IntRange(1, 25).Draw(t, "events") {
			n := w.nodes[rapid.IntRange(0, 2).Draw(t, "node")]
			if !w.well(n) {
				n = w.nodes[slices.IndexFunc(w.nodes, func(n *simNode) bool { return n.paused || n.cut || n.dead })]
			}
			switch rapid.SampledFrom([]string{"demand", "pause", "kill", "cut", "lead", "loss", "stall"}).Draw(t, "event") {
			case "demand":
				n.demand = rapid.IntRange(0, 40).Draw(t, "demand")
			case "pause":
				n.paused = !n.paused
			case "kill":
				if n.dead {
					n.start()
				} else if !n.paused {
					n.dead, n.jobs, n.idle = true, nil, nil
				}
			case "cut":
				n.cut = !n.cut
			case "lead":
				if i := rapid.IntRange(0, 2).Draw(t, "leader"); !w.nodes[i].dead && !w.nodes[i].paused && !w.nodes[i].cut {
					w.lead(i)
				}
			case "loss":
				w.loss = rapid.SampledFrom([]int{0, 5, 40}).Draw(t, "loss")
			case "stall":
				n.stalled = !n.stalled
			}
			w.run(time.Duration(rapid.IntRange(1, 400).Draw(t, "time")) * step)
			if w.most > conns {
				t.Fatalf("%d connections are open at once", w.most)
			}
			if b := w.burst(); b > 12.5 {
				t.Fatalf("a burst of %.1f", b)
			}
		}
	})
}

// TestANewLeaderBeginsBehindTheFormer: it gives out no slot that the former one may have given out.
func TestANewLeaderBeginsBehindTheFormer(t *testing.T) {
	w := newSim(3, site+" rate=50/s")
	for _, n := range w.nodes {
		n.demand = 40
	}
	for i := range 40 {
		w.run(time.Duration(40+7*i) * step)
		w.lead(i % 3)
	}
	require.LessOrEqual(t, w.burst(), 12.5)
	require.Greater(t, len(w.begun), 1000)
}

// TestACorrectedRateCountsAtOnce: one a day that was meant to be a hundred a second does not stop mail for a day.
func TestACorrectedRateCountsAtOnce(t *testing.T) {
	l := NewLedger()
	set := func(text string) {
		s, err := ParseSet([]string{text})
		require.NoError(t, err)
		l.SetLimits(s)
	}
	seq := uint64(0)
	ask := func(now time.Duration) []int64 {
		seq++
		a, err := l.Take("n1", &Ask{Epoch: 1, Seq: seq, Keys: []Want{{Key: "domain:x.test", Tokens: [2]int{1}}}}, now)
		require.NoError(t, err)
		return a.Keys[0].Slots[0]
	}
	set("domain:x.test rate=1/d")
	l.Lead(1, func() []string { return []string{"n1"} }, 0)
	now := time.Duration(0)
	for taken := 0; taken == 0; now += time.Hour {
		taken = len(ask(now))
		require.Less(t, now, 48*time.Hour)
	}
	require.Empty(t, ask(now))
	set("domain:x.test rate=100/s")
	set("domain:x.test rate=50/s")
	for began := now; len(ask(now)) == 0; now += Period {
		require.Less(t, now-began, 2*time.Second)
	}
	set("domain:x.test rate=1/d")
	for range 100 { // and back: not at once again
		require.Empty(t, ask(now))
		now += Period
	}
}
