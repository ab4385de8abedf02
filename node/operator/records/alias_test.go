package records

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	"relay/node/admin"
	"relay/node/directory"
)

// leadsTo lists where an address leads, mailboxes in brackets.
func leadsTo(t *testing.T, w *world, address string) []string {
	t.Helper()
	var all []string
	require.NoError(t, w.rep.View(func(v spool.View) error {
		targets, _, err := directory.Resolve(v, address)
		for _, to := range targets {
			if to.Mailbox != "" {
				all = append(all, "["+to.Mailbox+"]")
			} else {
				all = append(all, to.Recipient)
			}
		}
		return err
	}))
	slices.Sort(all)
	return all
}

// TestAliasOfAnAccount: an alias does not take an account's mail away unless
// that is said, and the account's own address among the targets is a copy, not
// a loop.
func TestAliasOfAnAccount(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	set := func(address string, replace bool, targets ...string) error {
		return w.SetAlias(ctx, theBy, admin.Alias{Address: address, Targets: targets, Replace: replace})
	}
	const alice, bob, away = "alice@example.test", "bob@example.test", "a@far.test"
	err := set("alice", false, away)
	require.ErrorIs(t, err, admin.ErrInvalid)
	require.ErrorContains(t, err, "alice@example.test is an account")
	require.ErrorContains(t, err, "--replace")
	require.Equal(t, []string{"[alice@example.test]"}, leadsTo(t, w, alice))

	require.NoError(t, set("alice", false, "alice", away))
	require.Equal(t, []string{"[alice@example.test]", away}, leadsTo(t, w, alice))
	require.Equal(t, []string{"[alice@example.test]", away}, leadsTo(t, w, "alice+tag@example.test"))
	require.NoError(t, set("list", false, "alice", "other"))
	require.NoError(t, set("other", false, "alice"))
	require.Equal(t, []string{"[alice@example.test]", away}, leadsTo(t, w, "list@example.test"), "each once")

	require.NoError(t, set("alice", true, away))
	require.Equal(t, []string{away}, leadsTo(t, w, alice))
	require.Equal(t, []string{away}, leadsTo(t, w, "list@example.test"), "met twice, the mailbox stays out of it")

	require.NoError(t, set("bob", true, "alice"))
	require.NoError(t, set("alice", true, "bob"))
	require.Equal(t, []string{"[alice@example.test]"}, leadsTo(t, w, alice), "a circle of accounts ends where it began")

	// The other order: an address that is an alias becomes an account.
	err = w.AddUser(ctx, theBy, admin.UserAdd{Address: "other", Password: "secret"})
	require.ErrorIs(t, err, admin.ErrInvalid)
	require.ErrorContains(t, err, "is an alias")
	require.NoError(t, set("other", false, "other", "alice"))
	require.NoError(t, w.AddUser(ctx, theBy, admin.UserAdd{Address: "other", Password: "secret"}))
	require.Equal(t, []string{"[alice@example.test]", "[other@example.test]"}, leadsTo(t, w, "other@example.test"))
}
