package nodetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"relay/cluster/spool"
	"relay/node/admin"
)

// TestEveryRemovedMessageHasALine: also what goes by age, with its account, or
// as one of very many is named by id in one line of one node.
func TestEveryRemovedMessageHasALine(t *testing.T) {
	t.Parallel()
	const many = spool.MaxTakeOut + 1
	core, logs := observer.New(zapcore.InfoLevel)
	tuning := Quick()
	tuning.Lease, tuning.Margin = 4*time.Second, time.Second // no lapses on a busy machine
	tuning.Sweep = 200 * time.Millisecond
	tuning.ClockFirst = 500 * time.Millisecond
	c := New(t, Options{Log: zap.New(core), Tuning: tuning})
	ctx, m, by := within(t, 120*time.Second), c.Nodes[1], admin.By{Why: "she left"}
	api := m.Client()
	removed := func(user, who, why string, ids ...string) {
		t.Helper()
		lines := func() (all []string) {
			for _, e := range logs.FilterMessage("removed").All() {
				if l := e.ContextMap(); l["mailbox"] == user && l["who"] == who && l["why"] == why {
					all = append(all, l["id"].(string))
				}
			}
			return all
		}
		c.Eventually(time.Minute, "not all lines of "+user, func() bool { return len(lines()) >= len(ids) })
		require.ElementsMatch(t, ids, lines(), "each of them once")
	}
	put := func(user string, n int) (ids []string) {
		for i := range n {
			id, err := api.PutMail(ctx, by, user, admin.Time{}, strings.NewReader(fmt.Sprintf("Subject: %d\n\nbody\n", i)))
			require.NoError(t, err)
			ids = append(ids, id)
		}
		return ids
	}

	ids := put("bob@example.test", many)
	p, err := m.Login(ctx, "bob")
	require.NoError(t, err)
	for i := range many {
		require.NoError(t, p.Dele(ctx, i+1))
	}
	require.NoError(t, p.Quit(ctx))
	line(c, logs, "removed many", map[string]any{"mailbox": "bob@example.test", "count": int64(many)})
	removed("bob@example.test", "bob@example.test", "deleted by POP3", ids...)

	ids = put("bob@example.test", 2)
	_, err = api.RemoveUser(ctx, by, "bob@example.test", admin.DropOptions{})
	require.NoError(t, err)
	removed("bob@example.test", "admin", "account dropped: she left", ids...)

	second := int64(1)
	err = api.SetUser(ctx, by, "alice@example.test", admin.UserSet{Retention: &second})
	require.NoError(t, err)
	removed("alice@example.test", "", "past its retention", put("alice@example.test", 2)...)
}
