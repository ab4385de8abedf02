package nodetest

import (
	"bufio"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"relay/node/admin"
	"relay/node/config"
	"relay/smtp"
)

const (
	day  = 24 * time.Hour
	late = 5 * time.Second // how late mail may be at most, and how near a clock is taken for right
)

// wrongClocks is a cluster whose clocks are set wrong. All the while alice has
// mail that is kept for five days, and a message waits that its destination
// puts off.
type wrongClocks struct {
	*Cluster
	t     *testing.T
	sent  int
	tries atomic.Int64 // of the message that waits
}

func newWrongClocks(t *testing.T, nodes int, more ...func(int, *config.Config)) *wrongClocks {
	tuning := Lasting()
	tuning.Sweep = 200 * time.Millisecond
	const soon, retry = 500 * time.Millisecond, config.Duration(100 * time.Millisecond)
	tuning.ClockFirst, tuning.ClockAhead, tuning.ClockBehind = soon, soon, soon
	w := &wrongClocks{t: t, Cluster: New(t, Options{
		Nodes: nodes, Tuning: tuning,
		Configure: func(i int, c *config.Config) {
			c.Delivery.RetryFirst, c.Delivery.RetryMax = retry, retry
			for _, set := range more {
				set(i, c)
			}
		},
	})}
	w.keep("alice@example.test", 5*day)
	w.Nodes[0].MustSend("far@far.example", "alice@example.test", Letter("kept"))
	w.Sink.Answer(func(to string) error {
		if strings.HasPrefix(to, "slow@") {
			w.tries.Add(1)
			return &smtp.Reply{Code: 451, Enhanced: "4.2.1", Text: "come again"}
		}
		return nil
	})
	w.Nodes[0].MustSend("alice@example.test", "slow@slow.example", Letter("slow"))
	return w
}

// keep says how long an account's mail is kept.
func (w *wrongClocks) keep(user string, d time.Duration) {
	seconds := int64(d.Seconds())
	set := admin.UserSet{Retention: &seconds}
	err := w.Nodes[0].Client().SetUser(within(w.t, 10*time.Second), admin.By{Why: "test"}, user, set)
	require.NoError(w.t, err)
}

func (w *wrongClocks) messages(user string) int {
	u, err := w.Nodes[0].Client().User(within(w.t, 10*time.Second), user)
	require.NoError(w.t, err)
	return int(u.Messages)
}

// mail sends through each node, and all of it has to arrive in time.
func (w *wrongClocks) mail() {
	w.t.Helper()
	for _, m := range w.Nodes {
		w.sent++
		letter := Letter(fmt.Sprintf("remote %d", w.sent))
		w.Eventually(time.Minute, "mail is not taken", func() bool {
			_, err := m.Send(within(w.t, 3*time.Minute), "alice@example.test", "x@far.example", letter)
			if !IsTemporary(err) {
				require.NoError(w.t, err)
			}
			return err == nil
		})
	}
	require.NoError(w.t, w.Sink.Wait(within(w.t, late), w.sent), "%d of %d have arrived", len(w.Sink.Got()), w.sent)
}

// retries returns when the message that waits has been tried twice more.
func (w *wrongClocks) retries() {
	w.t.Helper()
	before := w.tries.Load()
	w.Eventually(late, "what was put off is not tried in time", func() bool { return w.tries.Load() >= before+2 })
}

// set makes the clocks of some nodes wrong while mail goes, and right again. It
// tells what the cluster must say meanwhile.
func (w *wrongClocks) set(by time.Duration, wrong ...*Member) {
	w.t.Helper()
	began := time.Now()
	for _, m := range wrong {
		m.Skew(by)
	}
	w.mail()
	w.retries()
	var state time.Duration // how far the cluster's time is away from the right one
	if 2*len(wrong) > len(w.Nodes) && by.Abs() > time.Minute {
		state = by // a majority is believed
	}
	said := w.says(state)
	require.WithinDuration(w.t, time.Now().Add(state), w.Nodes[0].Node().Cluster().Now(), late)
	if len(w.Nodes) == 3 && len(wrong) == 1 && by.Abs() > time.Minute {
		w.Eventually(time.Minute, "a node leads whose clock is wrong", func() bool { return w.Leader() != wrong[0] })
	}
	w.mail()
	require.Equal(w.t, 1, w.messages("alice@example.test"), "mail is deleted early, or there is a report")
	for _, m := range wrong {
		m.Skew(0)
	}
	w.mail()
	w.retries()
	w.says(0)
	w.WaitHealthy()
	require.WithinDuration(w.t, time.Now(), w.Nodes[0].Node().Cluster().Now(), late)
	w.t.Logf("%s on %s: %.1f s, %q", by, wrong, time.Since(began).Seconds(), said)
}

// says waits until status names the nodes whose clocks are wrong, and no others,
// and their metrics have the differences.
func (w *wrongClocks) says(state time.Duration) (said []string) {
	w.t.Helper()
	var why string
	ok := poll(time.Minute, func() bool {
		s, err := w.Nodes[0].Client().Status(within(w.t, 5*time.Second))
		if err != nil {
			why = err.Error()
			return false
		}
		said = clockProblems(s)
		why = w.differs(said, state)
		return why == ""
	})
	require.True(w.t, ok, why)
	return said
}

func clockProblems(s *admin.Status) (said []string) {
	for _, p := range s.Problems {
		if strings.Contains(p, "'s clock is ") {
			said = append(said, p)
		}
	}
	return said
}

// differs tells what is not said yet, or is said without reason.
func (w *wrongClocks) differs(said []string, state time.Duration) string {
	want := 0
	for _, m := range w.Nodes {
		off := time.Duration(m.skew.Load()) - state
		if got := offsetMetric(w.t, m); (got - off).Abs() > late {
			return fmt.Sprintf("%s: the metric is %s, not %s", m.ID, got, off)
		}
		if (off.Abs() - late).Abs() < time.Second {
			if contains(said, clockWords(m.ID, off)) {
				want++ // just near enough, or just not
			}
			continue
		}
		if off.Abs() <= late {
			continue
		}
		want++
		if !contains(said, clockWords(m.ID, off)) {
			return fmt.Sprintf("%s is off by %s, but status says %q", m.ID, off, said)
		}
	}
	if len(said) != want {
		return fmt.Sprintf("%q is said of %d wrong clocks", said, want)
	}
	return ""
}

// clockWords are what status may say of a clock: it is measured to a few seconds.
func clockWords(id string, off time.Duration) (words []string) {
	way := "ahead of"
	if off < 0 {
		way = "behind"
	}
	for d := -late; d <= late; d += time.Second {
		words = append(words, fmt.Sprintf("node %s's clock is %s %s the cluster's", id, off.Abs()+d, way))
	}
	return words
}

func contains(said, words []string) bool {
	for _, s := range said {
		for _, w := range words {
			if s == w {
				return true
			}
		}
	}
	return false
}

func offsetMetric(t *testing.T, m *Member) time.Duration {
	lines := bufio.NewScanner(strings.NewReader(metrics(t, m)))
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), "relay_clock_offset_seconds "); ok {
			s, err := strconv.ParseFloat(value, 64)
			require.NoError(t, err)
			return time.Duration(s * float64(time.Second))
		}
	}
	require.Fail(t, "no relay_clock_offset_seconds", m.ID)
	return 0
}

// end looks at everything again when all clocks are right.
func (w *wrongClocks) end() {
	w.t.Helper()
	w.Sink.Answer(nil)
	require.NoError(w.t, w.Sink.Wait(within(w.t, late), w.sent+1), "what was put off is not tried in time")
	arrived := map[string]int{}
	for _, d := range w.Sink.Got() {
		arrived[SubjectOf(d.Body)]++
	}
	require.Len(w.t, arrived, w.sent+1, "each once")
	kept, err := w.Nodes[len(w.Nodes)-1].Subjects("alice@example.test")
	require.NoError(w.t, err)
	require.Equal(w.t, map[string]int{"kept": 1}, kept)
	w.WaitHealthy()
	w.Verify()
}

// followers of the leader that is now.
func (w *wrongClocks) followers() (all []*Member) {
	leader := w.Leader()
	for _, m := range w.Nodes {
		if m != leader {
			all = append(all, m)
		}
	}
	return all
}

// skews are how wrong clocks are in these tests; with -short only the first.
func skews(more ...time.Duration) []time.Duration {
	all := append([]time.Duration{-2 * time.Hour, 2 * time.Hour, -10 * day, 10 * day, -45 * time.Second}, more...)
	if testing.Short() {
		return all[:1]
	}
	return all
}

// TestWrongClocksDelayNothing: whichever clocks of three nodes step while they
// run, mail goes on, status and metrics name the wrong ones, and all is well
// when they are right again.
func TestWrongClocksDelayNothing(t *testing.T) {
	t.Parallel()
	w := newWrongClocks(t, 3)
	for _, by := range skews(45*time.Second, 5*time.Second, -5*time.Second, time.Second, -time.Second) {
		w.set(by, w.followers()[0])
		w.set(by, w.Leader())
		w.set(by, w.Leader(), w.followers()[0])
	}
	w.end()
}

// TestWrongClocksOfTwoNodes: of two nobody knows who is right, so the cluster's
// time runs on as it is until both agree.
func TestWrongClocksOfTwoNodes(t *testing.T) {
	t.Parallel()
	w := newWrongClocks(t, 2)
	for _, by := range skews() {
		w.set(by, w.followers()[0])
		w.set(by, w.Leader())
		w.set(by, w.Nodes...)
	}
	w.end()
}

// TestAWrongClockOfOneNode: a node alone goes by its own clock.
func TestAWrongClockOfOneNode(t *testing.T) {
	t.Parallel()
	w := newWrongClocks(t, 1)
	for _, by := range skews() {
		w.set(by, w.Nodes[0])
	}
	w.end()
}

// TestNothingIsDeletedEarly: mail that is kept for five days is there after the
// leader's clock, and then all clocks, were ten days ahead for some seconds.
func TestNothingIsDeletedEarly(t *testing.T) {
	t.Parallel()
	w := newWrongClocks(t, 3)
	w.keep("bob@example.test", time.Second)
	leader := w.Leader()
	leader.Skew(10 * day)
	w.says(0)
	for i := range 2 { // what is old by the right time goes: the sweeps do run
		w.Nodes[i].MustSend("far@far.example", "bob@example.test", Letter("short-lived"))
		w.Eventually(time.Minute, "nothing is swept", func() bool { return w.messages("bob@example.test") == 0 })
	}
	require.Equal(t, 1, w.messages("alice@example.test"))
	for _, m := range w.Nodes {
		m.Skew(10 * day)
	}
	w.says(10 * day)
	now := w.Nodes[0].Node().Cluster().Now
	until := now().Add(3 * time.Second)
	w.Eventually(time.Minute, "the time stands still", func() bool { return now().After(until) })
	w.mail()
	require.Equal(t, 1, w.messages("alice@example.test"))
	for _, m := range w.Nodes {
		m.Skew(0)
	}
	w.says(0)
	w.mail()
	w.retries()
	w.end()
}

// TestMailForLaterDuringAJumpBack: a message that is to wait for two seconds waits for
// them, and not for ten days, where all clocks were ahead when it came.
func TestMailForLaterDuringAJumpBack(t *testing.T) {
	t.Parallel()
	submission := freeAddr(t)
	w := newWrongClocks(t, 3, func(i int, c *config.Config) {
		if i == 0 {
			s := config.NewSMTP()
			s.Listen, s.Role = submission, config.RoleSubmission
			c.SMTP = append(c.SMTP, s)
		}
	})
	for _, m := range w.Nodes {
		m.Skew(10 * day)
	}
	w.says(10 * day)
	const hold = 2 * time.Second
	d := talkTo(t, submission)
	d.play(loginAlice, "S: 235")
	came := time.Now()
	d.play(append([]string{"C: MAIL FROM:<alice@example.test> HOLDFOR=2", "S: 250", "C: RCPT TO:<x@far.example>", "S: 250",
		"C: RCPT TO:<bob@example.test>", "S: 250"}, letter("later")...)...)
	w.sent++
	for _, m := range w.Nodes {
		m.Skew(0)
	}
	w.says(0)
	back := time.Now()
	require.NoError(t, w.Sink.Wait(within(t, hold+late), w.sent), "it waits for too long")
	w.Eventually(hold+late, "the mailbox waits for too long", func() bool { return w.messages("bob@example.test") == 1 })
	require.GreaterOrEqual(t, time.Since(came), hold)
	t.Logf("released %.1f s after the clocks were right", time.Since(back).Seconds())
	w.end()
}

// A node whose clock is over five seconds off says so in its log, and says when it is
// right again.
func TestAWrongClockIsNamedInTheLog(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	c := New(t, Options{Tuning: Quick(), Nodes: 3, Log: zap.New(core)})
	var m *Member
	for _, n := range c.Nodes {
		if n != c.Leader() {
			m = n
		}
	}
	m.Skew(9 * time.Second)
	said := "cluster: node " + m.ID + "'s clock is 9s ahead of the cluster's: set it, and look at what sets it (NTP)"
	c.Eventually(time.Minute, "no line", func() bool { return logs.FilterMessage(said).Len() > 0 })
	entry := logs.FilterMessage(said).All()[0]
	require.Equal(t, zap.WarnLevel, entry.Level)
	require.True(t, strings.HasPrefix(entry.LoggerName, m.ID), entry.LoggerName)
	m.Skew(0)
	line(c, logs, "cluster: this node's clock agrees with the cluster's again", nil)
}
