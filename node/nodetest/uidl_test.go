package nodetest

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

// TestKeptUniqueIDsOverASnapshot: a node that joins by a snapshot shows messages
// under the unique ids that they were imported with, also after a restart, and
// gives none of them to another message.
func TestKeptUniqueIDsOverASnapshot(t *testing.T) {
	t.Parallel()
	tuning := Quick()
	tuning.LogBytes, tuning.Trailing = 256<<10, 16
	c := New(t, Options{Tuning: tuning})
	ctx, late := within(t, 120*time.Second), c.Nodes[2]
	put := func(m *Member, uidls ...string) (outcomes []string) {
		t.Helper()
		n := 0
		res, err := m.Client().ImportMail(ctx, admin.By{Why: "test"}, "alice@example.test", admin.ImportOptions{},
			func() (*admin.OldMessage, error) {
				if n == len(uidls) {
					return nil, io.EOF
				}
				n++
				text := "Subject: " + m.ID + uidls[n-1] + "\r\n\r\nbody\r\n"
				return &admin.OldMessage{UIDL: uidls[n-1], Content: strings.NewReader(text)}, nil
			})
		require.NoError(t, err)
		require.Nil(t, res.Stopped)
		for _, one := range res.Messages {
			outcomes = append(outcomes, one.Outcome)
		}
		return outcomes
	}
	show := func(m *Member) (uids []string) {
		t.Helper()
		p, err := m.Login(ctx, "alice")
		require.NoError(t, err)
		require.NoError(t, p.UIDL(ctx, func(_ int, uid []byte) { uids = append(uids, string(uid)) }))
		require.NoError(t, p.Quit(ctx))
		return uids
	}
	stored := admin.ImportStored
	require.Equal(t, []string{stored, stored, stored}, put(c.Nodes[0], "0001-kept", "", "UID7-1293"))
	had := show(c.Nodes[0])
	require.Equal(t, []string{"0001-kept", "UID7-1293"}, []string{had[0], had[2]})
	s, err := c.Nodes[0].Node().Cluster().Status(ctx)
	require.NoError(t, err)
	last := s.LastIndex

	late.Kill()
	large := Letter("large") + strings.Repeat("0123456789abcdef0123456789abcdef\r\n", 3000)
	c.Eventually(time.Minute, "the log is not shortened", func() bool {
		c.Nodes[0].MustSend("x@far.example", "bob@example.test", large)
		s, err := c.Leader().Node().Cluster().Status(ctx)
		return err == nil && s.FirstIndex > last
	})
	late.Wipe(c.Nodes[0])
	late.Start()
	late.WaitReady()
	require.Equal(t, had, show(late), "after the snapshot")
	require.Equal(t, []string{admin.ImportTaken, stored}, put(late, "UID7-1293", "0002-kept"))
	late.Stop()
	late.Start()
	late.WaitReady()
	require.Equal(t, append(had, "0002-kept"), show(late), "after a restart")
	require.Equal(t, append(had, "0002-kept"), show(c.Nodes[1]))
	c.Verify()
}
