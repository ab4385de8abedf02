package inbound

import (
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/smtp"
)

// TestListedRecipients: a stranger may send to what the list of a routed domain has, in any case, tagged, and by the
// domain's name in its own script; what it has not is refused to everybody. No route for some senders lets anyone in.
func TestListedRecipients(t *testing.T) {
	w := newFollower(t)
	w.Must(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	w.Must(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	const domain = "xn--bcher-kva.example"
	for _, r := range []*pb.Route{
		{Domain: domain, Target: "smtp:h", Recipients: "list"},
		{Domain: "*", Target: "smtp:h", From: "@far.example"}, {Domain: "other.example", Target: "smtp:h", From: "<>"},
	} {
		w.Must(spool.KindPutRoute, &pb.PutRoute{Route: r})
	}
	w.Must(spool.KindPutRecipients, &pb.PutRecipients{Domain: domain, Add: []string{"ann@" + domain}})
	listing := true
	begin := func(from string, trusted bool) *session {
		s := w.session(func(b *receiver, p *smtp.Peer) {
			p.Trusted, b.listing = trusted, func() bool { return listing }
		})
		require.NoError(t, s.Mail(t.Context(), from, nil))
		return s
	}
	for _, trusted := range []bool{false, true} {
		s := begin("x@far.example", trusted)
		for _, to := range []string{"Ann@" + domain, "ann+tag@XN--bcher-kva.example", "ann@BÜCHER.example"} {
			require.NoError(t, s.Rcpt(t.Context(), to, nil), to)
		}
		for _, to := range []string{"bob@" + domain, "ann.b@bücher.example", "+@" + domain} {
			err := s.Rcpt(t.Context(), to, nil)
			require.Equal(t, mapError(directory.ErrNoUser), err, to)
			require.ErrorContains(t, err, "550 5.1.1")
		}
	}
	s := begin("x@far.example", false)
	for _, to := range []string{"ann@below." + domain, "ann@far.example", "ann@other.example"} {
		require.ErrorIs(t, s.Rcpt(t.Context(), to, nil), replyNoRelay, to)
	}
	require.ErrorIs(t, begin("", false).Rcpt(t.Context(), "ann@other.example", nil), replyNoRelay)
	listing = false // which a node may not know of yet
	require.NoError(t, begin("x@far.example", true).Rcpt(t.Context(), "bob@"+domain, nil), "unasked")
	require.ErrorContains(t, begin("x@far.example", false).Rcpt(t.Context(), "bob@"+domain, nil), "550 5.1.1")
}
