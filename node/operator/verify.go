package operator

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"sync"

	"github.com/oklog/ulid/v2"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/operator/edit"
	"relay/node/replica"
)

// verifyFindings bounds the findings of one kind that are listed singly.
const verifyFindings = 20

// Verify implements admin.Cluster: it has every node hash its state as of one
// command and compares the hashes; it checks this node's references and
// counters against its records, which by the hashes stand for everybody's; and
// with Bodies it reads every body that this node holds.
func (o *Operator) Verify(ctx context.Context, opts admin.VerifyOptions) (*admin.Verification, error) {
	id := ulid.Make().String()
	res, err := replica.Propose(ctx, o.Replica, spool.KindMark, &pb.Mark{Id: id})
	if err != nil {
		return nil, edit.ProposalError(err)
	}
	out := &admin.Verification{Index: res.Index, Nodes: []admin.NodeHash{}, Findings: []string{}}
	raft, err := o.Members.Status(ctx)
	if err != nil {
		return nil, err
	}
	var nodes []string
	for i := range raft.Members {
		if raft.Members[i].Role != "removed" {
			nodes = append(nodes, raft.Members[i].ID)
		}
	}
	if !slices.Contains(nodes, o.Node) {
		nodes = append(nodes, o.Node)
	}
	out.Nodes = o.hashes(ctx, id, res.Index, nodes)
	compareHashes(out)
	check := &inspection{out: out, listed: map[string]int{}}
	if err := o.Replica.Frozen(func(v spool.View, _ uint64) error { return check.references(ctx, v) }); err != nil {
		return nil, err
	}
	if opts.Bodies {
		if err := o.bodies(ctx, check); err != nil {
			return nil, err
		}
	}
	check.sum()
	out.OK = len(out.Findings) == 0
	return out, nil
}

// hashes asks the nodes, all at once, for their hash as of a Mark.
func (o *Operator) hashes(ctx context.Context, id string, index uint64, nodes []string) []admin.NodeHash {
	all := make([]admin.NodeHash, len(nodes))
	var wg sync.WaitGroup
	for i, node := range nodes {
		wg.Go(func() {
			all[i].ID = node
			hash, err := o.markOf(ctx, node, id)
			switch {
			case err != nil:
				all[i].Error = plain(err)
			case hash.Index != index:
				all[i].Error = fmt.Sprintf("it applied the mark at %d, not at %d", hash.Index, index)
			}
			all[i].Hash = hex.EncodeToString(hash.Hash)
		})
	}
	wg.Wait()
	return all
}

func (o *Operator) markOf(ctx context.Context, node, id string) (m markHash, err error) {
	if node == o.Node {
		m.Index, m.Hash, err = o.Members.MarkHash(ctx, id)
		return m, err
	}
	answer, err := o.Members.Ask(ctx, node, askHash, []byte(id))
	if err == nil {
		err = json.Unmarshal(answer, &m)
	}
	return m, err
}

// compareHashes finds the nodes that differ from what most have.
func compareHashes(out *admin.Verification) {
	votes := map[string]int{}
	for _, n := range out.Nodes {
		if n.Error == "" {
			votes[n.Hash]++
		}
	}
	most := ""
	for hash, n := range votes {
		if n > votes[most] || n == votes[most] && hash < most {
			most = hash
		}
	}
	for _, n := range out.Nodes {
		switch {
		case n.Error != "":
			out.Findings = append(out.Findings, fmt.Sprintf("node %s gave no hash: %s", n.ID, n.Error))
		case n.Hash != most:
			out.Findings = append(out.Findings,
				fmt.Sprintf("node %s holds another state at %d than most: stop it, empty its data directory and let it join again",
					n.ID, out.Index))
		}
	}
}

// inspection checks one node's records against each other.
type inspection struct {
	out    *admin.Verification
	listed map[string]int
	drops  map[spool.ID]uint32 // mailbox entries of each message
	tally  map[string]int64    // counters as they should be
	dests  map[spool.Destination]int64
	owned  map[uint64]int64
	owners spool.Owners
}

// find lists a finding; of each kind only the first ones.
func (in *inspection) find(kind, format string, args ...any) {
	if in.listed[kind]++; in.listed[kind] <= verifyFindings {
		in.out.Findings = append(in.out.Findings, fmt.Sprintf(format, args...))
	}
}

// sum says how many findings were left out.
func (in *inspection) sum() {
	for kind, n := range in.listed {
		if n > verifyFindings {
			in.out.Findings = append(in.out.Findings, fmt.Sprintf("%d more: %s", n-verifyFindings, kind))
		}
	}
}

// references recounts everything.
func (in *inspection) references(ctx context.Context, v spool.View) error {
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
func (in *inspection) mailboxes(ctx context.Context, v spool.View) error {
	type sums struct{ messages, bytes uint64 }
	boxes := map[uint64]*sums{}
	err := v.AllEntries(func(box, _ uint64, gone bool, e *pb.Entry) bool {
		if id, ok := toID(e.Id); ok {
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

// verifyPage is how many messages are read before their parts are.
const verifyPage = 1000

// messages checks a page of messages and returns where the next begins; the
// zero id at the end.
func (in *inspection) messages(ctx context.Context, v spool.View, from spool.ID) (next spool.ID, err error) {
	var ids []spool.ID
	var list []*pb.Message
	err = v.Messages(from, lastID(), func(id spool.ID, m *pb.Message) bool {
		if len(ids) == verifyPage {
			next = id
			return false
		}
		ids, list = append(ids, id), append(list, m)
		return true
	})
	if err = errors.Join(err, ctx.Err()); err != nil {
		return next, err
	}
	for i, id := range ids {
		in.out.Checked.Messages++
		if err := in.message(v, id, list[i]); err != nil {
			return next, err
		}
	}
	return next, nil
}

// message checks one message's references.
func (in *inspection) message(v spool.View, id spool.ID, m *pb.Message) error {
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
func (in *inspection) counters(v spool.View) error {
	rules, err := v.Rules()
	if err != nil {
		return err
	}
	in.tally[spool.CountRules] = int64(len(rules))
	for _, name := range []string{
		spool.CountQueueMessages, spool.CountQueueRecipients, spool.CountQueueBytes, spool.CountSpoolMessages,
		spool.CountSpoolBytes, spool.CountHistoryMessages, spool.CountMailboxMessages, spool.CountMailboxBytes,
		spool.CountRules,
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
			in.find("wrong counters", "the counter of %s recipients at %s says %d and the records %d", stateText(d.State),
				d.Domain, d.Count, in.dests[key])
		}
		delete(in.dests, key)
	}
	for d, n := range in.dests {
		in.find("wrong counters", "%d %s recipients at %s are not counted", n, stateText(d.State), d.Domain)
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

// bodies reads every body that this node holds. A message that ends meanwhile is
// skipped.
func (o *Operator) bodies(ctx context.Context, in *inspection) error {
	for from, more := (spool.ID{}), true; more; {
		var list []*pb.Message
		more = false
		err := o.Replica.View(func(v spool.View) error {
			return v.Messages(from, lastID(), func(id spool.ID, m *pb.Message) bool {
				if len(list) == verifyPage {
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
			if err := o.bodyOf(ctx, in, m); err != nil {
				return err
			}
		}
	}
	return nil
}

// bodyOf reads one body.
func (o *Operator) bodyOf(ctx context.Context, in *inspection, m *pb.Message) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	id, _ := toID(m.Id)
	kept, err := o.kept(id)
	if err != nil || !kept {
		return err
	}
	wrong := o.readBody(id, m)
	if wrong != "" {
		if kept, err = o.kept(id); err != nil || !kept {
			return err
		}
		in.find("damaged bodies", "the body of message %s on node %s %s", id, o.Node, wrong)
	}
	in.out.Checked.Bodies++
	return nil
}

func (o *Operator) kept(id spool.ID) (kept bool, err error) {
	err = o.Replica.View(func(v spool.View) error { _, kept, err = v.Refs(id); return err })
	return kept, err
}

// readBody says what is wrong with a body; nothing where it is whole. A report
// that the queue made has no digest.
func (o *Operator) readBody(id spool.ID, m *pb.Message) string {
	body, err := o.Replica.OpenBody(id, m.Chunks, nil)
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
