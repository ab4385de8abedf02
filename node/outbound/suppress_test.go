package outbound

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica/replicatest"
	"relay/queue"
)

// TestWhoGetsListed: an address gets on the list of a domain where a host refused just this recipient, as one that
// nobody has, and the mail was the domain's own: not a stranger's who forges its sender, nor one that stands for his.
func TestWhoGetsListed(t *testing.T) {
	w := ruledOutbound(t)
	w.Spool.replica = &timed{w.replica, replicatest.Start}
	w.do(t, spool.KindPutDomain, &pb.PutDomain{Create: true,
		Domain: &pb.Domain{Name: "example.test", SuppressMs: time.Hour.Milliseconds()}})
	const unknown, mine = "550 5.1.1 user unknown", "ann@example.test"
	listed := func(sender, by string, ours bool, change func(v *queue.Verdict)) (ok bool) {
		t.Helper()
		w.mailFrom(t, sender, by, ours)
		v := queue.Verdict{Ref: queue.Ref{ID: w.id}, Attempt: 1, Outcome: queue.Failed, Reply: unknown, ThisOne: true,
			At: replicatest.Start}
		change(&v)
		taken, err := w.Settle(t.Context(), []queue.Verdict{v}, nil)
		require.NoError(t, err)
		require.Equal(t, []queue.Taken{queue.Applied}, taken)
		require.NoError(t, w.replica.View(func(v spool.View) (err error) {
			_, ok, err = v.Suppressed("example.test", "r@example.org", replicatest.Start.UnixMilli())
			return err
		}))
		return ok
	}
	asIs := func(*queue.Verdict) {}
	require.False(t, listed(mine, "", false, asIs), "a stranger's")
	require.False(t, listed("", "ann@example.test", true, asIs))
	srs := "SRS0=aaaaaaaa=ab=far.example=bob@example.test"
	require.False(t, listed(srs, "", true, asIs), "forwarded mail of a trusted client")
	require.False(t, listed(srs, mine, true, asIs))
	require.False(t, listed(mine, mine, true, func(v *queue.Verdict) { v.ThisOne = false }), "at MAIL or DATA")
	for _, reply := range []string{
		"550 5.1.1 <ann@example.test>: Sender address rejected", "551 user not local; please authenticate",
		"553 5.1.3 invalid sender", "550 5.2.1 mailbox disabled for this message", "550 5.1.10", "556",
		"550 5.4.1 Recipient address rejected: Access denied", "5.1.1 no such user any more",
	} {
		require.False(t, listed(mine, mine, true, func(v *queue.Verdict) { v.Reply = reply }), reply)
	}
	require.True(t, listed(mine, "", true, asIs), "a trusted client's")

	w.suppressing.Store(true)
	w.mailFrom(t, mine, mine, true)
	_, r := w.loaded(t)
	require.Equal(t, queue.Refuse, r.Ruling.Act)
	w.mailFrom(t, srs, "", false)
	_, r = w.loaded(t)
	require.Nil(t, r.Ruling, "others' mail goes on")
}
