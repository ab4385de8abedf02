package nodetest

import (
	"context"
	"net/http"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/timetest"
	"relay/node/admin"
	"relay/pop3"
)

// maintainer is who drains nodes.
var maintainer = admin.By{Who: "test", Why: "maintenance"}

// at is what a node says of another one, or of itself.
func (m *Member) at(id string) (found admin.Node) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	api := m.Client()
	defer api.Close()
	if s, err := api.Status(ctx); err == nil {
		for _, n := range s.Nodes {
			if n.ID == id {
				found = n
			}
		}
	}
	return found
}

// readyz is what balancers see of a node; 0: it does not answer.
func (m *Member) readyz() int {
	resp, err := http.Get(m.Admin + "/readyz")
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// refused reports whether a node turns new clients away, by both protocols.
func (m *Member) refused(t *testing.T) bool {
	s, err := m.Dial(within(t, 20*time.Second))
	if err == nil {
		s.Close()
		return false
	}
	var reply *textproto.Error
	require.ErrorAs(t, err, &reply)
	require.Equal(t, 421, reply.Code)
	p, err := m.Login(within(t, 20*time.Second), "bob")
	if err == nil { // one server hears of it after the other
		_ = p.Close()
		return false
	}
	require.ErrorContains(t, err, "[SYS/TEMP] server is going out of service")
	return true
}

// goodbye reads the 421 that ends a connection.
func (s *Sender) goodbye(t *testing.T) {
	t.Helper()
	_, _, err := s.tp.ReadResponse(250)
	var reply *textproto.Error
	require.ErrorAs(t, err, &reply)
	require.Equal(t, 421, reply.Code)
	_, err = s.tp.ReadLine()
	require.Error(t, err)
}

// open are the clients of a node that is about to go out of service.
type open struct {
	idle, busy     *Sender
	reading, sleep *pop3.Client
}

func (m *Member) fill(t *testing.T, ctx context.Context) (o open) {
	var err error
	o.idle, err = m.Dial(ctx)
	require.NoError(t, err)
	t.Cleanup(o.idle.Close)
	o.busy, err = m.Dial(ctx)
	require.NoError(t, err)
	t.Cleanup(o.busy.Close)
	_, err = o.busy.say(250, "MAIL FROM:<a@far.example>")
	require.NoError(t, err)
	o.reading, err = m.Login(ctx, "alice")
	require.NoError(t, err)
	o.sleep, err = m.Login(ctx, "bob")
	require.NoError(t, err)
	require.NoError(t, o.sleep.Sleep(ctx))
	return o
}

// finish ends the transaction that is under way, and hears the 421 after it.
func (o *open) finish(t *testing.T) {
	t.Helper()
	for _, line := range []string{"250 RCPT TO:<alice@example.test>", "354 DATA", "250 x\r\n."} {
		code, line, _ := strings.Cut(line, " ")
		_, err := o.busy.say(map[string]int{"250": 250, "354": 354}[code], line)
		require.NoError(t, err)
	}
	o.busy.goodbye(t)
}

// TestDrainIsMoreThanAWord: a leader that is drained is not ready at once, serves
// new clients until the notice is over, lets open sessions end, has neither work
// nor the leadership then, and stays so over a restart until it is taken back.
func TestDrainIsMoreThanAWord(t *testing.T) {
	c := New(t, Options{Tuning: Quick()})
	ctx := within(t, 3*time.Minute)
	n := c.Leader()
	other := c.Nodes[0]
	if other == n {
		other = c.Nodes[1]
	}
	o := n.fill(t, ctx)
	const notice = 3 * time.Second
	began := time.Now()
	_, err := other.Client().Drain(ctx, maintainer, n.ID, admin.DrainOptions{Notice: notice})
	require.NoError(t, err)
	c.Eventually(time.Minute, "it is ready", func() bool { return n.readyz() == http.StatusServiceUnavailable })
	refused := n.refused(t)
	_, err = n.Send(ctx, "a@far.example", "bob@example.test", Letter("late"))
	if time.Since(began) < notice { // else the machine was too busy to tell
		require.False(t, refused, "the notice is not over")
		require.NoError(t, err, "the notice is not over")
	}
	require.Equal(t, admin.NodeDraining, other.at(n.ID).State)
	c.Eventually(time.Minute, "new clients are served", func() bool { return n.refused(t) })

	o.idle.goodbye(t)
	_, err = o.sleep.Reply()
	require.ErrorContains(t, err, "[SYS/TEMP]")
	_, _, err = o.reading.Stat(ctx)
	require.NoError(t, err, "a session may finish")
	require.Equal(t, admin.NodeDraining, other.at(n.ID).State, "clients are left")
	o.finish(t)
	require.NoError(t, o.reading.Quit(ctx))
	drained := func() bool {
		s := other.at(n.ID)
		return s.State == admin.NodeDrained && s.Drained && s.Role == admin.RoleFollower
	}
	c.Eventually(time.Minute, "it is never drained", drained)

	n.Stop()
	c.Eventually(time.Minute, "what is stopped is dead", func() bool { return other.at(n.ID).State == admin.NodeDead })
	require.True(t, other.at(n.ID).Drained)
	n.Start()
	c.Eventually(time.Minute, "the mark is gone after a restart", drained)
	require.True(t, n.refused(t))
	require.ErrorContains(t, n.Node().Ready(), "drained")
	_, err = other.Client().Drain(ctx, maintainer, n.ID, admin.DrainOptions{Off: true})
	require.NoError(t, err)
	n.WaitReady()
	c.Eventually(time.Minute, "it still refuses", func() bool { return !n.refused(t) })
	n.MustSend("a@far.example", "alice@example.test", Letter("back"))
	require.Equal(t, admin.NodeAlive, other.at(n.ID).State)
}

// TestStopGivesNotice: SIGTERM does as a drain does, in bounded time, and leaves
// no mark.
func TestStopGivesNotice(t *testing.T) {
	const notice = 1500 * time.Millisecond
	c := New(t, Options{Tuning: Quick(), Notice: notice, Grace: 20 * time.Second})
	ctx := within(t, 3*time.Minute)
	n, other := c.Nodes[0], c.Nodes[1]
	o := n.fill(t, ctx)
	stopped := make(chan time.Duration)
	began := time.Now()
	go func() { n.Stop(); stopped <- time.Since(began) }()
	c.Eventually(time.Minute, "it is ready", func() bool { return n.readyz() == http.StatusServiceUnavailable })
	if refused := n.refused(t); time.Since(began) < notice { // else the machine was too busy to tell
		require.False(t, refused)
	}
	c.Eventually(time.Minute, "new clients are served", func() bool { return n.refused(t) })
	o.idle.goodbye(t)
	o.finish(t)
	took := <-stopped
	require.Greater(t, took, notice)
	require.Less(t, took, notice+20*time.Second, "it waits for nobody when all have finished")
	require.False(t, other.at(n.ID).Drained)
	n.Start()
	n.WaitReady()
}

// TestLoginOutlivesADeadHolder: where the lock's holder is on a node that does not
// answer, a login waits for that node's session to end; where it answers the
// login hears [IN-USE] at once.
func TestLoginOutlivesADeadHolder(t *testing.T) {
	c := New(t, Options{Tuning: Quick()})
	ctx := within(t, 3*time.Minute)
	holder, other := c.Nodes[0], c.Nodes[1]
	held, err := holder.Login(ctx, "alice")
	require.NoError(t, err)
	defer held.Close()
	began, machine := time.Now(), timetest.Watch(t)
	_, err = other.Login(ctx, "alice")
	require.ErrorContains(t, err, "[IN-USE]")
	require.Less(t, time.Since(began), time.Second+4*machine.Lost(), "its node answers")
	holder.Kill()
	c.Eventually(time.Minute, "the dead node is not shown so", func() bool {
		s := other.at(holder.ID)
		return (s.State == admin.NodeSilent || s.State == admin.NodeDead) && s.SilentSeconds > 0 && s.UptimeSeconds == 0
	})
	p, err := other.Login(ctx, "alice")
	require.NoError(t, err, "not [IN-USE]")
	require.Less(t, time.Since(began), holderWithin+4*machine.Lost())

	// Without a majority too: no session ends then.
	c.Nodes[2].Kill()
	c.Eventually(time.Minute, "the second dead node is not shown", func() bool {
		return other.at(c.Nodes[2].ID).State == admin.NodeDead && other.at(holder.ID).State == admin.NodeDead
	})
	_ = p.Close()
}

const holderWithin = 6 * time.Second

// TestSessionsEndWithTheirAccount: a user who was disabled or removed, or got another
// password, is told so and cut at every node; others are not.
func TestSessionsEndWithTheirAccount(t *testing.T) {
	t.Parallel()
	c := New(t, Options{})
	ctx := within(t, 3*time.Minute)
	api := c.Nodes[0].Client()
	by := admin.By{Who: "test"}
	stays, err := c.Nodes[1].Login(ctx, "bob")
	require.NoError(t, err)
	set := func(u admin.UserSet) func() error {
		return func() error { return api.SetUser(ctx, by, "alice@example.test", u) }
	}
	on, off, secret, other := true, false, "secret", "other"
	for _, step := range []struct {
		before, do func() error
		told       string
	}{
		{set(admin.UserSet{Name: &other}), set(admin.UserSet{Disabled: &on}), "[SYS/PERM] your account was disabled"},
		{set(admin.UserSet{Disabled: &off}), set(admin.UserSet{Password: &other}), "[AUTH] your password was changed"},
		{set(admin.UserSet{Password: &secret}), func() error {
			_, err := api.RemoveUser(ctx, by, "alice@example.test", admin.DropOptions{})
			return err
		}, "[SYS/PERM] your account was removed"},
	} {
		require.NoError(t, step.before())
		p, err := c.Nodes[1].Login(ctx, "alice")
		require.NoError(t, err)
		require.NoError(t, set(admin.UserSet{Name: &secret})(), "which ends no session")
		require.NoError(t, p.Noop(ctx))
		require.NoError(t, step.do())
		_, err = p.Reply()
		require.ErrorContains(t, err, step.told)
	}
	require.NoError(t, stays.Noop(ctx))
}
