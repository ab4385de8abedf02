package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"

	"relay/node/admin"
	"relay/node/admin/mailfile"
)

// imported is the result of an import.
type imported struct {
	User     string   `json:"user"`
	DryRun   bool     `json:"dry_run"`
	Complete bool     `json:"complete"` // all that can be read was dealt with
	Messages int      `json:"messages"` // that went in
	Known    int      `json:"known"`    // were imported before
	Bytes    uint64   `json:"bytes"`    // of messages
	Empty    int      `json:"empty"`
	IDs      []string `json:"ids"`
	LeftOut  []left   `json:"left_out"`
}

// left is a file or message that was not imported.
type left struct {
	Name    string `json:"name"`
	Why     string `json:"why"`
	Refused bool   `json:"refused"` // it should hold mail, and can't be read or may not go in
}

// refused counts what should have gone in.
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
	deleted   bool
	folders   []string
	overQuota bool
	dryRun    bool
	keepUIDL  string
}

const (
	sourceUIDLs = "the source" // what --keep-uidl means without a file
	withoutUIDL = "without --keep-uidl it gets another"
)

func (a *app) mailboxImport() *cobra.Command {
	var flags importFlags
	c := &cobra.Command{
		Use: "import USER PATH...", Args: cobra.MinimumNArgs(2),
		Short: "Put messages into a maildrop: .eml files and folders, Maildirs, mbox files, my_mailbox.txt",
		Long: `Put messages into a maildrop as they are, with their times of receipt.

PATH is an .eml file, a folder of them, a Maildir, an mbox file (mboxo, mboxrd,
mboxcl, mboxcl2), a mailbox that Apple Mail exported, or a my_mailbox.txt (or the
folder it is in); "-" is the standard input. Files packed with gzip or bzip2 are
unpacked. Messages come in an order that is the same each time.

For 30 days the cluster knows what was imported: the same command again goes on
where an import ended, and brings nothing twice. Messages that are equal stay as
many as their PATH holds.

What holds nothing at all, and what Thunderbird or a Maildir marks as deleted, is
left out. All that is left out is listed; a file that should hold mail and can't
be read makes the exit code 1, after the rest went in.

With --keep-uidl POP3 clients that leave mail on the server know it again: by
X-UIDL, a Maildir's dovecot-uidlist, or --keep-uidl=FILE with such a list, or with
lines of a file's name, or a message's number, and its unique id. A message has
its unique id from when it goes in: one that was imported before keeps what it has.`,
		RunE: func(c *cobra.Command, args []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				return a.importAll(ctx, client, args, flags)
			})
		},
	}
	c.Flags().BoolVar(&flags.deleted, "include-deleted", false, "also what is marked as deleted")
	c.Flags().StringArrayVar(&flags.folders, "folder", nil,
		"`NAME` of a folder of the Maildir in place of its inbox, such as .Sent; * is all")
	c.Flags().BoolVar(&flags.overQuota, "over-quota", false, "go on though the maildrop is full")
	c.Flags().BoolVar(&flags.dryRun, "dry-run", false, "only say what would happen")
	c.Flags().StringVar(&flags.keepUIDL, "keep-uidl", "", "keep the messages' unique ids, as the source or `FILE` says")
	c.Flags().Lookup("keep-uidl").NoOptDefVal = sourceUIDLs
	return c
}

func (a *app) importAll(ctx context.Context, client *admin.Client, args []string, flags importFlags) error {
	im, err := a.newImporting(ctx, client, args[0], flags)
	if err != nil {
		return err
	}
	im.bar.expect(args[1:])
	err = im.paths(args[1:])
	im.bar.end(im.done.Messages + im.done.Known)
	im.done.Complete = err == nil
	if err != nil && im.done.Messages+im.done.Known == 0 && ctx.Err() == nil {
		return err
	}
	if e := a.emit(im.done, func() { a.say("%s", im.words()) }); e != nil {
		return e
	}
	if err != nil {
		a.note("The import ended early; the same command goes on from there.")
	}
	return errors.Join(err, a.listLeft(&im.done))
}

// words say how much went in.
func (im *importing) words() string {
	did := "went into"
	if im.done.DryRun {
		did = "would go into"
	}
	text := fmt.Sprintf("%s %s the maildrop of %s", count(im.done.Messages, "message"), did, clean(im.done.User))
	if im.done.Known > 0 {
		text += fmt.Sprintf("; %d had been imported before", im.done.Known)
	}
	return text + "."
}

// listLeft says what was left out; an error where something could not go in.
func (a *app) listLeft(done *imported) error {
	for i, l := range done.LeftOut {
		if i == listedLeft && len(done.LeftOut) > listedLeft+1 && done.refused() == 0 {
			a.note("and %d more were left out; -o json lists them all", len(done.LeftOut)-i)
			break
		}
		a.note("left out: %s %s", clean(l.Name), clean(l.Why))
	}
	if n := done.refused(); n > 0 {
		return fmt.Errorf("%s could not be read or taken, see above; all else went in", count(n, "item"))
	}
	return nil
}

// listedLeft is how much of what was left out is named on a terminal.
const listedLeft = 20

// Bounds of a batch: it is one request, and what an interruption leaves open.
const (
	batchOctets   = 1 << 20
	batchMessages = 1000
)

// importing is an import under way.
type importing struct {
	*app
	ctx    context.Context
	client *admin.Client
	flags  importFlags
	uidls  *mailfile.UIDLs
	done   imported
	bar    *progress

	line  uint64
	batch []oldMail
	size  int
	raw   int               // octets of the batch as they stand in the source
	seen  map[uint64]uint32 // how many messages of a path have a digest, by its beginning
}

// oldMail is one message of a batch.
type oldMail struct {
	name string
	admin.OldMessage
	content []byte
}

func (a *app) newImporting(
	ctx context.Context, client *admin.Client, user string, flags importFlags,
) (*importing, error) {
	im := &importing{
		app: a, ctx: ctx, client: client, flags: flags, bar: a.workBar(ctx),
		done: imported{User: user, DryRun: flags.dryRun, IDs: []string{}, LeftOut: []left{}},
	}
	var err error
	switch flags.keepUIDL {
	case "":
	case sourceUIDLs:
		im.uidls, err = mailfile.ReadUIDLs("")
	default:
		im.uidls, err = mailfile.ReadUIDLs(flags.keepUIDL)
	}
	return im, err
}

func (im *importing) paths(paths []string) error {
	for _, path := range paths {
		im.seen = map[uint64]uint32{}
		o := mailfile.Options{
			IncludeDeleted: im.flags.deleted, Folders: im.flags.folders, UIDLs: im.uidls,
			Left: func(l mailfile.Left) { im.leave(l.Name, l.Why, l.Bad) },
		}
		err := mailfile.Read(im.ctx, path, o, im.add)
		if im.ctx.Err() != nil {
			return im.ctx.Err()
		}
		// All that was read before a fault goes in, whatever the fault.
		if sent := im.send(); sent != nil {
			return sent
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (im *importing) leave(name, why string, refused bool) {
	im.done.LeftOut = append(im.done.LeftOut, left{Name: name, Why: why, Refused: refused})
}

// add takes one message into the batch.
func (im *importing) add(m mailfile.Message) error {
	if len(m.Content) == 0 {
		im.done.Empty++
		im.leave(m.Name, "has nothing in it", false)
		return nil
	}
	one := oldMail{name: m.Name, content: mailfile.CRLF(m.Content)}
	sum := sha256.Sum256(one.content)
	same := binary.BigEndian.Uint64(sum[:])
	one.OldMessage = admin.OldMessage{
		Received: admin.At(m.Received), Number: im.seen[same], UIDL: m.UIDL, Digest: sum[:],
	}
	im.seen[same]++
	if m.UIDL != "" && !mailfile.MayUIDL(m.UIDL) {
		im.leave(m.Name, fmt.Sprintf("has the unique id %q, which POP3 can not show (%s)", m.UIDL, withoutUIDL), true)
		return nil
	}
	im.batch, im.size, im.raw = append(im.batch, one), im.size+len(one.content), im.raw+len(m.Content)
	if im.size < batchOctets && len(im.batch) < batchMessages {
		return nil
	}
	return im.send()
}

// Limits of patience with a cluster that elects, or whose nodes come and go.
const (
	importPatience = 45 * time.Second // without a message that went in
	importGrace    = 10 * time.Second // for the answer to a batch under way at an interruption
)

// send brings the batch in. A batch that is answered in part, or not at all, goes
// again with the same request, so that it is counted as what it is.
func (im *importing) send() error {
	ctx, cancel := lasting(im.ctx, importGrace)
	defer cancel()
	by := im.by()
	by.Request = ulid.Make().String()
	since := im.now()
	for len(im.batch) > 0 {
		res, err := im.client.ImportMail(ctx, by, im.done.User, im.options(), each(im.batch))
		n := 0
		if err == nil {
			if n = len(res.Messages); n > len(im.batch) || n < len(im.batch) && res.Stopped == nil {
				return errors.New("the node answers for another number of messages than it was sent")
			}
			im.count(res)
			if err = nil; res.Stopped != nil {
				err = res.Stopped
			}
		}
		if n > 0 {
			since = im.now()
		}
		if err == nil {
			break
		}
		if !im.passing(err) || im.now().Sub(since) > importPatience || im.ctx.Err() != nil {
			if len(im.batch) > 0 {
				err = fmt.Errorf("%s: %w", clean(im.batch[0].name), err)
			}
			return ofContent(err)
		}
		if err := im.wait(im.ctx); err != nil {
			return err
		}
	}
	im.bar.add(im.raw, im.done.Messages+im.done.Known)
	im.batch, im.size, im.raw = im.batch[:0], 0, 0
	return im.ctx.Err()
}

func (im *importing) options() admin.ImportOptions {
	return admin.ImportOptions{OverQuota: im.flags.overQuota, DryRun: im.flags.dryRun, Line: im.line}
}

// each hands out a batch's messages.
func each(batch []oldMail) func() (*admin.OldMessage, error) {
	i := -1
	return func() (*admin.OldMessage, error) {
		if i++; i >= len(batch) {
			return nil, io.EOF
		}
		m := batch[i].OldMessage
		m.Content = bytes.NewReader(batch[i].content)
		return &m, nil
	}
}

// count takes the answer to the beginning of the batch.
func (im *importing) count(res *admin.ImportResult) {
	im.line = res.Line
	for i, m := range res.Messages {
		one := im.batch[i]
		switch m.Outcome {
		case admin.ImportStored:
			im.done.Messages++
			im.done.Bytes += uint64(len(one.content))
			if m.ID != "" {
				im.done.IDs = append(im.done.IDs, m.ID)
			}
		case admin.ImportKnown:
			im.done.Known++
		default:
			im.leave(one.name, fmt.Sprintf("has the unique id %q of another message (%s)", one.UIDL, withoutUIDL), true)
		}
	}
	im.batch = im.batch[len(res.Messages):]
}

// passing reports whether the same request may succeed in a moment: a leader is
// being elected, or the node that was asked is gone and others are there.
func (im *importing) passing(err error) bool {
	var said *admin.Error
	var none *admin.Unreachable
	switch {
	case errors.As(err, &said):
		return errors.Is(err, admin.ErrNoQuorum) || errors.Is(err, admin.ErrUnknown)
	case errors.As(err, &none):
		return im.line > 0 // a node has answered before
	}
	return true
}

// lasting is a context that outlives another one for a while.
func lasting(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(d, cancel) })
	return longer, func() { stop(); cancel() }
}
