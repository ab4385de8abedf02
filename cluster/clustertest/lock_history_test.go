package clustertest_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"relay/cluster"
	"relay/cluster/clustertest"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// lockOp is what a client did to a mailbox's lock.
type lockOp struct {
	what    string // take, unlock, remove, break, void
	mailbox string
	token   uint64 // that it acts under
	uids    []uint64
	release bool
}

// lockOut is what came of it.
type lockOut struct {
	code    pb.Code
	unknown bool   // nobody knows
	token   uint64 // that was taken, or is in the way
	missing []uint64
}

// lockState is a mailbox: who holds it, the last token that was given out, and
// which messages are gone.
type lockState struct {
	holder, last uint64
	gone         [4]uint64
}

func (s lockState) without(uids []uint64) (next lockState, missing []uint64) {
	for _, uid := range uids {
		if s.gone[uid/64]&(1<<(uid%64)) != 0 {
			missing = append(missing, uid)
		}
		s.gone[uid/64] |= 1 << (uid % 64)
	}
	return s, missing
}

func lockModel() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
			by := map[string]int{}
			for _, op := range history {
				box := op.Input.(lockOp).mailbox
				i, ok := by[box]
				if !ok {
					i = len(parts)
					by[box], parts = i, append(parts, nil)
				}
				parts[i] = append(parts[i], op)
			}
			return parts
		},
		Init: func() any { return lockState{} },
		Step: func(state, input, output any) (bool, any) {
			return lockStep(state.(lockState), input.(lockOp), output.(lockOut))
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v → %+v", input, output) },
	}
}

// lockStep says whether an answer is right in a state, and what comes of it.
func lockStep(s lockState, in lockOp, out lockOut) (bool, lockState) {
	switch in.what {
	case "take":
		switch out.code {
		case pb.Code_OK, pb.Code_DUPLICATE:
			// Tokens strictly increase, and there are never two holders.
			return s.holder == 0 && out.token > s.last, lockState{out.token, out.token, s.gone}
		case pb.Code_BUSY:
			return s.holder != 0 && s.holder == out.token, s
		}
		return true, s // the node's own session was over
	case "void":
		if s.holder == in.token {
			s.holder = 0
		}
		return true, s
	case "break":
		// MISSING may be the answer to a repetition of what was done.
		ok := out.unknown || out.code == pb.Code_MISSING || s.holder == out.token
		s.holder = 0
		return ok, s
	}
	if s.holder != in.token {
		return out.unknown || out.code == pb.Code_STALE, s
	}
	next, missing := s, []uint64(nil)
	if in.what == "remove" {
		next, missing = s.without(in.uids)
	}
	if in.what == "unlock" || in.release {
		next.holder = 0
	}
	// STALE, where it was in force, is the answer to a repetition that came after
	// the lock had gone: done, but nobody can know.
	return out.unknown || out.code != pb.Code_OK || slices.Equal(missing, out.missing), next
}

// hold is a time in which a client could think it was alone.
type hold struct {
	mailbox  string
	client   int
	from, to int64
	token    uint64
}

// lockHistory is all that happened to some mailboxes.
type lockHistory struct {
	history
	seen  sync.Mutex
	taken map[string]map[uint64]int64 // by session: tokens, and when the first node knew
	void  map[uint64]int64            // by token: when the first node knew
	broke map[uint64]int64            // tokens that an operator took away, and when the first node knew
	ends  map[string]<-chan struct{}  // by session: closed when its node's right to act has ended
	over  map[uint64]int64            // by token: when its node was seen to have given up its right
	holds []hold
}

func newLockHistory() *lockHistory {
	return &lockHistory{
		history: history{began: time.Now()}, taken: map[string]map[uint64]int64{}, void: map[uint64]int64{},
		broke: map[uint64]int64{}, ends: map[string]<-chan struct{}{}, over: map[uint64]int64{},
	}
}

// begins says that a session asks for a lock, and what its node closes when it has no
// right to act any more.
func (h *lockHistory) begins(session string, lost <-chan struct{}) {
	h.seen.Lock()
	defer h.seen.Unlock()
	h.ends[session] = lost
}

// end notes that a lock is void. Its node may have given up its right long before the
// lease was over: it resigns its session when it stops, and the lock is free at once. A
// client that is just asleep, and looks late, did not think that it was alone after that.
// A node that has not given up before anybody knows that the lock is void gets no such
// excuse: its right has to have ended by the clock. The caller holds seen.
func (h *lockHistory) end(token uint64, now int64) {
	h.void[token] = now
	for session, tokens := range h.taken {
		lost := h.ends[session]
		if _, ok := tokens[token]; !ok || lost == nil {
			continue
		}
		select {
		case <-lost:
			h.over[token] = now
		default:
		}
	}
}

// apart returns the holds that must not overlap: those of locks that no operator took
// away, up to when their node gave up its right.
func (h *lockHistory) apart() (all []hold) {
	h.seen.Lock()
	defer h.seen.Unlock()
	for _, one := range h.holds {
		if at, ok := h.over[one.token]; ok {
			one.to = min(one.to, at)
		}
		if h.broke[one.token] == 0 {
			all = append(all, one)
		}
	}
	return all
}

// changed hears of what every node applies. A change that is applied twice, because a
// node was down, is known from the first time.
func (h *lockHistory) changed(_ string, c spool.Changes) {
	now := h.now()
	h.seen.Lock()
	defer h.seen.Unlock()
	for _, l := range c.Taken {
		if h.taken[l.Session] == nil {
			h.taken[l.Session] = map[uint64]int64{}
		}
		if _, ok := h.taken[l.Session][l.Token]; !ok {
			h.taken[l.Session][l.Token] = now
		}
	}
	for _, token := range c.Broken {
		if _, ok := h.broke[token]; !ok {
			h.broke[token] = now
		}
	}
	for _, token := range c.Voided {
		if _, ok := h.void[token]; !ok {
			h.end(token, now)
		}
	}
}

func (h *lockHistory) record(client int, in lockOp, call int64, out lockOut, end int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: end})
}

func (h *lockHistory) hold(one hold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.holds = append(h.holds, one)
}

// attempt is a TakeLock under way, by the name of its session.
type attempt struct {
	client  int
	mailbox string
	call    int64
}

// finish adds what no client saw: locks that were taken though the answer got
// lost, the ends of the nodes' sessions, and locks that an operator's command took away. A
// command whose answer got lost is proposed again, and then takes a later lock away, too,
// which alone is in its answer.
func (h *lockHistory) finish(attempts map[string]attempt, answered map[uint64]bool) {
	client := 1 << 20
	for session, tokens := range h.taken {
		a := attempts[session]
		for token, at := range tokens {
			if !answered[token] {
				client++
				h.record(client, lockOp{what: "take", mailbox: a.mailbox}, a.call, lockOut{token: token}, at)
			}
			for _, ended := range []map[uint64]int64{h.void, h.broke} {
				if end, ok := ended[token]; ok {
					client++
					h.record(client, lockOp{what: "void", mailbox: a.mailbox, token: token}, a.call, lockOut{}, end)
				}
			}
		}
	}
}

// fighter is one client that wants some mailboxes, at one node.
type fighter struct {
	h     *lockHistory
	n     *clustertest.Node
	id    int
	boxes []string
	mail  uint64 // messages in each

	mu       *sync.Mutex
	attempts map[string]attempt
	answered map[uint64]bool
}

func (f *fighter) run(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		c := f.n.C()
		if c == nil || c.Epoch() == 0 {
			rest(ctx)
			continue
		}
		f.round(ctx, c, fmt.Sprintf("c%d/%d", f.id, i))
		rest(ctx)
	}
}

func rest(ctx context.Context) {
	t := time.NewTimer(time.Duration(2+rand.IntN(20)) * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// round is one session: it takes a mailbox, deletes something, and gives it back.
func (f *fighter) round(ctx context.Context, c *cluster.Cluster, session string) {
	box, epoch, lost := f.boxes[rand.IntN(len(f.boxes))], c.Epoch(), c.SessionLost()
	if epoch == 0 {
		return
	}
	call := f.h.now()
	f.mu.Lock()
	f.attempts[session] = attempt{f.id, box, call}
	f.mu.Unlock()
	f.h.begins(session, lost)
	res, err := f.propose(ctx, c, spool.KindLock, &pb.TakeLock{Mailbox: box, Node: f.n.ID, Epoch: epoch, Session: session})
	if err != nil {
		return // whether it was taken is known from what the nodes applied
	}
	out := lockOut{code: res.Code, token: res.Token}
	if res.Code == pb.Code_BUSY {
		out.token = res.Lock.Token
	}
	now := f.h.now()
	f.h.record(f.id, lockOp{what: "take", mailbox: box}, call, out, now)
	if res.Code != pb.Code_OK && res.Code != pb.Code_DUPLICATE {
		return
	}
	f.mu.Lock()
	f.answered[res.Token] = true
	f.mu.Unlock()
	mine := hold{mailbox: box, client: f.id, token: res.Token, from: now}
	if mine.to = f.use(ctx, c, box, epoch, res.Token, lost); mine.to > 0 {
		f.h.hold(mine)
	}
}

// use works under a lock until it gives it back or the node's session is lost,
// and returns until when it could think that it was alone; 0: it never could, as the
// session was lost when the answer came.
func (f *fighter) use(ctx context.Context, c *cluster.Cluster, box string, epoch, token uint64,
	lost <-chan struct{}) int64 {
	var seq uint64
	may := int64(0) // until when it may act, as it last looked
	for {
		seq++
		until := c.Until()
		now := f.h.now()
		select {
		case <-lost:
			return min(now, may)
		default:
		}
		// The clock ends a session, not the goroutine that tells of it: that one
		// may be late on a busy machine.
		if until.IsZero() || !time.Now().Before(until) {
			return min(now, may)
		}
		may = now + int64(time.Until(until))
		if rand.IntN(3) > 0 {
			in := lockOp{
				what: "remove", mailbox: box, token: token, uids: []uint64{1 + rand.Uint64N(f.mail)}, release: rand.IntN(3) > 0,
			}
			ok := f.act(ctx, c, in, &pb.Remove{
				Mailbox: box, Epoch: epoch, Token: token, Unlock: in.release, Node: f.n.ID, Seq: seq,
				Ranges: spool.AppendRanges(nil, in.uids),
			}, spool.KindRemove)
			if !ok || in.release {
				return now
			}
			rest(ctx)
			continue
		}
		in := lockOp{what: "unlock", mailbox: box, token: token}
		f.act(ctx, c, in, &pb.Unlock{Mailbox: box, Epoch: epoch, Token: token}, spool.KindUnlock)
		return now
	}
}

// act proposes and records; it reports whether the lock may still be there.
func (f *fighter) act(ctx context.Context, c *cluster.Cluster, in lockOp, h proto.Message, kind spool.Kind) bool {
	call := f.h.now()
	res, err := f.propose(ctx, c, kind, h)
	switch {
	case errors.Is(err, cluster.ErrUnavailable):
		return true // surely not applied
	case err != nil:
		f.h.record(f.id+1000*int(call%997+1), in, call, lockOut{unknown: true}, math.MaxInt64)
		return false
	}
	out := lockOut{code: res.Code}
	if len(res.Missing) > 0 {
		_ = spool.Ranges(res.Missing, math.MaxInt64, func(first, last uint64) {
			for uid := first; uid <= last; uid++ {
				out.missing = append(out.missing, uid)
			}
		})
	}
	f.h.record(f.id, in, call, out, f.h.now())
	return res.Code != pb.Code_STALE
}

func (f *fighter) propose(ctx context.Context, c *cluster.Cluster, kind spool.Kind,
	h proto.Message) (*pb.Result, error) {
	frame, err := spool.Encode(kind, h)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	return c.Propose(ctx, frame)
}

// lockTime is how long the fight goes on; RELAY_LOCK_HISTORY makes it longer.
func lockTime(t *testing.T) time.Duration {
	text := os.Getenv("RELAY_LOCK_HISTORY")
	if text == "" {
		return 5 * time.Second
	}
	d, err := time.ParseDuration(text)
	require.NoError(t, err, "RELAY_LOCK_HISTORY")
	return d
}

// TestLockHistory has clients at all nodes fight for mailboxes while nodes are
// killed and cut off. One lock for each mailbox must explain all that the clients saw:
// no two holders, tokens that only grow, deletions under the lock only.
func TestLockHistory(t *testing.T) {
	t.Parallel()
	h := newLockHistory()
	g := clustertest.New(t, clustertest.Options{OnChanges: h.changed})
	fight(t, g, h, 4, func() { trouble(t, g, h, time.Now().Add(lockTime(t))) })
}

// fight has clients, so many at each node, fight for mailboxes while something
// happens, and checks what they saw.
func fight(t *testing.T, g *clustertest.Group, h *lockHistory, clients int, while func()) {
	const mail = 120
	boxes := []string{"a@example.test", "b@example.test", "c@example.test"}
	fill(t, g, boxes, mail)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	var mu sync.Mutex
	attempts, answered := map[string]attempt{}, map[uint64]bool{}
	for i, n := range g.Nodes() {
		for j := range clients {
			f := &fighter{h: h, n: n, id: 10*i + j, boxes: boxes, mail: mail, mu: &mu, attempts: attempts, answered: answered}
			wg.Go(func() { f.run(ctx) })
		}
	}
	breaker := &fighter{h: h, n: g.Node(0), id: 99, boxes: boxes}
	wg.Go(func() { breaker.breakNowAndThen(ctx) })
	while()
	stop()
	wg.Wait()
	g.WaitEqual() // every node has applied, and told of, everything
	h.finish(attempts, answered)
	result, info := porcupine.CheckOperationsVerbose(lockModel(), h.ops, time.Minute)
	if result == porcupine.Illegal {
		path := t.ArtifactDir() + "/locks.html"
		if porcupine.VisualizePath(lockModel(), info, path) == nil {
			t.Logf("see %s", path)
		}
	}
	require.Equal(t, porcupine.Ok, result, "%d operations", len(h.ops))
	counts := map[string]int{}
	for _, op := range h.ops {
		out := op.Output.(lockOut)
		counts[op.Input.(lockOp).what+" "+out.code.String()]++
		if out.unknown {
			counts["of unknown outcome"]++
		}
	}
	apart(t, h.apart())
	t.Logf("%d operations in %s: %v; %d sessions held a lock", len(h.ops), time.Since(h.began).Round(time.Second),
		counts, len(h.holds))
}

// apart checks that no two clients could think at one time that they were alone,
// unless an operator has stepped in.
func apart(t *testing.T, holds []hold) {
	slices.SortFunc(holds, func(a, b hold) int { return int(a.from - b.from) })
	last := map[string]hold{}
	for _, one := range holds {
		before, ok := last[one.mailbox]
		require.False(t, ok && before.to > one.from, "two holders: %+v and %+v", before, one)
		if !ok || one.to > before.to {
			last[one.mailbox] = one
		}
	}
}

func fill(t *testing.T, g *clustertest.Group, boxes []string, mail int) {
	ctx, n := t.Context(), g.Leader()
	clustertest.Propose(ctx, t, n, spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "example.test"}})
	for i, box := range boxes {
		clustertest.Propose(ctx, t, n, spool.KindPutAccount, &pb.PutAccount{Account: &pb.Account{Address: box}})
		for j := range mail {
			id := spool.ID{1, byte(i), byte(j)}
			clustertest.Propose(ctx, t, n, spool.KindAccept, &pb.Accept{
				Message: &pb.Message{Id: id[:], Size: 1, Chunks: 1}, Inline: true, Drops: []*pb.Drop{{Mailbox: box}},
			}, []byte("x"))
		}
	}
}

// TestAResignedLockEndsWhenItsNodeGivesUp: a client that looks late holds no lock that its
// node has given up before anybody knew that it was void, and holds one to the end that
// its node has not.
func TestAResignedLockEndsWhenItsNodeGivesUp(t *testing.T) {
	for _, gaveUp := range []bool{true, false} {
		h := newLockHistory()
		lost := make(chan struct{})
		h.begins("c1/1", lost)
		h.changed("n1", spool.Changes{Taken: []spool.Taken{{Session: "c1/1", Token: 7}}})
		if gaveUp {
			close(lost)
		}
		h.changed("n1", spool.Changes{Voided: []uint64{7}})
		known := h.now()
		late := known + int64(time.Second)
		h.hold(hold{mailbox: "a@example.test", token: 7, to: late})
		holds := h.apart()
		require.Len(t, holds, 1)
		require.Equal(t, gaveUp, holds[0].to <= known)
		require.Equal(t, !gaveUp, holds[0].to == late)
	}
}

// breakNowAndThen is an operator with relayctl mailbox unlock.
func (f *fighter) breakNowAndThen(ctx context.Context) {
	for ctx.Err() == nil {
		for range 20 {
			rest(ctx)
		}
		c := f.n.C()
		if c == nil {
			continue
		}
		in := lockOp{what: "break", mailbox: f.boxes[rand.IntN(len(f.boxes))]}
		call := f.h.now()
		res, err := f.propose(ctx, c, spool.KindBreakLock, &pb.BreakLock{Mailbox: in.mailbox, Admin: &pb.Admin{Who: "test"}})
		switch {
		case errors.Is(err, cluster.ErrUnavailable):
		case err != nil:
			f.h.record(f.id+1000*int(call%997+1), in, call, lockOut{unknown: true}, math.MaxInt64)
		default:
			f.h.record(f.id, in, call, lockOut{code: res.Code, token: res.Lock.GetToken()}, f.h.now())
		}
	}
}

// trouble cuts off and kills nodes in turn, the leader among them.
func trouble(t *testing.T, g *clustertest.Group, h *lockHistory, until time.Time) {
	grown := func(by int) {
		want := h.len() + by
		g.Eventually("nobody gets a lock", func() bool { return h.len() >= want })
	}
	for round := 0; round == 0 || time.Now().Before(until); round++ {
		grown(60)
		victim := g.Leader()
		if round%2 == 1 {
			victim = g.Followers()[round/2%2]
		}
		g.Isolate(victim)
		grown(60)
		g.HealAll()
		g.WaitReady(g.Nodes()...)
		victim = g.Leader()
		if round%2 == 0 {
			victim = g.Followers()[round/2%2]
		}
		victim.Kill()
		grown(60)
		victim.Start()
		g.WaitReady(victim)
	}
}
