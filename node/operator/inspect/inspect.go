// Package inspect checks one node's records against each other, and its bodies against
// their digests.
package inspect

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/operator/ids"
	"relay/node/replica"
	"relay/node/statelog"
)

// listedMost bounds the findings of one kind that are listed singly.
const listedMost = 20

// Inspection checks one node's records against each other.
type Inspection struct {
	out    *admin.Verification
	listed map[string]int
	drops  map[spool.ID]uint32 // mailbox entries of each message
	tally  map[string]int64    // counters as they should be
	dests  map[spool.Destination]int64
	owned  map[uint64]int64
	owners spool.Owners
}

// New makes an Inspection that adds its findings to out. One goroutine uses it.
func New(out *admin.Verification) *Inspection {
	return &Inspection{out: out, listed: map[string]int{}}
}

// find lists a finding; of each kind only the first ones.
func (in *Inspection) find(kind, format string, args ...any) {
	if in.listed[kind]++; in.listed[kind] <= listedMost {
		in.out.Findings = append(in.out.Findings, fmt.Sprintf(format, args...))
	}
}

// Sum says how many findings were left out.
func (in *Inspection) Sum() {
	for kind, n := range in.listed {
		if n > listedMost {
			in.out.Findings = append(in.out.Findings, fmt.Sprintf("%d more: %s", n-listedMost, kind))
		}
	}
}

// References recounts everything in one view and adds what differs to the findings.
func (in *Inspection) References(ctx context.Context, v spool.View) error {
	in.drops, in.tally = map[spool.ID]uint32{}, map[string]int64{}
	in.dests, in.owned = map[spool.Destination]int64{}, map[uint64]int64{}
	var err error
	if in.owners, err = v.Owners(); err != nil {
		return err
	}
	if err := in.mailboxes(ctx, v); err != nil {
		return err
	}
	for from := (spool.ID{}); ; {
		next, err := in.messages(ctx, v, from)
		if err != nil {
			return err
		}
		if next.IsZero() {
			break
		}
		from = next
	}
	for id := range in.drops {
		in.find("mailbox entries without a message", "mailboxes hold entries of message %s, which has no record", id)
	}
	return in.counters(v)
}

// mailboxes counts entries by message, and checks each mailbox's own sums.
func (in *Inspection) mailboxes(ctx context.Context, v spool.View) error {
	type sums struct{ messages, bytes uint64 }
	boxes := map[uint64]*sums{}
	err := v.AllEntries(func(box, _ uint64, gone bool, e *pb.Entry) bool {
		if id, ok := ids.Of(e.Id); ok {
			in.drops[id]++
		}
		if boxes[box] == nil {
			boxes[box] = &sums{}
		}
		if !gone {
			boxes[box].messages++
			boxes[box].bytes += e.Size
		}
		in.tally[spool.CountMailboxMessages]++
		in.tally[spool.CountMailboxBytes] += int64(e.Size)
		return ctx.Err() == nil
	})
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	accounts, err := v.Accounts()
	if err != nil {
		return err
	}
	for _, a := range accounts {
		box, ok, err := v.Mailbox(a.Address)
		if err != nil {
			return err
		}
		if !ok {
			in.find("accounts without a mailbox", "user %s has no mailbox", a.Address)
			continue
		}
		in.out.Checked.Mailboxes++
		is := boxes[box.Box]
		if is == nil {
			is = &sums{}
		}
		if is.messages != box.Messages || is.bytes != box.Bytes {
			in.find("mailboxes with wrong sums", "mailbox %s says %d messages of %d octets and holds %d of %d",
				a.Address, box.Messages, box.Bytes, is.messages, is.bytes)
		}
	}
	return nil
}

// pageSize is how many messages are read before their parts are.
const pageSize = 1000

// messages checks a page of messages and returns where the next begins; the
// zero id at the end.
func (in *Inspection) messages(ctx context.Context, v spool.View, from spool.ID) (next spool.ID, err error) {
	var all []spool.ID
	var list []*pb.Message
	err = v.Messages(from, ids.Last(), func(id spool.ID, m *pb.Message) bool {
		if len(all) == pageSize {
			next = id
			return false
		}
		all, list = append(all, id), append(list, m)
		return true
	})
	if err = errors.Join(err, ctx.Err()); err != nil {
		return next, err
	}
	for i, id := range all {
		in.out.Checked.Messages++
		if err := in.message(v, id, list[i]); err != nil {
			return next, err
		}
	}
	return next, nil
}

// message checks one message's references.
func (in *Inspection) message(v spool.View, id spool.ID, m *pb.Message) error {
	refs, kept, err := v.Refs(id)
	if err != nil {
		return err
	}
	var open uint32
	err = v.Recipients(id, func(_ uint32, r *pb.Recipient) {
		open++
		in.dests[spool.Destination{Domain: spool.DomainOf(r.Address), State: r.State}]++
		in.owned[in.owners.Of(r.Home, id)]++
	})
	if err != nil {
		return err
	}
	in.out.Checked.Recipients += uint64(open)
	drops := in.drops[id]
	delete(in.drops, id)
	in.tally[spool.CountQueueRecipients] += int64(open)
	if !kept {
		in.tally[spool.CountHistoryMessages]++
		if open > 0 || drops > 0 {
			in.find("messages in use without a body",
				"message %s is finished by its references, but %d recipients and %d mailbox entries need it", id, open, drops)
		}
		return nil
	}
	if refs.Open != open || refs.Drops != drops {
		in.find("messages with wrong references", "message %s counts %d recipients and %d mailbox entries and has %d and %d",
			id, refs.Open, refs.Drops, open, drops)
	}
	if refs.Bytes != m.Size || refs.Chunks != m.Chunks {
		in.find("messages with wrong references", "message %s has %d octets in %d parts, and its references say %d in %d", id,
			m.Size, m.Chunks, refs.Bytes, refs.Chunks)
	}
	in.tally[spool.CountSpoolMessages]++
	in.tally[spool.CountSpoolBytes] += int64(refs.Bytes)
	if open > 0 {
		in.tally[spool.CountQueueMessages]++
		in.tally[spool.CountQueueBytes] += int64(refs.Bytes)
	}
	return nil
}

// counters compares what Apply counted with the recount.
func (in *Inspection) counters(v spool.View) error {
	rules, err := v.Rules()
	if err != nil {
		return err
	}
	in.tally[spool.CountRules] = int64(len(rules))
	if err := v.Policies(func(*pb.Policy) { in.tally[spool.CountPolicies]++ }); err != nil {
		return err
	}
	if err := v.TLS(func(*pb.Tls) { in.tally[spool.CountTLS]++ }); err != nil {
		return err
	}
	for _, name := range []string{
		spool.CountQueueMessages, spool.CountQueueRecipients, spool.CountQueueBytes, spool.CountSpoolMessages,
		spool.CountSpoolBytes, spool.CountHistoryMessages, spool.CountMailboxMessages, spool.CountMailboxBytes,
		spool.CountRules, spool.CountPolicies, spool.CountTLS,
	} {
		n, err := v.Counter(name)
		if err != nil {
			return err
		}
		if n != in.tally[name] {
			in.find("wrong counters", "counter %s says %d and the records %d", name, n, in.tally[name])
		}
	}
	dests, err := v.Destinations()
	if err != nil {
		return err
	}
	for _, d := range dests {
		key := spool.Destination{Domain: d.Domain, State: d.State}
		if in.dests[key] != d.Count {
			in.find("wrong counters", "the counter of %s recipients at %s says %d and the records %d",
				statelog.StateWord(d.State), d.Domain, d.Count, in.dests[key])
		}
		delete(in.dests, key)
	}
	for d, n := range in.dests {
		in.find("wrong counters", "%d %s recipients at %s are not counted", n, statelog.StateWord(d.State), d.Domain)
	}
	owned, err := v.OwnedCounts()
	if err != nil {
		return err
	}
	for epoch, n := range in.owned {
		if owned[epoch] != n {
			in.find("wrong counters", "session %d owns %d recipients by the counters and %d by the records",
				epoch, owned[epoch], n)
		}
		delete(owned, epoch)
	}
	for epoch, n := range owned {
		if n != 0 {
			in.find("wrong counters", "session %d owns %d recipients by the counters and none by the records", epoch, n)
		}
	}
	return nil
}

// Bodies reads every body that this node holds. A message that ends meanwhile is
// skipped.
func (in *Inspection) Bodies(ctx context.Context, r replica.Replica, node string) error {
	for from, more := (spool.ID{}), true; more; {
		var list []*pb.Message
		more = false
		err := r.View(func(v spool.View) error {
			return v.Messages(from, ids.Last(), func(id spool.ID, m *pb.Message) bool {
				if len(list) == pageSize {
					from, more = id, true
					return false
				}
				list = append(list, m)
				return true
			})
		})
		if err != nil {
			return err
		}
		for _, m := range list {
			if err := in.bodyOf(ctx, r, node, m); err != nil {
				return err
			}
		}
	}
	return nil
}

// bodyOf reads one body.
func (in *Inspection) bodyOf(ctx context.Context, r replica.Replica, node string, m *pb.Message) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	id, _ := ids.Of(m.Id)
	kept, err := keeps(r, id)
	if err != nil || !kept {
		return err
	}
	wrong := ReadBody(r, id, m)
	if wrong != "" {
		if kept, err = keeps(r, id); err != nil || !kept {
			return err
		}
		in.find("damaged bodies", "the body of message %s on node %s %s", id, node, wrong)
	}
	in.out.Checked.Bodies++
	return nil
}

func keeps(r replica.Replica, id spool.ID) (kept bool, err error) {
	err = r.View(func(v spool.View) error { _, kept, err = v.Refs(id); return err })
	return kept, err
}

// ReadBody says what is wrong with a body; nothing where it is whole. A report
// that the queue made has no digest.
func ReadBody(r replica.Replica, id spool.ID, m *pb.Message) string {
	body, err := r.OpenBody(id, m.Chunks, nil)
	if err != nil {
		return "can not be opened: " + err.Error()
	}
	defer body.Close()
	sum := sha256.New()
	n, err := digestBody(sum, body, m.DigestTop)
	switch {
	case err != nil:
		return "can not be read: " + err.Error()
	case uint64(n) != m.Size:
		return fmt.Sprintf("has %d octets instead of %d", n, m.Size)
	case len(m.Digest) > 0 && !bytes.Equal(sum.Sum(nil), m.Digest):
		return "differs from its digest"
	}
	return ""
}

// digestBody hashes a body, its first octets last: the octets put on top of a large
// message are known when the rest has gone by (Message.digest_top).
func digestBody(sum hash.Hash, body io.Reader, last uint64) (int64, error) {
	top, err := io.ReadAll(io.LimitReader(body, int64(min(last, spool.MaxInline))))
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(sum, body)
	sum.Write(top)
	return n + int64(len(top)), err
}
