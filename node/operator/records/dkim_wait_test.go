package records

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
)

// A rotated key signs when its record is in DNS, and the old one until then.
func TestARotatedKeyWaitsForItsRecord(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	in := admin.SignerAdd{Domain: "example.test", Algorithm: "ed25519", Rotate: true, Wait: true}
	old, err := w.AddSigner(ctx, theBy, in)
	require.NoError(t, err)
	require.False(t, old.Retired || old.Waiting, "nothing to wait for: there is no other key")
	_, err = w.AddSigner(ctx, theBy, in)
	require.ErrorContains(t, err, "cluster version 2")
	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c1", Name: "test", Version: 2}})
	w.pass(time.Minute)
	fresh, err := w.AddSigner(ctx, theBy, in)
	require.NoError(t, err)
	require.True(t, fresh.Waiting)
	signs := func() (names []string) {
		all, err := w.Signers(ctx)
		require.NoError(t, err)
		for _, k := range all {
			if !k.Retired {
				names = append(names, k.Selector)
			}
		}
		return names
	}
	require.Equal(t, []string{old.Selector}, signs())

	records := map[string][]string{}
	d := &DKIMWaits{signers: w, log: zap.NewNop(), txt: func(_ context.Context, name string) ([]string, error) {
		if all := records[name]; all != nil {
			return all, nil
		}
		return nil, errors.New("no such name")
	}}
	d.look(ctx)
	require.Equal(t, []string{old.Selector}, signs())
	records[fresh.Name] = []string{"v=DKIM1; p=somethingelse"}
	d.look(ctx)
	require.Equal(t, []string{old.Selector}, signs(), "another key's record")
	records[fresh.Name] = []string{"v=spf1 -all", strings.Replace(fresh.Record, "; p=", ";p= ", 1)}
	d.look(ctx)
	require.Equal(t, []string{fresh.Selector}, signs())

	w.pass(time.Minute)
	third, err := w.AddSigner(ctx, theBy, in)
	require.NoError(t, err)
	k, err := w.ActivateSigner(ctx, theBy, "example.test", third.Selector)
	require.NoError(t, err)
	require.False(t, k.Retired)
	require.Equal(t, []string{third.Selector}, signs())
	_, err = w.ActivateSigner(ctx, theBy, "example.test", "nosuch")
	require.ErrorIs(t, err, admin.ErrNotFound)
}
