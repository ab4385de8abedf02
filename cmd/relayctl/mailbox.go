package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"relay/cmd/relayctl/table"
	"relay/node/admin"
)

func (a *app) mailboxCmd() *cobra.Command {
	return group("mailbox", "Maildrops: list, show, break a lock, import, export",
		a.mailboxLs(), a.mailboxShow(), a.mailboxUnlock(), a.mailboxImport(), a.mailboxExport())
}

func (a *app) mailboxLs() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the maildrops and who holds them", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				all, err := client.Mailboxes(ctx)
				if err != nil {
					return err
				}
				return a.emit(all, func() {
					t := a.table("USER", ">MESSAGES", ">SIZE", ">QUOTA", "LOCK").Matter("USER", "LOCK", "MESSAGES", "SIZE")
					for _, m := range all {
						t.Row(m.User, m.Messages, size(m.Bytes), quota(m.QuotaBytes, m.QuotaMessages), holders(m))
					}
					t.Flush()
				})
			})
		},
	}
}

// holder says who holds a maildrop and for how long.
func holder(l *admin.Lock) string {
	if l == nil {
		return "free"
	}
	return fmt.Sprintf("held for %s on %s by %s", seconds(l.AgeSeconds), l.Node, l.Remote)
}

// holders is holder with the number of further sessions.
func holders(m admin.Mailbox) string {
	if n := len(m.Others); n > 0 {
		return holder(m.Lock) + fmt.Sprintf(", and %d more", n)
	}
	return holder(m.Lock)
}

func (a *app) mailboxShow() *cobra.Command {
	return &cobra.Command{
		Use: "show USER", Short: "Show a maildrop and its messages", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				m, err := client.Mailbox(ctx, args[0])
				if err != nil {
					return err
				}
				return a.emit(m, func() { a.showMailbox(m) })
			})
		},
	}
}

func (a *app) showMailbox(m *admin.MailboxDetail) {
	a.fields("user", m.User, "holds", count(m.Messages, "message")+", "+size(m.Bytes), "quota",
		quota(m.QuotaBytes, m.QuotaMessages), "lock", holder(m.Lock))
	for i := range m.Others {
		a.fields("shared", holder(&m.Others[i]))
	}
	if len(m.Content) == 0 {
		return
	}
	a.say("")
	t := a.table(">UID", "ID", "RECEIVED", ">SIZE", "SENDER", "RECIPIENT").Matter("UID", "RECEIVED",
		"SIZE", "SENDER", "ID")
	for _, one := range m.Content {
		t.Row(one.UID, table.Ident(one.ID), one.Received, size(one.Size), path(one.Sender), one.Recipient)
	}
	t.Flush()
}

func (a *app) mailboxUnlock() *cobra.Command {
	var token uint64
	c := &cobra.Command{
		Use: "unlock USER", Short: "Break the lock of a maildrop; the session that held it ends and deletes nothing",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				u, err := client.Unlock(ctx, a.by(), args[0], token)
				if err != nil {
					return err
				}
				return a.emit(u, func() {
					if u.Lock == nil {
						a.say("The maildrop of %s was free.", clean(u.User))
						return
					}
					a.say("The maildrop of %s is free; it was %s.", clean(u.User), clean(holder(u.Lock)))
				})
			})
		},
	}
	c.Flags().Uint64Var(&token, "token", 0,
		"no lock that was taken later than the one of this token, which 'mailbox show -o json' has")
	return c
}
