package remote

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/queue"
	"relay/queue/limit"
)

// granted is gates with a clock that stands still, and what a leader grants.
type granted struct {
	*limit.Gates
	now time.Duration
	set limit.Set
}

func newGranted(t *testing.T, limits ...string) *granted {
	t.Helper()
	s := &granted{now: time.Hour}
	var err error
	s.set, err = limit.ParseSet(limits)
	require.NoError(t, err)
	s.Gates = limit.NewGates(func() time.Duration { return s.now }, func() {})
	s.SetLimits(s.set)
	return s
}

// grant gives a share of a key, and a message's token for each slot.
func (s *granted) grant(a *Agent, key string, conns, tokens int) {
	ask, _ := s.Ask(1)
	g := limit.Grant{Key: key, Conns: conns, Slots: [2][]int64{make([]int64, tokens)},
		Life: [2]int64{limit.Lease.Microseconds(), limit.Lease.Microseconds()}}
	gates, excess := s.Grant(ask, &limit.Answer{Keys: []limit.Grant{g}})
	for i := range gates {
		if excess[i] > 0 {
			a.Shed(gates[i], excess[i])
		}
	}
}

func untried(v []queue.Verdict) bool {
	return v[0].Untried && strings.Contains(v[0].Reply, "waits for the limit of")
}

// send is a job with what the manager reserves.
func send(t *testing.T, a *Agent, j *queue.Job) []queue.Verdict {
	t.Helper()
	v := deliver(t, a, j)
	j.Limits.Pass.End()
	return v
}

func routeKey(h *nextHop) string { return fmt.Sprintf("route:smtp:127.0.0.1:%d", h.port()) }

// TestConnectionsWithinTheLimit: idle ones count, and give way to one that is needed elsewhere.
func TestConnectionsWithinTheLimit(t *testing.T) {
	one, other := newHop(t, nil), newHop(t, nil)
	s := newGranted(t, "route:* connections=1")
	a := newAgent(t, Config{Limits: s.Gates})
	j := job(one, "a@x.example")
	require.True(t, untried(send(t, a, j)), "no share yet")
	require.True(t, j.Limits.Found)
	require.Equal(t, routeKey(one), j.Limits.Gates[0].Key())
	s.grant(a, routeKey(one), 1, 0)
	for range 2 {
		require.Equal(t, queue.Delivered, send(t, a, job(one, "a@x.example"))[0].Outcome)
	}
	conns, bodies := one.count()
	require.Equal(t, []int{1, 2}, []int{conns, bodies}, "over one connection")
	require.True(t, untried(send(t, a, job(other, "a@x.example"))), "the other has no share")

	s.grant(a, routeKey(one), 0, 0)
	require.Eventually(t, func() bool { ask, _ := s.Ask(1); return len(ask.Keys) == 0 }, 20*time.Second, time.Millisecond,
		"a share that is taken back closes what is idle")
	require.Contains(t, one.said(), "QUIT")
	require.True(t, untried(send(t, a, job(one, "a@x.example"))))
}

// TestAConnectionOfTheSameLimitGivesWay: of two hosts of one site the idle connection to one ends for the other.
func TestAConnectionOfTheSameLimitGivesWay(t *testing.T) {
	h := newHop(t, nil)
	s := newGranted(t, "site:big connections=1")
	a := newAgent(t, Config{Port: h.port(), LoopbackHops: true, Limits: s.Gates, Sites: oneSite("big"),
		Resolver: names{mx: map[string][]Record{"x.example": {{Host: "a.mx"}}, "y.example": {{Host: "b.mx"}}},
			addrs: twoHosts}})
	to := func(domain string) *queue.Job {
		j := jobTo("", "a@"+domain)
		j.Domain = domain
		return j
	}
	require.True(t, untried(send(t, a, to("x.example"))))
	s.grant(a, "site:big", 1, 0)
	for _, domain := range []string{"x.example", "y.example", "x.example"} {
		require.Equal(t, queue.Delivered, send(t, a, to(domain))[0].Outcome, domain)
	}
	conns, bodies := h.count()
	require.Equal(t, []int{3, 3}, []int{conns, bodies})
	h.mu.Lock()
	defer h.mu.Unlock()
	quits := 0
	for _, line := range h.lines {
		if line == "QUIT" {
			quits++
		}
	}
	require.Equal(t, 2, quits)
}

var twoHosts = map[string][]netip.Addr{
	"a.mx": {netip.MustParseAddr("127.0.0.1")}, "b.mx": {netip.MustParseAddr("127.0.0.1")},
}

// oneSite is where all domains are.
type oneSite string

func (s oneSite) Learn(string, []Record) {}
func (s oneSite) Of(string) string       { return string(s) }

// TestMessagesPerConnectionOfALimit: a new connection for each two.
func TestMessagesPerConnectionOfALimit(t *testing.T) {
	h := newHop(t, nil)
	a := newAgent(t, Config{Limits: newGranted(t, routeKey(h)+" per-connection=2").Gates})
	for range 5 {
		require.Equal(t, queue.Delivered, send(t, a, job(h, "a@x"))[0].Outcome)
	}
	conns, _ := h.count()
	require.Equal(t, 3, conns)
}

// TestMessagesNeedTokens: no MAIL goes out without one, or when its time is over.
func TestMessagesNeedTokens(t *testing.T) {
	h := newHop(t, nil)
	s := newGranted(t, routeKey(h)+" rate=50/s")
	a := newAgent(t, Config{Limits: s.Gates})
	require.True(t, untried(send(t, a, job(h, "a@x"))))
	s.grant(a, routeKey(h), 0, 2)
	for range 2 {
		require.Equal(t, queue.Delivered, send(t, a, job(h, "a@x"))[0].Outcome)
	}
	require.True(t, untried(send(t, a, job(h, "a@x"))))
	s.grant(a, routeKey(h), 0, 1)
	gates := s.For(routeKey(h))
	j := job(h, "a@x")
	j.Limits.Gates, j.Limits.Pass = gates, limit.Begin(gates, 1)
	require.NotNil(t, j.Limits.Pass)
	s.now += limit.Lease
	require.True(t, untried(send(t, a, j)), "a process that was stopped does not use what it had")
	_, bodies := h.count()
	require.Equal(t, 2, bodies)
	require.Equal(t, 2, strings.Count(h.said(), "MAIL"))
}

// TestAnEndedShareEndsWhatRuns: attempts are broken off and idle connections closed.
func TestAnEndedShareEndsWhatRuns(t *testing.T) {
	h := newHop(t, map[string]string{"RCPT": hang})
	s := newGranted(t, routeKey(h)+" connections=5")
	a := newAgent(t, Config{Limits: s.Gates})
	require.True(t, untried(send(t, a, job(h, "a@x"))))
	s.grant(a, routeKey(h), 5, 0)
	done := make(chan []queue.Verdict)
	go func() { done <- a.Deliver(context.Background(), job(h, "a@x")) }()
	<-h.met
	require.Empty(t, s.Lapse(errors.New("over")), "not yet")
	s.now += limit.Lease
	require.Len(t, s.Lapse(errors.New("over")), 1)
	require.True(t, (<-done)[0].Untried)
	require.Eventually(t, func() bool { return len(s.Lapse(errors.New("over"))) == 0 }, 20*time.Second, time.Millisecond)
}

// TestASecondHostNeedsAToken: without one the word of the first host stands, and counts as an attempt.
func TestASecondHostNeedsAToken(t *testing.T) {
	h := newHop(t, map[string]string{"RCPT": "451 4.2.1 later"})
	s := newGranted(t, "domain:x.example rate=1/s")
	a := newAgent(t, Config{Port: h.port(), LoopbackHops: true, Limits: s.Gates,
		Resolver: names{mx: map[string][]Record{"x.example": {{Host: "a.mx"}, {Host: "b.mx", Preference: 1}}},
			addrs: twoHosts}})
	j := func() *queue.Job {
		j := jobTo("", "a@x.example")
		j.Domain = "x.example"
		return j
	}
	require.True(t, untried(send(t, a, j())))
	s.grant(a, "domain:x.example", 0, 1)
	v := send(t, a, j())
	require.False(t, v[0].Untried)
	require.Equal(t, "451 4.2.1 later", v[0].Reply)
	require.Equal(t, 1, strings.Count(h.said(), "MAIL"))
}
