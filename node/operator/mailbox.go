package operator

import (
	"cmp"
	"context"
	"errors"
	"io"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/operator/edit"
	"relay/node/operator/ids"
)

// Mailboxes implements admin.Mailboxes.
func (o *Operator) Mailboxes(context.Context) ([]admin.Mailbox, error) {
	all := []admin.Mailbox{}
	err := o.Replica.View(func(v spool.View) error {
		accounts, err := v.Accounts()
		if err != nil {
			return err
		}
		locks, err := v.Locks()
		if err != nil {
			return err
		}
		for _, a := range accounts {
			box, _, err := v.Mailbox(a.Address)
			if err != nil {
				return err
			}
			all = append(all, o.mailbox(a, box, locks[a.Address]))
		}
		return nil
	})
	return all, err
}

func (o *Operator) mailbox(a *pb.Account, box *pb.Mailbox, lock *pb.Lock) admin.Mailbox {
	m := admin.Mailbox{
		User: a.Address, Messages: box.GetMessages(), Bytes: box.GetBytes(), QuotaBytes: a.QuotaBytes,
		QuotaMessages: a.QuotaMessages, Lock: o.lock(lock),
	}
	for _, other := range lock.GetOthers() {
		m.Others = append(m.Others, *o.lock(other))
	}
	return m
}

func (o *Operator) lock(l *pb.Lock) *admin.Lock {
	if l == nil {
		return nil
	}
	return &admin.Lock{
		Node: l.Node, Session: l.Session, Remote: l.Remote, Since: admin.AtMs(l.SinceMs), Token: l.Token,
		AgeSeconds: max(0, int64(o.Now().Sub(time.UnixMilli(l.SinceMs))/time.Second)),
	}
}

// Mailbox implements admin.Mailboxes.
func (o *Operator) Mailbox(ctx context.Context, user string) (*admin.MailboxDetail, error) {
	user, err := o.Address(user)
	if err != nil {
		return nil, err
	}
	d := &admin.MailboxDetail{Content: []admin.MailboxMessage{}}
	err = o.frozen(ctx, func(v spool.View, _ uint64) error {
		a, box, err := openBox(v, user)
		if err != nil {
			return err
		}
		lock, held, err := v.Lock(user)
		if err != nil {
			return err
		}
		if !held {
			lock = nil
		}
		d.Mailbox = o.mailbox(a, box, lock)
		if d.Content, err = boxContent(v, box.Box); err != nil {
			return err
		}
		return senders(ctx, v, d.Content)
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// openBox reads an account and its mailbox; NotFound.
func openBox(v spool.View, user string) (*pb.Account, *pb.Mailbox, error) {
	a, ok, err := v.Account(user)
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		return nil, nil, admin.NotFound("mailbox", user)
	}
	box, _, err := v.Mailbox(user)
	return a, box, err
}

func boxContent(v spool.View, box uint64) ([]admin.MailboxMessage, error) {
	all, prefix := []admin.MailboxMessage{}, spool.UidlPrefix(box)
	err := v.Entries(box, 0, func(uid uint64, e *pb.Entry) bool {
		all = append(all, admin.MailboxMessage{
			UID: uid, ID: ids.Text(e.Id), Size: e.Size, Received: admin.AtMs(e.ReceivedMs), Recipient: e.Recipient,
			UIDL: cmp.Or(e.Uidl, prefix+strconv.FormatUint(uid, 36)),
		})
		return true
	})
	return all, err
}

// senders fills in what the messages' records know: the reverse-path, and for
// what was imported the time of receipt that came with it.
func senders(ctx context.Context, v spool.View, list []admin.MailboxMessage) error {
	for i := range list {
		one := &list[i]
		id, err := messageID(one.ID)
		if err != nil {
			continue
		}
		m, ok, err := v.Message(id)
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if !ok {
			continue
		}
		one.Sender = m.Sender
		if m.Client.GetProtocol() == importProtocol {
			one.Received = admin.AtMs(m.CreatedMs)
		}
	}
	return nil
}

// Unlock implements admin.Mailboxes.
func (o *Operator) Unlock(ctx context.Context, by admin.By, user string, token uint64) (*admin.Unlocked, error) {
	user, err := o.Address(user)
	if err != nil {
		return nil, err
	}
	if err := o.edit.Current(ctx); err != nil {
		return nil, err
	}
	seen := token
	err = o.Replica.View(func(v spool.View) (err error) { seen, err = seenLock(v, user, token); return err })
	if err != nil {
		return nil, err
	}
	res, err := o.edit.Do(ctx, by, spool.KindBreakLock, func(adm *pb.Admin) proto.Message {
		return &pb.BreakLock{Admin: adm, Mailbox: user, Token: seen}
	})
	if errors.Is(err, admin.ErrNotFound) {
		return &admin.Unlocked{User: user}, nil // nobody held it
	}
	if err != nil {
		return nil, err
	}
	return &admin.Unlocked{User: user, Lock: o.lock(res.Lock)}, nil
}

// seenLock is the token of the newest lock that an operator means: the one that they named, or else of those
// there are now. It is 0 where nobody holds the mailbox, or commands do not bear tokens yet.
func seenLock(v spool.View, user string, token uint64) (uint64, error) {
	_, _, err := openBox(v, user)
	record, _, cerr := v.Cluster()
	held, _, lerr := v.Lock(user)
	if err := errors.Join(err, cerr, lerr); err != nil {
		return 0, err
	}
	able := spool.VersionOf(record) >= 2
	switch {
	case token != 0 && !able:
		return 0, edit.InThisState("one lock alone can be broken only when all nodes run this version",
			"leave the token out")
	case token != 0 || !able:
		return token, nil
	}
	for _, one := range spool.Holders(held) {
		token = max(token, one.Token)
	}
	return token, nil
}

// OpenMail implements admin.Content.
func (o *Operator) OpenMail(ctx context.Context, user string, uid uint64) (io.ReadCloser, int64, error) {
	user, err := o.Address(user)
	if err != nil {
		return nil, 0, err
	}
	var entry *pb.Entry
	var id spool.ID
	var chunks uint32
	var size uint64
	err = o.frozen(ctx, func(v spool.View, _ uint64) error {
		_, box, err := openBox(v, user)
		if err != nil {
			return err
		}
		var ok bool
		if entry, ok, err = v.Entry(box.Box, uid); err != nil {
			return err
		}
		if !ok {
			return admin.Problem(404, "there is no message with that UID in mailbox "+user,
				"'relayctl mailbox show "+user+"' lists them")
		}
		id, _ = ids.Of(entry.Id)
		refs, ok, err := v.Refs(id)
		if err == nil && !ok {
			err = errors.New("message " + id.String() + " has an entry in a mailbox and no body")
		}
		chunks, size = refs.GetChunks(), refs.GetBytes()+uint64(len(entry.Header))
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	body, err := o.Replica.OpenBody(id, chunks, entry.Header)
	return body, int64(size), err
}
