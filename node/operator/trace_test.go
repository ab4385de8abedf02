package operator

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
)

// Who sent this yesterday? Messages are found by client, login and HELO, between
// two times, and with a recipient only its lines are told.
func TestFindByWhoHandedItIn(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	accept := func(c *pb.Client, to ...string) string {
		id := w.newID()
		h := &pb.Accept{
			Inline: true, Epoch: w.epochs["n1"], Message: &pb.Message{
				Id: id[:], CreatedMs: w.rep.Clock.UnixMilli(), Sender: "s@x.test", Client: c,
			},
		}
		for _, r := range to {
			h.Recipients = append(h.Recipients, &pb.Recipient{Address: r})
		}
		w.do(spool.KindAccept, h, []byte("Subject: x\r\n\r\n"))
		return id.String()
	}
	one := accept(&pb.Client{Address: "192.0.2.7:25", Helo: "pc7.example", User: "alice@example.test"},
		"a@far.test", "b@far.test")
	w.pass(time.Hour)
	middle := w.rep.Clock
	two := accept(&pb.Client{Address: "[2001:db8::1]:25", Helo: "mx.other.example"}, "a@far.test")
	find := func(q admin.TraceQuery) (ids []string) {
		all, err := w.Find(ctx, q)
		require.NoError(t, err)
		for _, m := range all {
			ids = append(ids, m.ID)
		}
		return ids
	}
	for _, q := range []admin.TraceQuery{
		{Client: "192.0.2.7"}, {Client: "192.0.2.0/24"}, {Client: "192.0.2.*"}, {User: "alice"}, {User: "Alice@example.test"},
		{User: "@example.test"}, {Helo: "*.example", Until: admin.At(middle)}, {Helo: "PC7.example"}, {To: "b@far.test"},
	} {
		require.Equal(t, []string{one}, find(q), "%+v", q)
	}
	for _, q := range []admin.TraceQuery{
		{Client: "2001:db8::1"}, {Client: "2001:db8::/32"}, {Since: admin.At(middle)}, {Helo: "mx.*"},
	} {
		require.Equal(t, []string{two}, find(q), "%+v", q)
	}
	require.Equal(t, []string{two, one}, find(admin.TraceQuery{To: "a@far.test"}))
	require.Empty(t, find(admin.TraceQuery{User: "bob"}))

	all, err := w.Find(ctx, admin.TraceQuery{To: "b@far.test"})
	require.NoError(t, err)
	require.Len(t, all[0].Recipients, 1)
	require.Equal(t, "alice@example.test", all[0].Client.User)
	for _, e := range all[0].Events {
		require.Contains(t, []string{"", "b@far.test"}, e.Recipient)
	}
}
