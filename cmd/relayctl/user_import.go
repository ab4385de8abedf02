package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"relay/node/admin"
	"relay/node/admin/mailfile"
)

// usersImported is the result of an import of users.
type usersImported struct {
	DryRun   bool     `json:"dry_run"`
	Added    []string `json:"added"`
	Kept     []string `json:"kept"` // were there before, and stay as they were
	Messages int      `json:"messages"`
}

// userImporting is an import of users under way.
type userImporting struct {
	*app
	client *admin.Client
	domain string
	mail   string // folder with a folder for each user
	done   usersImported
}

func (a *app) userImport() *cobra.Command {
	im := userImporting{app: a, done: usersImported{Added: []string{}, Kept: []string{}}}
	c := &cobra.Command{
		Use: "import USERINFO", Args: cobra.ExactArgs(1),
		Short: "Add the users of a userinfo.txt, and the mail that lies beside it",
		Long: `Add the users of a userinfo.txt: a user a line, login and password separated by
spaces. Passwords are hashed where they are stored. Users that are there already
stay as they are, with their passwords.

With --mail DIR the messages in DIR/LOGIN/my_mailbox.txt go into the maildrops of
the users that are added.`,
		RunE: func(c *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			users, err := mailfile.Users(f)
			if err != nil {
				return fmt.Errorf("%s: %w", clean(args[0]), err)
			}
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				im.client = client
				return im.run(ctx, users)
			})
		},
	}
	c.Flags().StringVar(&im.domain, "domain", "", "domain of logins that name none (default: the cluster's)")
	c.Flags().StringVar(&im.mail, "mail", "", "`DIR` with a folder for each user, and my_mailbox.txt in it")
	c.Flags().BoolVar(&im.done.DryRun, "dry-run", false, "only say what would happen")
	return c
}

func (im *userImporting) run(ctx context.Context, users []mailfile.User) error {
	for _, u := range users {
		if err := im.one(ctx, u); err != nil {
			return ofContent(fmt.Errorf("%s: %w\n%s were added before; the same command again goes on with the rest",
				clean(u.Login), err, count(len(im.done.Added), "user")))
		}
	}
	return im.emit(im.done, func() {
		words := "%s added, %s kept as they were, %s"
		if im.done.DryRun {
			words = "Nothing was changed. Without --dry-run: " + words
		}
		im.say(words+".", count(len(im.done.Added), "user"), count(len(im.done.Kept), "user"),
			count(im.done.Messages, "message"))
	})
}

// one adds one user. The mail comes first to nobody: only who is added here gets
// it, so that the same command twice brings it once.
func (im *userImporting) one(ctx context.Context, u mailfile.User) error {
	address := u.Login
	if im.domain != "" && !strings.Contains(address, "@") {
		address += "@" + im.domain
	}
	path := ""
	if im.mail != "" { // before the user is there, so that the same command finds what it could not
		var err error
		if path, err = mailfile.MailboxOf(im.mail, u.Login); err != nil {
			return err
		}
	}
	fresh, err := im.add(ctx, address, u.Password)
	if err != nil {
		return err
	}
	if !fresh {
		im.done.Kept = append(im.done.Kept, address)
		return nil
	}
	im.done.Added = append(im.done.Added, address)
	if path == "" {
		return nil
	}
	return im.letters(ctx, path, address)
}

// add reports whether the user was not there before.
func (im *userImporting) add(ctx context.Context, address, password string) (bool, error) {
	var err error
	if im.done.DryRun {
		_, err = im.client.User(ctx, address)
		if errors.Is(err, admin.ErrNotFound) {
			return true, nil
		}
		return false, err
	}
	err = im.client.AddUser(ctx, im.by(), admin.UserAdd{Address: address, Password: password})
	if errors.Is(err, admin.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}

func (im *userImporting) letters(ctx context.Context, path, address string) error {
	if im.done.DryRun {
		return mailfile.Read(ctx, path, mailfile.Options{}, func(mailfile.Message) error { im.done.Messages++; return nil })
	}
	into, err := im.newImporting(ctx, im.client, address, importFlags{overQuota: true})
	if err == nil {
		err = into.paths([]string{path})
	}
	im.done.Messages += into.done.Messages
	if err != nil { // the user is there, so this command leaves the mail alone next time
		return fmt.Errorf("%w\n'relayctl mailbox import %s %s' goes on with its mail", err, clean(address), clean(path))
	}
	return nil
}
