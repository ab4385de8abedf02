package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"relay/node/admin"
	"relay/node/admin/mailfile"
)

// imported is the result of an import.
type imported struct {
	User     string   `json:"user"`
	Messages int      `json:"messages"`
	Skipped  int      `json:"skipped"`
	Empty    int      `json:"empty"`
	IDs      []string `json:"ids"`
	LeftOut  []left   `json:"left_out"`
}

// left is a file or message that was not imported.
type left struct {
	Name    string `json:"name"`
	Why     string `json:"why"`
	Refused bool   `json:"refused"` // it should hold mail, and can't be read
}

func newImported(user string) imported {
	return imported{User: user, IDs: []string{}, LeftOut: []left{}}
}

// refused counts what could not be read.
func (i *imported) refused() (n int) {
	for _, l := range i.LeftOut {
		if l.Refused {
			n++
		}
	}
	return n
}

// importFlags are what 'mailbox import' may be told.
type importFlags struct {
	skip    int
	deleted bool
	folders []string
}

func (a *app) mailboxImport() *cobra.Command {
	var flags importFlags
	c := &cobra.Command{
		Use: "import USER PATH...", Args: cobra.MinimumNArgs(2),
		Short: "Put messages into a maildrop: .eml files and folders, Maildirs, mbox files, my_mailbox.txt",
		Long: `Put messages into a maildrop as they are, with their times of receipt.

PATH is an .eml file, a folder of them, a Maildir, an mbox file (mboxo, mboxrd,
mboxcl, mboxcl2), a mailbox that Apple Mail exported, or a my_mailbox.txt (or the
folder it is in); "-" is the standard input. Files packed with gzip or bzip2 are
unpacked. Messages come in an order that is the same each time; where an import
ends early it says with which --skip to go on.

What holds nothing at all, and what Thunderbird or a Maildir marks as deleted, is
left out. All that is left out is listed; a file that should hold mail and can't
be read makes the exit code 1, after the rest went in.`,
		RunE: func(c *cobra.Command, args []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				done := newImported(args[0])
				for _, path := range args[1:] {
					if err := a.importPath(ctx, client, path, flags, &done); err != nil {
						seen := done.Messages + done.Empty + done.Skipped
						if seen == 0 {
							return err
						}
						return fmt.Errorf("%w\n%s went in before; go on with --skip %d", err, count(done.Messages, "message"), seen)
					}
				}
				if done.Empty > 0 {
					a.note("left out, as nothing is in it: %s", count(done.Empty, "message"))
				}
				err := a.emit(done, func() { a.say("%s went into the maildrop of %s.", count(done.Messages, "message"), clean(done.User)) })
				return errors.Join(err, a.listLeft(&done))
			})
		},
	}
	c.Flags().IntVar(&flags.skip, "skip", 0, "leave out that many messages at the beginning")
	c.Flags().BoolVar(&flags.deleted, "include-deleted", false, "also what is marked as deleted")
	c.Flags().StringArrayVar(&flags.folders, "folder", nil, "`NAME` of a folder of the Maildir in place of its inbox, such as .Sent; * is all")
	return c
}

// listLeft says what was left out; an error where something could not be read.
func (a *app) listLeft(done *imported) error {
	for i, l := range done.LeftOut {
		if i == listedLeft && len(done.LeftOut) > listedLeft+1 && done.refused() == 0 {
			a.note("and %d more were left out; -o json lists them all", len(done.LeftOut)-i)
			break
		}
		a.note("left out: %s %s", clean(l.Name), clean(l.Why))
	}
	if n := done.refused(); n > 0 {
		return fmt.Errorf("%s could not be read, see above; all else went in", count(n, "file"))
	}
	return nil
}

// listedLeft is how much of what was left out is named on a terminal.
const listedLeft = 20

func (a *app) importPath(ctx context.Context, client *admin.Client, path string, flags importFlags, done *imported) error {
	o := mailfile.Options{IncludeDeleted: flags.deleted, Folders: flags.folders, Left: func(l mailfile.Left) {
		done.LeftOut = append(done.LeftOut, left{Name: l.Name, Why: l.Why, Refused: l.Bad})
	}}
	return mailfile.Read(ctx, path, o, func(m mailfile.Message) error {
		if done.Skipped < flags.skip {
			done.Skipped++
			return nil
		}
		if len(m.Content) == 0 {
			done.Empty++
			return nil
		}
		id, err := client.PutMail(ctx, a.by(), done.User, admin.At(m.Received), bytes.NewReader(m.Content))
		if err != nil {
			return fmt.Errorf("%s: %w", clean(m.Name), err)
		}
		done.Messages++
		done.IDs = append(done.IDs, id)
		return ctx.Err()
	})
}

// exported is the result of an export.
type exported struct {
	User  string   `json:"user"`
	Files []string `json:"files"`
	Gone  int      `json:"gone"` // deleted meanwhile
}

func (a *app) mailboxExport() *cobra.Command {
	return &cobra.Command{
		Use: "export USER DIR", Args: cobra.ExactArgs(2),
		Short: "Write a maildrop's messages to a folder of .eml files, named by UID; nothing is deleted",
		RunE: func(c *cobra.Command, args []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				m, err := client.Mailbox(ctx, args[0])
				if err != nil {
					return err
				}
				if err := os.MkdirAll(args[1], 0o700); err != nil {
					return err
				}
				done := exported{User: m.User, Files: []string{}}
				for _, one := range m.Content {
					path, err := exportOne(ctx, client, m.User, one, args[1])
					switch {
					case errors.Is(err, admin.ErrNotFound) && isGone(ctx, client, m.User, one.UID):
						done.Gone++
					case err != nil:
						return err
					default:
						done.Files = append(done.Files, path)
					}
				}
				if done.Gone > 0 {
					a.note("deleted by its user meanwhile: %s", count(done.Gone, "message"))
				}
				return a.emit(done, func() { a.say("%s of %s are in %s.", count(len(done.Files), "message"), clean(m.User), clean(args[1])) })
			})
		},
	}
}

// isGone reports whether a message that was listed is in the maildrop no more.
// A node that lags behind may not have it yet.
func isGone(ctx context.Context, client *admin.Client, user string, uid uint64) bool {
	m, err := client.Mailbox(ctx, user)
	return err == nil && !slices.ContainsFunc(m.Content, func(one admin.MailboxMessage) bool { return one.UID == uid })
}

func exportOne(ctx context.Context, client *admin.Client, user string, one admin.MailboxMessage, dir string) (string, error) {
	body, _, err := client.OpenMail(ctx, user, one.UID)
	if err != nil {
		return "", err
	}
	defer body.Close()
	return mailfile.Write(dir, one.UID, one.Received.Time, body)
}
