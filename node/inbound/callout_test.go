package inbound

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/smtp"
)

// TestCallout: a stranger may send to a domain whose host takes the recipient, and to no domain below it; mail of those
// who may relay is taken unasked.
func TestCallout(t *testing.T) {
	w := newFollower(t)
	w.Must(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 2}})
	for _, r := range []*pb.Route{
		{Domain: "asked.example", Target: "smtp:h", Callout: true}, {Domain: "other.example", Target: "smtp:h"},
	} {
		w.Must(spool.KindPutRoute, &pb.PutRoute{Route: r})
	}
	var asked []string
	no := smtp.NewReply(550, "5.1.1", "nobody")
	begin := func(trusted bool) *session {
		s := w.session(func(b *receiver, p *smtp.Peer) {
			p.Trusted = trusted
			b.callout = func(_ context.Context, address string) error {
				asked = append(asked, address)
				if address == "nobody@asked.example" {
					return no
				}
				return nil
			}
		})
		require.NoError(t, s.Mail(t.Context(), "x@far.example", nil))
		return s
	}
	s := begin(false)
	require.NoError(t, s.Rcpt(t.Context(), "carol@Asked.example", nil))
	require.Equal(t, []string{"carol@Asked.example"}, asked)
	said, ok := errors.AsType[*smtp.Reply](s.Rcpt(t.Context(), "nobody@asked.example", nil))
	require.True(t, ok)
	require.Equal(t, &smtp.Reply{Code: 550, Enhanced: "5.1.1", Text: "nobody", Reason: "callout"}, said)
	for _, to := range []string{"carol@below.asked.example", "carol@other.example", "carol@far.example"} {
		require.ErrorIs(t, s.Rcpt(t.Context(), to, nil), replyNoRelay, to)
	}
	require.ErrorIs(t, s.Rcpt(t.Context(), "carol%far.example@asked.example", nil), replyNoRelay)
	require.Len(t, asked, 2)
	s = begin(true)
	require.NoError(t, s.Rcpt(t.Context(), "nobody@asked.example", nil))
	require.Len(t, asked, 2)
}
