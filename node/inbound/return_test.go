package inbound

import (
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/replica/replicatest"
	"relay/smtp"
)

// TestReturnAddressesTakeBounces: a stranger gets nothing but a bounce through a return address to whom it stands for;
// who may relay may use it as any other address. An alias of such a name is an address as others are.
func TestReturnAddressesTakeBounces(t *testing.T) {
	w := newFollower(t)
	w.Must(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	w.Must(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	w.Must(spool.KindPutSecret, &pb.PutSecret{Secret: make([]byte, 32)})
	w.Must(spool.KindPutSettings, &pb.PutSettings{Settings: &pb.Settings{SrsDomain: "example.test"}})
	w.alias("srs0=team@example.test", "alice@example.test")
	var made string // the node itself has applied none of this yet
	require.NoError(t, w.Fake.View(func(v spool.View) (err error) {
		made, err = directory.Sender(v, "bob@far.example", replicatest.Start)
		return err
	}))
	require.Regexp(t, "^SRS0=.*@example.test$", made)
	rcpt := func(from string, trusted bool, to string) error {
		s := w.session(func(_ *receiver, p *smtp.Peer) { p.Trusted = trusted })
		require.NoError(t, s.Mail(t.Context(), from, nil))
		return s.Rcpt(t.Context(), to, nil)
	}
	require.NoError(t, rcpt("", false, made))
	require.NoError(t, rcpt("eve@evil.example", true, made))
	require.NoError(t, rcpt("eve@evil.example", false, "SRS0=team+x@example.test"))
	for _, to := range []string{made, "srs0+aaaaaaaa=ab=far.example=bob@EXAMPLE.test", "SRS1=a=b==c@example.test"} {
		err := rcpt("eve@evil.example", false, to)
		require.ErrorIs(t, err, replyBounceOnly, to)
		require.ErrorContains(t, err, "550 5.7.1 This return address takes bounces only")
	}
	require.ErrorIs(t, rcpt("eve@evil.example", false, "SRS0=a=b=c=d@else.example"), replyNoRelay)
}
