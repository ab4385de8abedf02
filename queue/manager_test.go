package queue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"relay/queue/bounce"
	"relay/queue/replyclass"
)

// world is a Spool and an Agent: recipients in a map, and a script for what
// next hops say.
type world struct {
	mu        sync.Mutex
	m         *Manager
	items     map[Ref]*item
	until     func() time.Time
	settle    func(n int) error // before the n-th Settle is applied
	after     func(n int) error // after it was applied
	deliver   func(ctx context.Context, j *Job) []Verdict
	load      func() error
	rules     func(address string) *Ruling // nil: there never were any
	settled   []Verdict
	notices   []Notice
	calls     int
	waits     int
	batches   []int
	running   map[string]int // jobs at a time, by destination
	most      map[string]int
	jobs      []string
	stranger  bool
	lifetimes map[string]time.Duration // of recipients, by domain
	feed      bool                     // tell the manager of settlements, as a node does
}

type item struct {
	Waiting
	address, sender string
	notify          uint32
	told            bool
	created         time.Time
	bounce          bool
	gone            bool
	foreign         bool // owned by another node
	last            string
}

func newWorld() *world {
	return &world{items: map[Ref]*item{}, running: map[string]int{}, most: map[string]int{}, feed: true,
		until: func() time.Time { return time.Now().Add(3 * time.Second) }}
}

var made uint64

func newID() ID {
	var id ID
	made++
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(time.Now().UnixMilli()))
	copy(id[:6], ms[2:])
	binary.BigEndian.PutUint64(id[8:], made*0x9e3779b97f4a7c15)
	return id
}

// message makes a message; it is not fed to the manager.
func (w *world) message(to ...string) []Waiting {
	id := newID()
	var all []Waiting
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, a := range to {
		_, domain, _ := strings.Cut(a, "@")
		it := &item{Waiting: Waiting{Ref: Ref{ID: id, Recipient: uint32(i)}, Domain: domain, Next: time.Now(), Size: 100},
			address: a, sender: "sender@example.net", created: time.Now()}
		w.items[it.Ref] = it
		all = append(all, it.Waiting)
	}
	return all
}

func (w *world) Scan(ctx context.Context, add func(Waiting)) error {
	w.mu.Lock()
	var all []Waiting
	for _, it := range w.items {
		if !it.gone && !it.foreign {
			all = append(all, it.Waiting)
		}
	}
	w.mu.Unlock()
	for _, x := range all {
		add(x)
	}
	return nil
}

func (w *world) Load(ctx context.Context, id ID, recipients []uint32) (*Job, error) {
	if w.load != nil {
		if err := w.load(); err != nil {
			return nil, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	j := &Job{ID: id, Size: 100, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader("Subject: x\r\nMessage-ID: <1@x>\r\n\r\nHello\r\n")), nil
	}}
	for _, n := range recipients {
		it := w.items[Ref{ID: id, Recipient: n}]
		if it == nil || it.gone || it.Parked || it.foreign {
			continue
		}
		j.Stranger = w.stranger
		j.Created, j.Sender, j.IsBounce, j.Expires = it.created, it.sender, it.bounce, it.Expires
		j.Recipients = append(j.Recipients, Recipient{
			N: n, Address: it.address, Notify: it.notify, Attempts: it.Attempts, DelayTold: it.told, LastReply: it.last,
		})
		if life := w.lifetimes[it.Domain]; life > 0 {
			j.Recipients[len(j.Recipients)-1].Expires = it.created.Add(life)
		}
		if r := &j.Recipients[len(j.Recipients)-1]; w.rules != nil {
			j.Ruled, r.Ruling = true, w.rules(it.address)
			if r.Ruling == nil {
				r.Ruling = &Ruling{}
			}
			r.Ruling.Via = it.Route
		}
	}
	if len(j.Recipients) == 0 {
		return nil, ErrGone
	}
	return j, nil
}

func (w *world) Settle(ctx context.Context, verdicts []Verdict, notices []Notice) ([]Taken, error) {
	w.mu.Lock()
	w.calls++
	n := w.calls
	w.mu.Unlock()
	if w.settle != nil {
		if err := w.settle(n); err != nil {
			return nil, err
		}
	}
	w.mu.Lock()
	taken := make([]Taken, len(verdicts))
	w.batches = append(w.batches, len(verdicts))
	var changed []Waiting
	var gone []Ref
	applied := false
	for i, v := range verdicts {
		it := w.items[v.Ref]
		switch {
		case it == nil:
			taken[i] = Gone
		case it.foreign:
			taken[i] = Stale
		case it.Attempts >= v.Attempt:
			taken[i] = Applied
		case it.gone:
			taken[i] = Gone
		default:
			taken[i] = Applied
			applied = true
			it.Attempts, it.told, it.last = v.Attempt, v.DelayTold, v.Reply
			w.settled = append(w.settled, v)
			if v.Outcome == Deferred {
				it.Next = v.Next
				changed = append(changed, it.Waiting)
			} else {
				it.gone = true
				gone = append(gone, it.Ref)
			}
		}
	}
	if applied {
		w.notices = append(w.notices, notices...)
	}
	feed := w.feed
	w.mu.Unlock()
	if feed {
		w.m.Add(changed)
		w.m.Drop(gone)
	}
	if w.after != nil {
		if err := w.after(n); err != nil {
			return nil, err
		}
	}
	return taken, nil
}

func (w *world) Until() time.Time { return w.until() }

func (w *world) Deliver(ctx context.Context, j *Job) []Verdict {
	key := j.Domain + j.Route
	w.mu.Lock()
	w.running[key]++
	w.most[key] = max(w.most[key], w.running[key])
	w.jobs = append(w.jobs, fmt.Sprintf("%s/%d", key, len(j.Recipients)))
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.running[key]--
		w.mu.Unlock()
	}()
	if w.deliver != nil {
		return w.deliver(ctx, j)
	}
	return all(j, Verdict{Outcome: Delivered, Reply: "250 2.0.0 Ok", Host: "mx [192.0.2.1]:25"})
}

func all(j *Job, v Verdict) []Verdict {
	var out []Verdict
	for _, r := range j.Recipients {
		v.Ref = Ref{ID: j.ID, Recipient: r.N}
		out = append(out, v)
	}
	return out
}

// run runs a manager on a world inside a synctest bubble.
func (w *world) run(t *testing.T, c Config, f func(m *Manager)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c.Spool, c.Agent, c.Hostname = w, w, "relay.example.com"
		if c.Rand == nil {
			c.Rand = func() float64 { return 0.5 }
		}
		w.m = New(c)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.m.Run(ctx) }()
		synctest.Wait()
		f(w.m)
		cancel()
		require.NoError(t, <-done)
	})
}

// wait lets virtual time pass. The lock orders what the test did before what
// the manager does next, for the race detector.
func (w *world) wait(d time.Duration) {
	w.mu.Lock()
	w.waits++
	w.mu.Unlock()
	time.Sleep(d)
	synctest.Wait()
}

func TestDeliversAtOnceAndGroups(t *testing.T) {
	w := newWorld()
	w.run(t, Config{}, func(m *Manager) {
		start := time.Now()
		m.Add(w.message("a@one.example", "b@two.example", "c@one.example", "d@one.example"))
		synctest.Wait()
		require.Equal(t, start, time.Now(), "no timer between Add and the verdict")
		require.Len(t, w.settled, 4)
		require.ElementsMatch(t, []string{"one.example/3", "two.example/1"}, w.jobs)
		require.Empty(t, m.Active())
		s := m.Stats()
		require.EqualValues(t, 4, s.Totals.Delivered)
		require.Zero(t, s.Waiting+s.Ready+s.Active+s.Parked)
		require.Equal(t, "not in the queue of this node", m.Why(Ref{}))
	})
}

func TestManyRecipientsAreSplit(t *testing.T) {
	w := newWorld()
	w.run(t, Config{Limits: Limits{Recipients: 100}}, func(m *Manager) {
		var to []string
		for i := range 250 {
			to = append(to, fmt.Sprintf("u%d@one.example", i))
		}
		m.Add(w.message(to...))
		synctest.Wait()
		require.ElementsMatch(t, []string{"one.example/100", "one.example/100", "one.example/50"}, w.jobs)
		require.Len(t, w.settled, 250)
	})
}

func TestRetriesUntilExpiryThenBounces(t *testing.T) {
	w := newWorld()
	w.deliver = func(ctx context.Context, j *Job) []Verdict {
		return all(j, Verdict{Outcome: Deferred, Reply: "451 4.7.1 greylisted", Host: "mx [192.0.2.1]:25"})
	}
	w.run(t, Config{}, func(m *Manager) {
		start := time.Now()
		x := w.message("a@one.example")
		m.Add(x)
		synctest.Wait()
		require.Contains(t, m.Why(x[0].Ref), "due at ")
		require.InDelta(t, 5*time.Minute, w.settled[0].Next.Sub(start), float64(time.Second))
		w.wait(6 * 24 * time.Hour)
		last := w.settled[len(w.settled)-1]
		require.Equal(t, Expired, last.Outcome)
		require.InDelta(t, 5*24*time.Hour, last.At.Sub(start), float64(time.Minute))
		require.Len(t, w.notices, 2)
		require.Contains(t, string(w.notices[0].Body), "Action: delayed")
		require.Contains(t, string(w.notices[0].Body), "Will-Retry-Until")
		require.Contains(t, string(w.notices[1].Body), "Action: failed\r\nStatus: 4.4.7\r\n")
		require.Contains(t, string(w.notices[1].Body), "451 4.7.1 greylisted")
		require.Equal(t, "sender@example.net", w.notices[1].To)
		// 5m × 1.8^n up to 4 h: about 36 attempts in five days.
		require.InDelta(t, 36, len(w.settled), 4)
	})
}

func TestOwnExpiry(t *testing.T) {
	w := newWorld()
	w.deliver = func(ctx context.Context, j *Job) []Verdict {
		return all(j, Verdict{Outcome: Deferred, Reply: "451 no", Host: "mx"})
	}
	w.run(t, Config{}, func(m *Manager) {
		x := w.message("a@one.example")
		x[0].Expires = time.Now().Add(12 * time.Minute)
		w.items[x[0].Ref].Expires = x[0].Expires
		m.Add(x)
		w.wait(time.Hour)
		require.Len(t, w.settled, 3)
		require.Equal(t, Expired, w.settled[2].Outcome)
	})
}

func TestNoticesFollowTheRules(t *testing.T) {
	for _, c := range []struct {
		name            string
		notify          uint32
		sender          string
		bounce          bool
		outcome         Outcome
		passed, final   bool
		want, alsoWants string
	}{
		{name: "default failure", sender: "s@x", outcome: Failed, want: "Action: failed", alsoWants: "Status: 5.1.1"},
		{name: "never", notify: NotifyNever, sender: "s@x", outcome: Failed},
		{name: "success only", notify: NotifySuccess, sender: "s@x", outcome: Failed},
		{name: "failure", notify: NotifyFailure, sender: "s@x", outcome: Failed, want: "Action: failed"},
		{name: "null sender", outcome: Failed},
		{name: "bounce", sender: "s@x", bounce: true, outcome: Failed},
		{name: "delivered", sender: "s@x", outcome: Delivered},
		{name: "relayed", notify: NotifySuccess, sender: "s@x", outcome: Delivered, want: "Action: relayed",
			alsoWants: "Status: 2.0.0"},
		{name: "next hop reports", notify: NotifySuccess, sender: "s@x", outcome: Delivered, passed: true},
		{name: "mailbox", notify: NotifySuccess | NotifyFailure, sender: "s@x", outcome: Delivered, final: true,
			want: "Action: delivered"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld()
			reply := "550 5.1.1 no such user"
			if c.outcome == Delivered {
				reply = "250 2.0.0 Ok"
			}
			w.deliver = func(ctx context.Context, j *Job) []Verdict {
				return all(j, Verdict{
					Outcome: c.outcome, Reply: reply, Host: "mx [192.0.2.1]:25", Passed: c.passed, Final: c.final,
				})
			}
			w.run(t, Config{}, func(m *Manager) {
				x := w.message("a@one.example", "b@one.example")
				for _, y := range x {
					it := w.items[y.Ref]
					it.notify, it.sender, it.bounce = c.notify, c.sender, c.bounce
				}
				m.Add(x)
				synctest.Wait()
				require.Len(t, w.settled, 2)
				if c.want == "" {
					require.Empty(t, w.notices)
					return
				}
				require.Len(t, w.notices, 1, "one notice for both recipients")
				body := string(w.notices[0].Body)
				require.Equal(t, 2, strings.Count(body, c.want))
				require.Contains(t, body, c.alsoWants)
			})
		})
	}
}

func TestWindowGrowsAndIsBounded(t *testing.T) {
	w := newWorld()
	w.deliver = func(ctx context.Context, j *Job) []Verdict {
		time.Sleep(time.Second)
		return all(j, Verdict{Outcome: Delivered, Reply: "250 Ok"})
	}
	w.run(t, Config{Limits: Limits{Workers: 50, PerDestination: 12}}, func(m *Manager) {
		var x []Waiting
		for range 200 {
			x = append(x, w.message("a@one.example")...)
		}
		m.Add(x)
		synctest.Wait()
		require.Equal(t, 5, w.running["one.example"])
		require.Equal(t, "waiting for a free slot: 5 of 5 connections to one.example", m.Why(x[199].Ref))
		w.wait(time.Minute)
		require.Equal(t, 12, w.most["one.example"])
		require.Len(t, w.settled, 200)
	})
}

func TestDeadDestinationIsLeftAlone(t *testing.T) {
	w := newWorld()
	dead := true
	var revived []ID // in the order of their attempts; the verdicts may be settled in another
	w.deliver = func(ctx context.Context, j *Job) []Verdict {
		if !dead {
			w.mu.Lock()
			revived = append(revived, j.ID)
			w.mu.Unlock()
		}
		if !dead || j.Domain != "dead.example" {
			return all(j, Verdict{Outcome: Delivered, Reply: "250 Ok"})
		}
		time.Sleep(30 * time.Second) // a connect time-out
		return all(j, Verdict{Outcome: Deferred, NextHop: true, Reply: "4.4.1 connection timed out"})
	}
	w.run(t, Config{}, func(m *Manager) {
		var x []Waiting
		for range 10_000 {
			x = append(x, w.message("a@dead.example")...)
		}
		m.Add(x)
		w.wait(31 * time.Second)
		require.Len(t, w.settled, 5, "only the first window was tried")
		require.Contains(t, m.Why(x[9999].Ref), "destination dead.example is backing off until ")
		require.Contains(t, m.Why(x[9999].Ref), "connection timed out")
		require.Len(t, m.Destinations(5), 1)
		require.False(t, m.Destinations(5)[0].BackOff.IsZero())

		m.Add(w.message("b@alive.example"))
		synctest.Wait()
		require.Len(t, w.settled, 6)

		w.wait(3 * time.Hour)
		tries := len(w.settled)
		require.Less(t, tries, 40, "one probe at a time, at most every 15 minutes")

		// An operator's retry ends the back-off, and that message goes first.
		dead = false
		x[5000].Next = time.Now()
		m.Add(x[5000:5001])
		synctest.Wait()
		w.mu.Lock()
		require.Equal(t, x[5000].ID, revived[0])
		w.mu.Unlock()
		w.wait(5 * time.Hour)
		require.Zero(t, m.Stats().Ready)
		require.EqualValues(t, 10_001, m.Stats().Totals.Delivered)
	})
}

// A recipient whose time has run out is a line "expired", with its message's id.
func TestExpiryIsALine(t *testing.T) {
	w := newWorld()
	w.deliver = func(_ context.Context, j *Job) []Verdict {
		return all(j, Verdict{Outcome: Deferred, Host: "mx", Reply: "451 4.7.1 later"})
	}
	core, logs := observer.New(zapcore.InfoLevel)
	w.run(t, Config{Log: zap.New(core)}, func(m *Manager) {
		x := w.message("a@one.example")
		m.Add(x)
		w.wait(4 * 24 * time.Hour)
		require.Zero(t, logs.FilterMessage("expired").Len())
		w.wait(2 * 24 * time.Hour)
		lines := logs.FilterMessage("expired").All()
		require.Len(t, lines, 1)
		fields := lines[0].ContextMap()
		require.Equal(t, x[0].Ref.ID.String(), fields["id"])
		require.Equal(t, "a@one.example", fields["recipient"])
		require.Contains(t, fields["reply"], "451 4.7.1 later")
	})
}

// Failures are counted, and their lines marked, by what the reply means; a success has no class.
func TestFailuresHaveClasses(t *testing.T) {
	w := newWorld()
	w.deliver = func(_ context.Context, j *Job) []Verdict {
		switch j.Recipients[0].Address {
		case "full@one.example":
			return all(j, Verdict{Outcome: Deferred, Host: "mx", Reply: "452 4.2.2 Mailbox full"})
		case "nobody@one.example":
			return all(j, Verdict{Outcome: Failed, Host: "mx", Reply: "550 5.1.1 User unknown"})
		case "mute@one.example":
			return all(j, Verdict{Outcome: Failed})
		}
		return all(j, Verdict{Outcome: Delivered, Reply: "250 2.0.0 Ok, User unknown"})
	}
	core, logs := observer.New(zapcore.InfoLevel)
	w.run(t, Config{Log: zap.New(core)}, func(m *Manager) {
		for _, to := range []string{"full@one.example", "nobody@one.example", "mute@one.example", "a@one.example"} {
			m.Add(w.message(to))
		}
		w.wait(time.Minute)
		require.Equal(t, Failures{replyclass.Full: 1}, m.Failures(Deferred))
		require.Equal(t, Failures{replyclass.BadAddress: 1, replyclass.Other: 1}, m.Failures(Failed))
		require.Equal(t, Failures{}, m.Failures(Expired))
		require.Equal(t, Failures{}, m.Failures(Delivered))
		require.Equal(t, Failures{}, m.Failures(99))
		require.Equal(t, "full", logs.FilterMessage("deferred").All()[0].ContextMap()["class"])
		require.Equal(t, "bad_address", logs.FilterMessage("bounced").FilterField(
			zap.String("recipient", "nobody@one.example")).All()[0].ContextMap()["class"])
		require.NotContains(t, logs.FilterMessage("delivered").All()[0].ContextMap(), "class")
		own, err := replyclass.Parse([]string{"policy 550 user unknown"})
		require.NoError(t, err)
		m.SetReplies(own)
		m.Add(w.message("nobody@one.example"))
		w.wait(time.Minute)
		require.Equal(t, Failures{replyclass.BadAddress: 1, replyclass.Policy: 1, replyclass.Other: 1}, m.Failures(Failed))
	})
}

func TestDeadDestinationDoesNotHideDelayAndExpiry(t *testing.T) {
	w := newWorld()
	w.deliver = func(ctx context.Context, j *Job) []Verdict {
		return all(j, Verdict{Outcome: Deferred, NextHop: true, Reply: "4.4.1 connection refused"})
	}
	w.run(t, Config{}, func(m *Manager) {
		const n = 2000
		var x []Waiting
		for range n {
			x = append(x, w.message("a@dead.example")...)
		}
		m.Add(x)
		w.wait(4*time.Hour + 40*time.Minute)
		require.Len(t, w.notices, n, "everyone was told of the delay")
		w.wait(5 * 24 * time.Hour)
		require.Len(t, w.notices, 2*n)
		require.EqualValues(t, n, m.Stats().Totals.Expired)
		require.Zero(t, m.Stats().Ready+m.Stats().Waiting)
		require.Less(t, len(w.jobs), 2000, "probes only")
	})
}

func TestHungDestinationsLeaveWorkersToOthers(t *testing.T) {
	w := newWorld()
	w.deliver = func(ctx context.Context, j *Job) []Verdict {
		if strings.HasPrefix(j.Domain, "hung") {
			<-ctx.Done()
			return all(j, Verdict{Outcome: Deferred, Untried: true})
		}
		return all(j, Verdict{Outcome: Delivered, Reply: "250 Ok"})
	}
	w.run(t, Config{Limits: Limits{Workers: 8}}, func(m *Manager) {
		m.Add(w.message("a@good.example"))
		synctest.Wait()
		for i := range 20 {
			m.Add(w.message(fmt.Sprintf("a@hung%d.example", i)))
		}
		synctest.Wait()
		m.Add(w.message("b@good.example"))
		synctest.Wait()
		require.Len(t, w.settled, 2)
		require.Equal(t, 6, m.Stats().Active)
	})
}

// toldOf counts notices of a kind by the domain of their recipient.
func (w *world) toldOf(kind bounce.Kind) map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	all, action := map[string]int{}, map[bounce.Kind]string{bounce.Failure: "failed", bounce.Delay: "delayed"}[kind]
	for _, n := range w.notices {
		if _, after, ok := strings.Cut(string(n.Body), "Final-Recipient: rfc822; a@"); ok {
			domain, after, _ := strings.Cut(after, "\r\n")
			if strings.HasPrefix(after, "Action: "+action) {
				all[domain]++
			}
		}
	}
	return all
}

// verdicts counts those that were settled.
func (w *world) verdicts() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.settled)
}

// One message to many hosts that hang has a share of the workers, and others get
// theirs, also at hosts that nobody has heard of yet.
func TestOneMessageToManyTarpits(t *testing.T) {
	w := newWorld()
	w.deliver = func(ctx context.Context, j *Job) []Verdict {
		if strings.HasPrefix(j.Domain, "tar") {
			time.Sleep(4 * time.Minute)
		}
		return all(j, Verdict{Outcome: Delivered, Reply: "250 Ok"})
	}
	w.run(t, Config{Limits: Limits{Workers: 8}}, func(m *Manager) {
		var to []string
		for i := range 20 {
			to = append(to, fmt.Sprintf("a@tar%d.example", i))
		}
		m.Add(w.message(to...))
		synctest.Wait()
		require.Equal(t, 2, m.Stats().Active, "a quarter")
		for i := range 10 {
			m.Add(w.message(fmt.Sprintf("a@new%d.example", i)))
		}
		synctest.Wait()
		require.Equal(t, 10, w.verdicts())
		time.Sleep(45 * time.Minute)
		synctest.Wait()
		require.Equal(t, 30, w.verdicts(), "all get their turn")
		m.mu.Lock()
		require.NoError(t, m.queue.Check(time.Now().UnixNano()), "no message has jobs any more")
		m.mu.Unlock()

		// Those that have answered, slowly, are no better the next time.
		m.Add(w.message(to...))
		synctest.Wait()
		require.Equal(t, 2, m.Stats().Active)
	})
}

func TestFairAndByPriority(t *testing.T) {
	w := newWorld()
	w.deliver = func(ctx context.Context, j *Job) []Verdict {
		time.Sleep(2 * time.Second)
		return all(j, Verdict{Outcome: Delivered, Reply: "250 Ok"})
	}
	w.run(t, Config{Limits: Limits{Workers: 1}}, func(m *Manager) {
		var x []Waiting
		for range 20 {
			x = append(x, w.message("a@big.example")...)
		}
		m.Add(x)
		synctest.Wait()
		for i := range 3 {
			m.Add(w.message(fmt.Sprintf("a@small%d.example", i)))
		}
		urgent := w.message("a@urgent.example")
		urgent[0].Priority = 3
		m.Add(urgent)
		w.wait(time.Hour)
		require.Len(t, w.jobs, 24)
		require.Equal(t, "urgent.example/1", w.jobs[1])
		seen := strings.Join(w.jobs[:9], " ")
		for i := range 3 {
			require.Contains(t, seen, fmt.Sprintf("small%d", i), "round robin")
		}
	})
}

func TestLeaseFences(t *testing.T) {
	w := newWorld()
	var until time.Time
	w.until = func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return until }
	set := func(x time.Time) { w.mu.Lock(); until = x; w.mu.Unlock() }
	var ended time.Time
	var live, liveAfter error
	w.deliver = func(ctx context.Context, j *Job) []Verdict {
		live = j.Live()
		<-ctx.Done()
		ended, liveAfter = time.Now(), j.Live()
		return all(j, Verdict{Outcome: Deferred, Untried: true})
	}
	w.run(t, Config{}, func(m *Manager) {
		x := w.message("a@one.example")
		m.Add(x)
		w.wait(10 * time.Second)
		require.Empty(t, w.jobs, "no lease, no attempt")
		require.Contains(t, m.Why(x[0].Ref), "may not act")

		for range 10 { // renewed every second: the attempt goes on
			set(time.Now().Add(3 * time.Second))
			w.wait(time.Second)
		}
		require.Len(t, w.jobs, 1)
		require.NoError(t, live)
		require.True(t, ended.IsZero())
		end := until
		w.wait(5 * time.Second)
		require.Equal(t, end, ended, "ends when the lease does")
		require.Error(t, liveAfter)
		require.Empty(t, w.settled, "an attempt that was broken off is not committed")
		require.Len(t, w.jobs, 1)

		w.deliver = nil
		set(time.Now().Add(time.Hour))
		w.wait(2 * time.Second)
		require.Len(t, w.settled, 1)
		require.EqualValues(t, 1, w.settled[0].Attempt)
	})
}

func TestSettleIsRepeatedUntilAnswered(t *testing.T) {
	w := newWorld()
	w.after = func(n int) error {
		if n < 4 {
			return fmt.Errorf("no answer: %w", ErrUnknown)
		}
		return nil
	}
	w.run(t, Config{}, func(m *Manager) {
		w.deliver = func(ctx context.Context, j *Job) []Verdict {
			return all(j, Verdict{Outcome: Failed, Reply: "550 5.1.1 no"})
		}
		x := w.message("a@one.example")
		m.Add(x)
		synctest.Wait()
		require.Equal(t, []Ref{x[0].Ref}, m.Active(), "active until the spool has answered")
		w.wait(time.Minute)
		require.Equal(t, 4, w.calls)
		require.Len(t, w.settled, 1)
		require.Len(t, w.notices, 1)
		require.Len(t, w.jobs, 1)
		require.Empty(t, m.Active())
	})
}

func TestSettleGroups(t *testing.T) {
	w := newWorld()
	w.settle = func(n int) error { time.Sleep(10 * time.Millisecond); return nil }
	w.run(t, Config{Limits: Limits{Settles: 1, Verdicts: 50, Workers: 100, PerDestination: 100, Initial: 100}},
		func(m *Manager) {
			var x []Waiting
			for range 400 {
				x = append(x, w.message("a@one.example")...)
			}
			m.Add(x)
			w.wait(time.Second)
			require.Len(t, w.settled, 400)
			require.LessOrEqual(t, w.calls, 10, "%v", w.batches)
			for _, n := range w.batches {
				require.LessOrEqual(t, n, 50)
			}
		})
}

func TestPoisonedBatchIsSplit(t *testing.T) {
	w := newWorld()
	w.feed = false
	var poison Ref
	broken := errors.New("too large")
	inner := &poisoned{world: w, poison: &poison, err: broken}
	synctest.Test(t, func(t *testing.T) {
		m := New(Config{Spool: inner, Agent: w, Limits: Limits{Settles: 1, Unsettled: 1000}})
		w.m = m
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { m.Run(ctx); close(done) }()
		synctest.Wait() // until it has scanned: it would find the message before that is poisoned
		var x []Waiting
		for range 40 {
			x = append(x, w.message("a@one.example")...)
		}
		poison = x[17].Ref
		m.Add(x)
		w.wait(30 * time.Second)
		require.Len(t, w.settled, 39)
		require.Equal(t, []Ref{poison}, m.Active())
		cancel()
		<-done
	})
}

type poisoned struct {
	*world
	poison *Ref
	err    error
}

func (p *poisoned) Settle(ctx context.Context, v []Verdict, n []Notice) ([]Taken, error) {
	for _, x := range v {
		if x.Ref == *p.poison {
			return nil, p.err
		}
	}
	return p.world.Settle(ctx, v, n)
}

func TestUnsettledPausesAttempts(t *testing.T) {
	w := newWorld()
	open := false
	w.settle = func(n int) error {
		if !open {
			return ErrUnknown
		}
		return nil
	}
	w.run(t, Config{Limits: Limits{Unsettled: 10, Workers: 4}}, func(m *Manager) {
		var x []Waiting
		for range 100 {
			x = append(x, w.message("a@one.example")...)
		}
		m.Add(x)
		w.wait(time.Minute)
		require.Less(t, len(w.jobs), 15)
		require.Contains(t, m.Why(x[99].Ref), "committed")
		open = true
		w.wait(time.Minute)
		require.Len(t, w.settled, 100)
	})
}

func TestHoldDropRetryReset(t *testing.T) {
	w := newWorld()
	w.run(t, Config{}, func(m *Manager) {
		x := w.message("a@one.example", "b@one.example", "c@one.example")
		for i := range x {
			x[i].Next = time.Now().Add(time.Hour)
			w.items[x[i].Ref].Next = x[i].Next
		}
		m.Add(x)
		x[0].Parked = true
		w.items[x[0].Ref].Parked = true
		m.Add(x[:1])
		require.Equal(t, 1, m.Stats().Parked)
		require.Contains(t, m.Why(x[0].Ref), "held")
		m.Drop([]Ref{x[1].Ref, {Recipient: 99}})
		require.Equal(t, "not in the queue of this node", m.Why(x[1].Ref))
		w.items[x[1].Ref].gone = true
		w.wait(2 * time.Hour)
		require.Len(t, w.settled, 1)
		x[0].Parked, x[0].Next = false, time.Now()
		w.items[x[0].Ref].Parked = false
		m.Add(x[:1])
		synctest.Wait()
		require.Len(t, w.settled, 2)

		// Ownership: mine goes away, another's comes.
		mine, other := w.message("a@mine.example"), w.message("a@other.example")
		for _, y := range [][]Waiting{mine, other} {
			y[0].Next = time.Now().Add(time.Hour)
			w.items[y[0].Ref].Next = y[0].Next
		}
		m.Add(mine)
		w.items[mine[0].Ref].foreign = true
		m.Reset()
		synctest.Wait()
		require.Equal(t, "not in the queue of this node", m.Why(mine[0].Ref))
		require.Contains(t, m.Why(other[0].Ref), "due at")
		w.wait(59 * time.Minute)
		require.Len(t, w.settled, 2)
		w.wait(2 * time.Minute)
		require.Len(t, w.settled, 3)
	})
}

func TestStaleIsDropped(t *testing.T) {
	w := newWorld()
	w.feed = false
	w.run(t, Config{}, func(m *Manager) {
		x := w.message("a@one.example")
		w.deliver = func(ctx context.Context, j *Job) []Verdict {
			w.mu.Lock()
			w.items[x[0].Ref].foreign = true
			w.mu.Unlock()
			return all(j, Verdict{Outcome: Delivered, Reply: "250 Ok"})
		}
		m.Add(x)
		synctest.Wait()
		require.Empty(t, w.settled)
		require.EqualValues(t, 1, m.Stats().Totals.Stale)
		require.Zero(t, m.Stats().Active)
	})
}

// This node lost its right to act during an attempt and got it again, with the
// entry: the scan that followed passed over it, and its verdict is stale.
func TestStaleButOursAgain(t *testing.T) {
	w := newWorld()
	w.feed = false
	w.run(t, Config{}, func(m *Manager) {
		x := w.message("a@one.example")
		foreign := func(is bool) {
			w.mu.Lock()
			w.items[x[0].Ref].foreign = is
			w.mu.Unlock()
		}
		w.deliver = func(ctx context.Context, j *Job) []Verdict {
			if len(w.batches) == 0 {
				m.Reset()
				time.Sleep(time.Millisecond) // until the scan is over
				foreign(true)
			}
			return all(j, Verdict{Outcome: Delivered, Reply: "250 Ok"})
		}
		w.after = func(int) error { foreign(false); return nil }
		m.Add(x)
		w.wait(time.Second)
		require.Len(t, w.settled, 1)
		require.EqualValues(t, 1, m.Stats().Totals.Stale)
		require.Zero(t, m.Stats().Active)
	})
}

// The same, with the attempt not even begun.
func TestGoneButOursAgain(t *testing.T) {
	w := newWorld()
	w.run(t, Config{}, func(m *Manager) {
		loads := 0
		w.load = func() error {
			if loads++; loads > 1 {
				return nil
			}
			m.Reset()
			time.Sleep(time.Millisecond) // until the scan is over
			return ErrGone
		}
		m.Add(w.message("a@one.example"))
		w.wait(time.Second)
		require.Len(t, w.settled, 1)
	})
}

func TestHeldDuringAttempt(t *testing.T) {
	w := newWorld()
	w.feed = false
	w.run(t, Config{}, func(m *Manager) {
		x := w.message("a@one.example")
		w.deliver = func(ctx context.Context, j *Job) []Verdict {
			y := x[0]
			y.Parked = true
			m.Add([]Waiting{y})
			return all(j, Verdict{Outcome: Deferred, Reply: "451 no"})
		}
		m.Add(x)
		synctest.Wait()
		require.Equal(t, 1, m.Stats().Parked)
		w.wait(24 * time.Hour)
		require.Len(t, w.settled, 1)
	})
}

func TestOldScanDoesNotUndo(t *testing.T) {
	w := newWorld()
	w.feed = false
	w.run(t, Config{}, func(m *Manager) {
		x := w.message("a@one.example")
		w.deliver = func(ctx context.Context, j *Job) []Verdict {
			return all(j, Verdict{Outcome: Deferred, Reply: "451 no"})
		}
		m.Add(x)
		synctest.Wait()
		m.Add(x) // as it was before the attempt
		synctest.Wait()
		require.Len(t, w.settled, 1)
		require.Equal(t, 1, m.Stats().Waiting)
	})
}

func TestLoadErrors(t *testing.T) {
	w := newWorld()
	broken := true
	w.load = func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if broken {
			return errors.New("disk")
		}
		return nil
	}
	w.run(t, Config{}, func(m *Manager) {
		x := w.message("a@one.example")
		m.Add(x)
		w.wait(time.Minute)
		require.Empty(t, w.jobs)
		broken = false
		w.wait(time.Minute)
		require.Len(t, w.settled, 1)
		y := w.message("b@one.example")
		w.items[y[0].Ref].gone = true
		m.Add(y)
		synctest.Wait()
		require.Equal(t, "not in the queue of this node", m.Why(y[0].Ref))
	})
}

func TestAgentFaultsDefer(t *testing.T) {
	w := newWorld()
	n := 0
	w.deliver = func(ctx context.Context, j *Job) []Verdict {
		n++
		switch n {
		case 1:
			panic("bug")
		case 2:
			return nil
		case 3:
			return []Verdict{{Ref: Ref{ID: j.ID, Recipient: 77}, Outcome: Delivered}, {Outcome: 99}}
		}
		return all(j, Verdict{Outcome: Delivered, Reply: "250 Ok"})
	}
	w.run(t, Config{}, func(m *Manager) {
		m.Add(w.message("a@one.example", "b@one.example"))
		w.wait(time.Hour)
		require.Len(t, w.settled, 8)
		for _, v := range w.settled[:6] {
			require.Equal(t, Deferred, v.Outcome)
			require.Equal(t, "4.3.0 the delivery agent failed", v.Reply)
		}
	})
}

func TestStopWaitsForRunningAttempts(t *testing.T) {
	w := newWorld()
	synctest.Test(t, func(t *testing.T) {
		w.deliver = func(ctx context.Context, j *Job) []Verdict {
			select {
			case <-ctx.Done():
				return all(j, Verdict{Outcome: Deferred, Untried: true})
			case <-time.After(map[string]time.Duration{"quick.example": 2 * time.Second, "slow.example": time.Hour}[j.Domain]):
				return all(j, Verdict{Outcome: Delivered, Reply: "250 Ok"})
			}
		}
		m := New(Config{Spool: w, Agent: w})
		w.m = m
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { m.Run(ctx); close(done) }()
		m.Add(w.message("a@quick.example"))
		m.Add(w.message("a@slow.example"))
		synctest.Wait()
		start := time.Now()
		cancel()
		<-done
		require.Equal(t, 5*time.Second, time.Since(start))
		require.Len(t, w.settled, 1)
	})
}

func TestRouteGroups(t *testing.T) {
	w := newWorld()
	route := func(domain string) string {
		if strings.HasSuffix(domain, ".test") {
			return "smtp:hub:25"
		}
		return ""
	}
	w.run(t, Config{Route: route}, func(m *Manager) {
		m.Add(w.message("a@one.test", "b@two.test", "c@one.example"))
		x := w.message("d@mx.test", "e@mx.test")
		for i := range x {
			x[i].Route = "mx"
		}
		m.Add(x)
		y := w.message("f@own.test", "g@other.test", "h@other.test")
		for i := range y {
			y[i].Route = "mx (route * from @a.example)"
		}
		m.Add(y)
		synctest.Wait()
		require.ElementsMatch(t, []string{"smtp:hub:25/2", "one.example/1", "mx.testmx/2",
			"own.testmx (route * from @a.example)/1", "other.testmx (route * from @a.example)/2"}, w.jobs)
	})
}

func TestPolicyChangesAtRunTime(t *testing.T) {
	w := newWorld()
	w.deliver = func(ctx context.Context, j *Job) []Verdict {
		return all(j, Verdict{Outcome: Deferred, Reply: "451 no"})
	}
	w.run(t, Config{}, func(m *Manager) {
		m.SetPolicy(RetryPolicy{First: time.Second, Max: time.Second, Lifetime: 10 * time.Second})
		m.Add(w.message("a@one.example"))
		w.wait(time.Minute)
		require.InDelta(t, 11, len(w.settled), 1)
		require.EqualValues(t, 1, m.Stats().Totals.Expired)
	})
}

func TestULID(t *testing.T) {
	for range 100 {
		id := ID(ulid.Make())
		require.Equal(t, ulid.ULID(id).String(), id.String())
	}
}

func TestSchedule(t *testing.T) {
	s := RetryPolicy{}.Schedule()
	w, up := s(1, 0, 0.5)
	require.Equal(t, 5*time.Minute, w)
	require.False(t, up)
	w, _ = s(100, 0, 0.999999)
	require.InDelta(t, float64(4*time.Hour)*1.1, float64(w), float64(time.Second))
	w, _ = s(2, 0, 0)
	require.InDelta(t, float64(9*time.Minute)*0.9, float64(w), float64(time.Second))
	_, up = s(1, 5*24*time.Hour, 0)
	require.True(t, up)
}
