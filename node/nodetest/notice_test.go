package nodetest

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/smtp"
)

// setLater changes settings, once the cluster has the version that knows them.
func (c *Cluster) setLater(t *testing.T, m *Member, s admin.Settings) {
	t.Helper()
	c.Eventually(20*time.Second, "no cluster version 2", func() bool {
		s, err := m.Client().Status(within(t, 5*time.Second))
		return err == nil && s.ClusterVersion >= 2
	})
	require.NoError(t, m.Client().SetSettings(within(t, 20*time.Second), admin.By{Who: "ann", Why: "a test"}, s))
}

// TestNoticesOnceAcrossFailovers: the owner of twenty messages dies while their host defers them, another one while it
// refuses them. Other nodes go on; the sender hears once of each delay and once of each failure.
func TestNoticesOnceAcrossFailovers(t *testing.T) {
	t.Parallel()
	c := New(t, Options{Tuning: Quick()})
	text := "[failure]\nSubject: failed {id}\n\nOur house regrets.\n{recipients}\n" +
		"[delay]\nSubject: late {id}\n\n{recipients}\n"
	c.setLater(t, c.Nodes[0], admin.Settings{
		DefaultDomain: "example.test", RetryRules: []string{"* first=1s max=1s"}, DelayNotice: new(int64(1)),
		NoticeTemplate: &text})
	var refuses, asked atomic.Bool
	dies := make(chan struct{}, 1)
	c.Sink.Answer(func(string) error {
		if asked.CompareAndSwap(true, false) {
			dies <- struct{}{}
		}
		if refuses.Load() {
			return smtp.NewReply(550, "5.1.1", "no such user")
		}
		return smtp.NewReply(451, "4.2.0", "try later")
	})
	const n = 20
	for i := range n {
		c.Nodes[1].MustSend("alice@example.test", fmt.Sprintf("x%d@far.example", i), Letter(fmt.Sprint("m", i)))
	}
	asked.Store(true) // by an attempt that is under way, whose verdict may or may not be taken
	<-dies
	c.Nodes[1].Kill()
	late := func() int { return len(c.noticed(t, "late ")) }
	c.Eventually(90*time.Second, "not all are late", func() bool { return late() >= n })

	c.Nodes[1].Start()
	c.Nodes[1].WaitReady()
	refuses.Store(true)
	asked.Store(true)
	<-dies
	c.Nodes[2].Kill()
	c.Eventually(90*time.Second, "not all have failed", func() bool { return len(c.noticed(t, "failed ")) >= n })
	c.Eventually(90*time.Second, "the queue is not empty", func() bool {
		s, err := c.Nodes[0].Client().Status(within(t, 5*time.Second))
		return err == nil && s.Queue.Messages == 0
	})
	for _, kind := range []string{"late ", "failed "} {
		all := c.noticed(t, kind)
		require.Len(t, all, n, "of each message")
		for id, times := range all {
			require.Equal(t, 1, times, "%s%s", kind, id)
		}
	}
}

// noticed counts alice's notices of one kind, by the id of the message that each is about.
func (c *Cluster) noticed(t *testing.T, kind string) map[string]int {
	t.Helper()
	subjects, err := c.Nodes[0].Subjects("alice")
	if err != nil {
		return nil // the mailbox is locked by a session of the node that died
	}
	all := map[string]int{}
	for subject, times := range subjects {
		if id, ok := strings.CutPrefix(subject, kind); ok {
			all[id] += times
		}
	}
	return all
}
