package operator

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"relay/cluster/spool"
	"relay/node/admin"
	"relay/smtp/printable"
)

// messageID reads an id as an operator may give it.
func messageID(text string) (spool.ID, error) {
	id, err := ulid.ParseStrict(strings.ToUpper(strings.TrimSpace(text)))
	if err != nil {
		return id, admin.NotFound("message", printable.Text(text, 64))
	}
	return id, nil
}

// message reads an id that an operator gave, or the end of one. If this node
// does not know it, it catches up first, if it can: the id may have been told to a
// client by another node a moment ago.
func (o *Operator) message(ctx context.Context, text string) (id spool.ID, err error) {
	if ending, ok := admin.IDEnding(text); ok {
		found, err := o.endings(ctx, []string{ending})
		if err != nil {
			return id, err
		}
		if id, ok = found[ending]; !ok {
			return id, admin.NotFound("message", ending)
		}
		return id, nil
	}
	if id, err = messageID(text); err != nil {
		return id, err
	}
	known := false
	err = o.Replica.View(func(v spool.View) error { _, known, err = v.Message(id); return err })
	if err != nil || known {
		return id, err
	}
	o.catchUp(ctx)
	return id, nil
}

// catchUpWithin bounds the wait for a message that may not exist.
const catchUpWithin = time.Second

// catchUp waits for what is committed. Without a majority this node tells what it
// knows.
func (o *Operator) catchUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, catchUpWithin)
	defer cancel()
	_ = o.Replica.Consistent(ctx)
}

// certain reads the records that decide a change. After an error of the API's own the
// node catches up and reads again, since records may be about to arrive. A node without
// a majority can change nothing.
func (o *Operator) certain(ctx context.Context, read func(v spool.View) error) error {
	err := o.Replica.View(read)
	if _, no := errors.AsType[*admin.Error](err); !no {
		return err
	}
	if err := o.edit.Current(ctx); err != nil {
		return err
	}
	return o.Replica.View(read)
}

// frozen reads at one index, and again after catching up if something is not there.
func (o *Operator) frozen(ctx context.Context, read func(v spool.View, index uint64) error) error {
	err := o.Replica.Frozen(read)
	if !errors.Is(err, admin.ErrNotFound) {
		return err
	}
	o.catchUp(ctx)
	return o.Replica.Frozen(read)
}

// endings finds the messages whose ids end so, in one pass over all that are
// known, and a second one where this node had to catch up. An ending of more than
// one is an error; one of none is missing from the answer.
func (o *Operator) endings(ctx context.Context, want []string) (map[string]spool.ID, error) {
	found, err := o.findEndings(want)
	if err != nil || len(found) == len(want) {
		return found, err
	}
	o.catchUp(ctx)
	return o.findEndings(want)
}

// endingsShown is how many of the ids that end alike an error names.
const endingsShown = 5

func (o *Operator) findEndings(want []string) (map[string]spool.ID, error) {
	all := make(map[string][]spool.ID, len(want))
	sizes := map[int]bool{}
	for _, ending := range want {
		all[ending] = nil
		sizes[len(ending)] = true
	}
	var text [ulid.EncodedSize]byte
	err := o.Replica.View(func(v spool.View) error {
		return v.IDs(func(id spool.ID) bool {
			_ = id.MarshalTextTo(text[:]) // the size is right
			for n := range sizes {
				if ids, ok := all[string(text[len(text)-n:])]; ok {
					all[string(text[len(text)-n:])] = append(ids, id)
				}
			}
			return true
		})
	})
	found := make(map[string]spool.ID, len(want))
	for ending, ids := range all {
		if len(ids) == 1 {
			found[ending] = ids[0]
		}
		if len(ids) > 1 {
			var some []string
			for _, id := range ids[:min(len(ids), endingsShown)] {
				some = append(some, id.String())
			}
			return nil, admin.Ambiguous(ending, len(ids), some)
		}
	}
	return found, err
}
