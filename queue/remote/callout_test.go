package remote

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"relay/smtp"
)

// TestAsk: a host is asked for a recipient on one connection, and no message goes.
func TestAsk(t *testing.T) {
	h := newHop(t, map[string]string{"RCPT": "250 yes|550 5.1.1 nobody|450 later|250 yes", "RSET": "250 ok"})
	a := newAgent(t, Config{Router: router(func(string) (Target, error) { return hostOf(h), nil })})
	require.NoError(t, a.Ask(t.Context(), "a@x"))
	err := a.Ask(t.Context(), "b@x")
	no, ok := errors.AsType[*smtp.Reply](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, "5.1.1", no.Enhanced)
	err = a.Ask(t.Context(), "c@x")
	require.ErrorContains(t, err, "450 later")
	_, ok = errors.AsType[*smtp.Reply](err)
	require.False(t, ok)
	require.NoError(t, a.Ask(t.Context(), "d@x"))
	conns, bodies := h.count()
	require.Equal(t, 1, conns)
	require.Zero(t, bodies)
	require.Equal(t, 4, strings.Count(h.said(), "MAIL FROM:<>"))
	require.NotContains(t, h.said(), "DATA")
	require.Error(t, a.Ask(t.Context(), "x\r\nRCPT TO:<y@x"))
	require.ErrorContains(t, a.Ask(t.Context(), "jürgen@x"), "SMTPUTF8")
	require.NoError(t, a.Ask(t.Context(), "d@x"))
}

// TestCallouts: a yes is known for an hour, a no for five minutes, and what passes is asked for again.
func TestCallouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		answer := error(nil)
		k := NewCallouts(func(context.Context, string) error { asked++; return answer })
		check := func(want string, times int) {
			t.Helper()
			err := k.Check(t.Context(), "a@x")
			if want == "" {
				require.NoError(t, err)
			} else {
				r, ok := errors.AsType[*smtp.Reply](err)
				require.True(t, ok)
				require.Contains(t, r.Error(), want)
			}
			require.Equal(t, times, asked)
		}
		check("", 1)
		check("", 1)
		time.Sleep(calloutYes)
		answer = smtp.NewReply(551, "5.1.6", "moved\r\naway")
		check("550 5.1.6 Recipient refused by its host: moved", 2)
		check("550 5.1.6", 2)
		time.Sleep(calloutNo)
		for n, passing := range []error{errors.New("no connection"), smtp.NewReply(450, "", "later")} {
			answer = passing
			check("450 4.4.3", 3+n)
		}
		answer = nil
		check("", 5)
		for range calloutTurn {
			k.turns <- struct{}{}
		}
		check("", 5)
		time.Sleep(calloutYes)
		check("450 4.4.3", 5)
	})
}
