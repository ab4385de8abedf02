package login

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	pb "relay/cluster/spool/spoolpb"
)

// Or somebody who repeats himself, uncounted, could keep all others waiting.
func TestSameWrongPasswordIsNotHashed(t *testing.T) {
	home := netip.MustParseAddr("192.0.2.7")
	p, err := newPasswords(cheapHash)
	require.NoError(t, err)
	for _, a := range []*pb.Account{nil, {Address: "a@example.test", Password: p.dummyHash}} {
		v, err := p.login(t.Context(), Attempt{From: home, Mechanism: "USER", User: "a", Secret: "old"}, a)
		require.NoError(t, err)
		require.Equal(t, Wrong, v)
	}
	p.hashSlots <- struct{}{}
	p.hashSlots <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, a := range []*pb.Account{nil, {Address: "a@example.test", Password: p.dummyHash}} {
		for mechanism, want := range map[string]Verdict{"USER": Wrong, "PLAIN": WrongAgain} {
			v, err := p.login(ctx, Attempt{From: home, Mechanism: mechanism, User: "a", Secret: "old"}, a)
			require.NoError(t, err)
			require.Equal(t, want, v)
		}
	}
	_, err = p.login(ctx, Attempt{From: home, Mechanism: "USER", User: "a", Secret: "other"}, nil)
	require.ErrorIs(t, err, context.Canceled)
}

// It is remembered as long as it comes back within the hour.
func TestWrongPasswordIsForgotten(t *testing.T) {
	home := netip.MustParseAddr("192.0.2.7")
	synctest.Test(t, func(t *testing.T) {
		p, err := newPasswords(cheapHash)
		require.NoError(t, err)
		try := func(mechanism string) Verdict {
			v, err := p.login(t.Context(), Attempt{From: home, Mechanism: mechanism, User: "a", Secret: "old"}, nil)
			require.NoError(t, err)
			return v
		}
		require.Equal(t, Wrong, try("PLAIN"))
		for _, mechanism := range []string{"LOGIN", "USER", "XLOG"} {
			time.Sleep(wrongFor - time.Second)
			require.Equal(t, WrongAgain, try(mechanism))
		}
		time.Sleep(wrongFor + time.Second)
		require.Equal(t, Wrong, try("POP2"))
	})
}
