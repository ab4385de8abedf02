package spool_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// old is a message to import, with its body, key and unique id.
type old struct {
	id              byte
	key, body, uidl string
}

func importOf(epoch uint64, all ...old) (*pb.Import, []byte) {
	h := &pb.Import{Admin: &pb.Admin{Who: "op"}, Mailbox: alice}
	var body []byte
	for _, one := range all {
		a := acceptOf(newID(one.id), epoch, nil, alice)
		a.Message.Size, a.Drops[0].Uidl = uint64(len(one.body)), one.uidl
		h.Messages = append(h.Messages, &pb.Old{Key: []byte(one.key), Accept: a})
		body = append(body, one.body...)
	}
	return h, body
}

func uidls(t *testing.T, r *replica) (all []string) {
	box, _, err := r.view().Mailbox(alice)
	require.NoError(t, err)
	require.NoError(t, r.view().Entries(box.Box, 0, func(uid uint64, e *pb.Entry) bool {
		all = append(all, fmt.Sprintf("%d %d %s", uid, e.Size, e.Uidl))
		return true
	}))
	return all
}

// TestImportOnceAKey: a message goes in once a key and month, whatever is proposed
// again, also after its user has deleted it.
func TestImportOnceAKey(t *testing.T) {
	r := newSecond(t)
	epoch := r.register("n1", "a")
	r.user(alice)
	h, body := importOf(epoch, old{1, "a", "one", ""}, old{2, "b", "three", ""}, old{3, "a", "one", ""})
	for n := range 2 { // the same frame again answers the same
		res := r.do(spool.KindImport, h, body)
		require.Equal(t, []pb.Code{pb.Code_OK, pb.Code_OK, pb.Code_DUPLICATE}, res.Codes)
		require.EqualValues(t, 2-2*n, res.Count)
	}
	require.EqualValues(t, 2, r.counter(spool.CountMailboxMessages))
	lock := r.do(spool.KindLock, &pb.TakeLock{Mailbox: alice, Node: "n1", Epoch: epoch, Session: "s"})
	r.do(spool.KindRemove, &pb.Remove{Mailbox: alice, Epoch: epoch, Token: lock.Token, Uids: []uint64{1, 2}})
	r.pass(3 * time.Hour)
	again, body := importOf(epoch, old{4, "a", "one", ""})
	require.Equal(t, []pb.Code{pb.Code_DUPLICATE}, r.do(spool.KindImport, again, body).Codes)
	olds, err := r.view().Olds()
	require.NoError(t, err)
	first, err := r.view().Old(olds, []byte("a"))
	require.NoError(t, err)
	one := newID(1)
	require.Equal(t, one[:], first)

	r.now = r.now.Add(29 * 24 * time.Hour)
	r.jump(29*24*time.Hour, 0)
	require.Equal(t, []pb.Code{pb.Code_DUPLICATE}, r.do(spool.KindImport, again, body).Codes, "within a month")
	r.now = r.now.Add(2 * 24 * time.Hour)
	r.jump(2*24*time.Hour, 0)
	require.Equal(t, []pb.Code{pb.Code_OK}, r.do(spool.KindImport, again, body).Codes, "after a month")
	r.jump(61*24*time.Hour, 0)
	for range 200 {
		r.pass(time.Hour)
		r.do(spool.KindSweep, &pb.Sweep{Limit: 10, Ages: true})
	}
	require.Zero(t, countKeys(r, 'I'), "what is too old is forgotten")
}

// TestImportOrder: a message that does not fit ends an import, and nothing behind it
// goes in.
func TestImportOrder(t *testing.T) {
	r := newSecond(t)
	epoch := r.register("n1", "a")
	r.user(alice)
	h, body := importOf(epoch, old{1, "a", "one", ""}, old{2, "b", "large", ""}, old{3, "c", "x", ""})
	h.Messages[1].Accept.Drops[0].QuotaMessages = 1
	res := r.do(spool.KindImport, h, body)
	require.Equal(t, []pb.Code{pb.Code_OK, pb.Code_OVER_QUOTA}, res.Codes)
	require.EqualValues(t, 1, r.counter(spool.CountMailboxMessages))
	h.Messages = h.Messages[1:]
	res = r.do(spool.KindImport, h, body)
	require.Equal(t, pb.Code_INVALID, r.do(spool.KindImport, h, body[:3]).Code, "shorter than its messages")
	require.Equal(t, []pb.Code{pb.Code_OVER_QUOTA}, res.Codes)
}

// TestImportIsOneAuditLine: an import of many commands is one line, with its count.
func TestImportIsOneAuditLine(t *testing.T) {
	r := newSecond(t)
	epoch := r.register("n1", "a")
	r.user(alice)
	var line uint64
	for n := range 3 {
		h, body := importOf(epoch, old{byte(2 * n), string(rune('a' + n)), "x", ""},
			old{byte(2*n + 1), string(rune('A' + n)), "x", ""})
		h.Line = line
		line = r.do(spool.KindImport, h, body).Token
		require.NotZero(t, line)
	}
	var lines []string
	require.NoError(t, r.view().Audits(0, func(a *pb.Audit) bool {
		if strings.HasPrefix(a.What, "mailbox import") {
			lines = append(lines, a.Who+" "+a.What)
		}
		return true
	}))
	require.Equal(t, []string{"op mailbox import " + alice + ", messages: 6"}, lines)
}

// TestUniqueIDs: a unique id is one message's; it can be given again when that one
// is gone, and is never one that the box would make.
func TestUniqueIDs(t *testing.T) {
	r := newSecond(t)
	epoch := r.register("n1", "a")
	r.user(alice)
	box, _, err := r.view().Mailbox(alice)
	require.NoError(t, err)
	own := spool.UidlPrefix(box.Box) + "1"
	h, body := importOf(epoch, old{1, "a", "one", "UID1-9"}, old{2, "b", "two", "UID1-9"}, old{3, "c", "six", own},
		old{4, "d", "ten", "with space"}, old{5, "e", "one", strings.Repeat("x", 71)},
		old{6, "f", "one", strings.Repeat("~", 70)})
	res := r.do(spool.KindImport, h, body)
	taken := pb.Code_EXISTS
	require.Equal(t, []pb.Code{pb.Code_OK, taken, taken, taken, taken, pb.Code_OK}, res.Codes)
	size := len("one") + len("Delivered-To: \r\n") + len(alice)
	require.Equal(t, []string{
		fmt.Sprintf("1 %d UID1-9", size), fmt.Sprintf("2 %d %s", size, strings.Repeat("~", 70)),
	}, uidls(t, r))

	lock := r.do(spool.KindLock, &pb.TakeLock{Mailbox: alice, Node: "n1", Epoch: epoch, Session: "s"})
	r.do(spool.KindRemove, &pb.Remove{Mailbox: alice, Epoch: epoch, Token: lock.Token, Uids: []uint64{1}})
	h, body = importOf(epoch, old{7, "g", "two", "UID1-9"})
	require.Equal(t, []pb.Code{pb.Code_OK}, r.do(spool.KindImport, h, body).Codes)
	uid, ok, err := r.view().Uidl(box.Box, "UID1-9")
	require.NoError(t, err)
	require.True(t, ok)
	require.EqualValues(t, 3, uid)
}
