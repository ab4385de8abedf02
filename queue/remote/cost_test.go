package remote

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// blackHole is a name server that answers nothing. It tells of each question.
type blackHole struct {
	net.PacketConn
	mu    sync.Mutex
	names map[string]bool
	asked chan string // each name once
}

func newBlackHole(t *testing.T) *blackHole {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	h := &blackHole{PacketConn: c, names: map[string]bool{}, asked: make(chan string, 10_000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 2000)
		for {
			n, _, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			var m dns.Msg
			if m.Unpack(b[:n]) == nil && len(m.Question) == 1 {
				h.note(m.Question[0].Name)
			}
		}
	}()
	t.Cleanup(func() { _ = c.Close(); <-done })
	return h
}

func (h *blackHole) note(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.names[name] {
		h.names[name] = true
		h.asked <- name
	}
}

func (h *blackHole) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.names)
}

// However many strangers cause questions, only so many are asked at once, and
// what nobody waits for any more is not asked at all.
func TestQuestionsAreBounded(t *testing.T) {
	h := newBlackHole(t)
	r := resolver(t, h.LocalAddr().String())
	ask := func(from, to int) (end func()) {
		ctx, cancel := context.WithCancel(t.Context())
		var askers sync.WaitGroup
		for i := from; i < to; i++ {
			askers.Go(func() {
				_, err := r.TXT(ctx, fmt.Sprintf("n%d.example", i))
				assert.ErrorIs(t, err, ErrLookup)
			})
		}
		return func() { cancel(); askers.Wait() }
	}
	first := ask(0, maxAtOnce)
	for range maxAtOnce {
		<-h.asked
	}
	line := ask(maxAtOnce, 3*maxAtOnce)
	underWay := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.calls)
	}
	require.Eventually(t, func() bool { return underWay() == 3*maxAtOnce }, time.Minute, time.Millisecond)
	line()
	require.Equal(t, maxAtOnce, underWay())
	first()
	r.asking.Wait() // every question ended with those who asked
	require.Zero(t, underWay())
	require.Equal(t, maxAtOnce, h.count(), "those in line were not asked")
}

// Questions under way share sockets, and none is left when they have ended.
func TestQuestionsShareSockets(t *testing.T) {
	descriptors := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("no /proc here")
		}
		return len(all)
	}
	h := newBlackHole(t)
	r := resolver(t, h.LocalAddr().String())
	before := descriptors()
	ctx, cancel := context.WithCancel(t.Context())
	var askers sync.WaitGroup
	for i := range maxAtOnce {
		askers.Go(func() { _, _ = r.TXT(ctx, fmt.Sprintf("n%d.example", i)) })
	}
	for range maxAtOnce {
		<-h.asked
	}
	require.LessOrEqual(t, descriptors(), before+5)
	cancel()
	askers.Wait()
	r.asking.Wait()
	require.Zero(t, r.wires.open)
	require.Empty(t, r.wires.current)
}

// Answers find who has asked, in whatever order they come.
func TestSharedSocketsKeepAnswersApart(t *testing.T) {
	zone := map[string][]string{}
	for i := range 2000 {
		name := fmt.Sprintf("n%d.example.", i)
		zone[name+" TXT"] = []string{fmt.Sprintf("%s 60 IN TXT \"%s\"", name, name)}
	}
	r := resolver(t, newNameServer(t, zone).addr)
	wrong := make(chan string, 2000)
	var askers sync.WaitGroup
	for i := range 2000 {
		askers.Go(func() {
			name := fmt.Sprintf("n%d.example.", i)
			if all, err := r.TXT(t.Context(), name); err != nil || len(all) != 1 || all[0] != name {
				wrong <- fmt.Sprint(name, all, err)
			}
		})
	}
	askers.Wait()
	require.Empty(t, wrong)
}

// The questions that one network causes leave room for others.
func TestNetworksHaveTheirShareOfQuestions(t *testing.T) {
	h := newBlackHole(t)
	r := resolver(t, h.LocalAddr().String())
	ctx, cancel := context.WithCancel(t.Context())
	var askers sync.WaitGroup
	ask := func(network, name string) {
		askers.Go(func() { _, _ = r.TXT(ForClient(ctx, netip.MustParsePrefix(network)), name) })
	}
	for i := range 2 * maxAtOnce {
		ask("192.0.2.0/24", fmt.Sprintf("n%d.example", i))
	}
	for range maxPerNetwork {
		<-h.asked
	}
	ask("198.51.100.0/24", "other.example")
	require.Equal(t, "other.example.", <-h.asked)
	require.Equal(t, maxPerNetwork+1, h.count())
	cancel()
	askers.Wait()
	r.asking.Wait()
	require.Empty(t, r.shares.by)
	require.Equal(t, maxPerNetwork+1, h.count())
}

// A question ends with the last of those who wait for it, not with the first.
func TestQuestionEndsWithItsAskers(t *testing.T) {
	h := newBlackHole(t)
	r := resolver(t, h.LocalAddr().String())
	q := question{"x.example.", dns.TypeTXT}
	_, c, err := r.begin(q)
	require.NoError(t, err)
	_, same, _ := r.begin(q)
	require.Same(t, c, same)
	<-h.asked
	r.leave(q, c)
	select {
	case <-c.done:
		t.Fatal("somebody still waits")
	default:
	}
	r.leave(q, c)
	<-c.done
	require.ErrorIs(t, c.err, ErrLookup)
}

func TestTooManyQuestionsInLine(t *testing.T) {
	r := resolver(t, "127.0.0.1:1")
	for i := range maxAtOnce + maxInLine {
		r.calls[question{fmt.Sprint(i), dns.TypeA}] = &call{}
	}
	_, err := r.TXT(t.Context(), "x.example")
	require.ErrorIs(t, err, ErrLookup)
	require.ErrorContains(t, err, "too many questions")
}

func TestCacheIsBoundedInOctets(t *testing.T) {
	r := resolver(t, "127.0.0.1:1")
	txt := &dns.TXT{
		Hdr: dns.RR_Header{Name: "x.example.", Rrtype: dns.TypeTXT, Class: dns.ClassINET},
		Txt: strings.Split(strings.Repeat(strings.Repeat("x", 250)+",", 100), ","),
	}
	for i := range 3 * maxOctets / 25_000 {
		r.remember(question{fmt.Sprint(i, ".example."), dns.TypeTXT},
			answer{rrs: []dns.RR{txt}, until: time.Now().Add(time.Hour)})
	}
	sum := 0
	for q, a := range r.cache {
		require.Equal(t, a.weigh()+len(q.name), a.size)
		sum += a.size
	}
	require.Equal(t, sum, r.octets)
	require.LessOrEqual(t, sum, maxOctets)
	require.Greater(t, sum, maxOctets/2)

	// An answer that has expired goes, though nobody asks for it.
	for q, a := range r.cache {
		a.until = time.Now()
		r.cache[q] = a
	}
	r.swept = time.Time{}
	r.remember(question{"y.example.", dns.TypeTXT}, answer{until: time.Now().Add(time.Hour)})
	require.Len(t, r.cache, 1)
	require.Equal(t, r.cache[question{"y.example.", dns.TypeTXT}].size, r.octets)
}

func TestAbsurdAnswersAreRefused(t *testing.T) {
	long := `"` + strings.Repeat("x", 250) + `" `
	zone := map[string][]string{
		"large.example. TXT": {"large.example. 60 IN TXT " + strings.Repeat(long, 140)},
		"fair.example. TXT":  {"fair.example. 60 IN TXT " + strings.Repeat(long, 16)},
	}
	for i := range maxRecords + 1 {
		zone["many.example. A"] = append(zone["many.example. A"],
			fmt.Sprintf("many.example. 60 IN A 192.0.%d.%d", i/250, i%250))
	}
	s := newNameServer(t, zone)
	s.lie(func(m, _ *dns.Msg, network string) {
		if network == "udp" {
			m.Truncated, m.Answer = true, nil
		}
	})
	r := resolver(t, s.addr)
	_, err := r.TXT(t.Context(), "large.example")
	require.ErrorIs(t, err, ErrLookup)
	require.ErrorContains(t, err, "too much")
	_, err = r.IPv4(t.Context(), "many.example")
	require.ErrorIs(t, err, ErrLookup)
	all, err := r.TXT(t.Context(), "fair.example")
	require.NoError(t, err)
	require.Len(t, all, 1)
}
