package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"relay/node/admin"
	"relay/node/admin/mailfile"
)

// exported is the result of an export.
type exported struct {
	User     string   `json:"user"`
	Complete bool     `json:"complete"`
	Files    []string `json:"files"` // written now
	There    int      `json:"there"` // written by an export before
	Gone     int      `json:"gone"`  // deleted meanwhile
}

func (a *app) mailboxExport() *cobra.Command {
	return &cobra.Command{
		Use: "export USER DIR", Args: cobra.ExactArgs(2),
		Short: "Write a maildrop's messages to a folder of .eml files, named by UID; nothing is deleted",
		Long: `Write a maildrop's messages to a folder of .eml files, named by UID. Nothing is
deleted, and no file is written over: messages that are in the folder already are
left as they are, so the same command again brings what has come since, or goes on
where an export ended. A file of another message under such a name ends it.`,
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
				err = a.exportAll(ctx, client, m, args[1], &done)
				done.Complete = err == nil
				if done.Gone > 0 {
					a.note("deleted by its user meanwhile: %s", count(done.Gone, "message"))
				}
				e := a.emit(done, func() {
					all := count(len(done.Files)+done.There, "message")
					are := "are"
					if len(done.Files)+done.There == 1 {
						are = "is"
					}
					a.say("%s of %s %s in %s, %d of them new.", all, clean(m.User), are, clean(args[1]), len(done.Files))
				})
				if err != nil {
					a.note("The export ended early; the same command goes on from there.")
				}
				return errors.Join(err, e)
			})
		},
	}
}

func (a *app) exportAll(
	ctx context.Context, client *admin.Client, m *admin.MailboxDetail, dir string, done *exported,
) error {
	bar := a.workBar(ctx)
	bar.total = int64(m.Bytes)
	defer func() { bar.end(len(done.Files) + done.There) }()
	for _, one := range m.Content {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		path := mailfile.FileOf(dir, one.UID)
		there, err := isExported(ctx, client, m.User, one, path)
		if err == nil && !there {
			path, err = exportOne(ctx, client, m.User, one, dir)
		}
		switch {
		case errors.Is(err, admin.ErrNotFound) && isGone(ctx, client, m.User, one.UID):
			done.Gone++
		case err != nil:
			return err
		case there:
			done.There++
		default:
			done.Files = append(done.Files, path)
		}
		bar.add(int(one.Size), len(done.Files)+done.There)
	}
	return nil
}

// isExported reports whether a message is in its file already. Size and time tell;
// where a copy has lost the time the octets do.
func isExported(
	ctx context.Context, client *admin.Client, user string, one admin.MailboxMessage, path string,
) (bool, error) {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	const lastEnd = 2 // counted, and not in the file, where the message ends without CRLF
	if size := uint64(st.Size()); st.Mode().IsRegular() && (size == one.Size || size+lastEnd == one.Size) {
		if st.ModTime().Equal(one.Received.Time) {
			return true, nil
		}
		have, err := os.ReadFile(path)
		if err != nil {
			return false, err
		}
		body, _, err := client.OpenMail(ctx, user, one.UID)
		if err != nil {
			return false, err
		}
		defer body.Close()
		want, err := io.ReadAll(body)
		if err != nil || bytes.Equal(have, want) {
			return err == nil, err
		}
	}
	return false, fmt.Errorf("%s is another message than the one in the maildrop: export to an empty folder",
		clean(path))
}

// isGone reports whether a message that was listed is in the maildrop no more.
// A node that lags behind may not have it yet.
func isGone(ctx context.Context, client *admin.Client, user string, uid uint64) bool {
	m, err := client.Mailbox(ctx, user)
	return err == nil && !slices.ContainsFunc(m.Content, func(one admin.MailboxMessage) bool { return one.UID == uid })
}

func exportOne(ctx context.Context, client *admin.Client, user string, one admin.MailboxMessage,
	dir string) (string, error) {
	body, _, err := client.OpenMail(ctx, user, one.UID)
	if err != nil {
		return "", err
	}
	defer body.Close()
	return mailfile.Write(dir, one.UID, one.Received.Time, body)
}
