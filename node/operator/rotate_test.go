package operator

import (
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster"
	"relay/node/admin"
)

func TestRotateCA(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	change, err := w.RotateCA(ctx, theBy, admin.RotateOptions{DryRun: true})
	require.NoError(t, err)
	require.Contains(t, change.Effects[0], "new CA")
	require.Zero(t, w.members.rotates.Step, "a dry run changes nothing")
	_, err = w.RotateCA(ctx, theBy, admin.RotateOptions{Without: []string{"n9"}})
	require.Error(t, err, "there is no such node")
	_, err = w.RotateCA(ctx, theBy, admin.RotateOptions{})
	require.NoError(t, err)

	w.members.rotates = cluster.Rotation{Step: 1, Waits: []string{"n3"}}
	for i := range w.members.status.Members {
		if m := &w.members.status.Members[i]; m.ID == "n3" {
			m.Live = false
		}
	}
	s, err := w.Status(ctx)
	require.NoError(t, err)
	require.Equal(t, "the CA changes, step 1 of 2: waits for n3", s.Rotation)
	require.Contains(t, s.Problems, "the rotation of the CA waits for node n3: start it, "+
		"or go on without it by 'relayctl cluster rotate-ca --without n3'")
}
