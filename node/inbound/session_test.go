package inbound

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/smtp"
)

// A node that can not keep mail says so alike to new connections and on those
// that are open.
func TestNotReady(t *testing.T) {
	why := errors.New("no leader")
	b := &receiver{ready: func(context.Context) error { return why }, room: spacious{}}
	var r *smtp.Reply
	_, err := b.NewSession(context.Background(), &smtp.Peer{})
	require.ErrorAs(t, err, &r)
	require.Equal(t, [2]any{421, "4.3.2"}, [2]any{r.Code, r.Enhanced})
	s := &session{receiver: b, peer: &smtp.Peer{}}
	require.ErrorAs(t, s.Mail(context.Background(), "a@example.test", nil), &r)
	require.Equal(t, [2]any{451, "4.3.2"}, [2]any{r.Code, r.Enhanced})
	require.Equal(t, why, r.Cause)
}

// An address literal is this machine's as deliveries see it, whatever its form.
func TestOwnLiteral(t *testing.T) {
	asked := 0
	s := &session{peer: &smtp.Peer{Local: netip.MustParseAddrPort("198.51.100.1:25")},
		receiver: &receiver{log: zap.NewNop(), own: func() ([]netip.Addr, error) {
			asked++
			return []netip.Addr{netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("2001:db8::77")}, nil
		}}}
	for literal, own := range map[string]bool{
		"[198.51.100.1]": true, "[192.0.2.77]": true, "[IPv6:2001:db8::77]": true, "[IPv6:2001:DB8:0::77]": true,
		"[IPv6:::ffff:192.0.2.77]": true,
		"[192.0.2.78]":             false, "[IPv6:2001:db8::78]": false, "[nonsense]": false, "[]": false, "[IPv6:]": false,
	} {
		require.Equal(t, own, s.ownLiteral(literal), literal)
	}
	require.NotZero(t, asked)
	s.own = func() ([]netip.Addr, error) { return nil, errors.New("not allowed") }
	require.False(t, s.ownLiteral("[192.0.2.77]"))
	require.True(t, s.ownLiteral("[198.51.100.1]"), "that the client has connected to")
}

// TestMayUse: the addresses a session may send as.
func TestMayUse(t *testing.T) {
	w := newWorld(t)
	w.Put(&pb.Account{Address: "bob@example.test"}, true)
	w.alias("postmaster@example.test", "alice")
	w.Must(spool.KindPutAlias, &pb.PutAlias{Alias: &pb.Alias{
		Address: "team@example.test", Targets: []string{"alice", "bob", "x@far.test"},
	}})
	w.Change(func(a *pb.Account) { a.Senders = []string{"sales@far.test", "@all.test"} })
	s := &session{receiver: &receiver{replica: w}, peer: &smtp.Peer{User: "alice@example.test"}, account: w.Account()}
	checkSender := func(from string) error { return w.View(func(v spool.View) error { return s.checkSender(v, from) }) }
	for from, may := range map[string]bool{
		"": true, "alice@example.test": true, "Alice+x@Example.TEST": true, "postmaster@example.test": true,
		"sales@far.test": true, "SALES@FAR.test": true,
		"any@all.test": true, "bob@example.test": false, "team@example.test": false, "alice@far.test": false,
		"x@sub.all.test": false, "alice": false,
	} {
		err := checkSender(from)
		require.Equal(t, may, err == nil, "%s: %v", from, err)
	}
	s.account.Senders = []string{"*"}
	require.NoError(t, checkSender("bob@example.test"))
	s.account, s.peer.User = nil, ""
	require.NoError(t, checkSender("bob@example.test"), "who is not logged in is bound by nothing here")
}
