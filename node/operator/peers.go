package operator

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	"relay/node/admin"
	"relay/node/operator/records"
	"relay/queue"
	"relay/smtp/mailaddr"
	"relay/smtp/printable"
)

// Questions that nodes ask each other on behalf of operators.
const (
	askVitals = "status" // → NodeStats, JSON
	askActive = "active" // → refs, 20 octets each
	askHash   = "hash"   // id of a Mark → markHash, JSON
	askWhy    = "why"    // refs, 20 octets each → sentences, JSON
)

// Methods are the questions that answer serves.
var Methods = [...]string{askVitals, askActive, askHash, askWhy}

// Bounds of such questions. A node that does not answer is left alone for a
// while, so that only one page in so many seconds waits for it.
const (
	askWithin  = 300 * time.Millisecond
	askFresh   = time.Second
	askPenalty = 5 * time.Second
	maxRefs    = 10000
)

// NodeStats is what a node tells of itself.
type NodeStats struct {
	Uptime    int64    `json:"uptime_seconds"`
	DiskFree  uint64   `json:"disk_free"`
	DiskTotal uint64   `json:"disk_total"`
	Full      bool     `json:"full,omitempty"` // past the watermark: it refuses new mail
	POP3      int      `json:"pop3_sessions"`
	SMTP      int      `json:"smtp_sessions"`
	Refusing  *bool    `json:"refusing,omitempty"` // new clients, for it is drained; nil: a build that never does
	Served    int      `json:"served,omitempty"`   // sessions of clients that it has not refused
	Version   string   `json:"version"`
	Troubles  []string `json:"troubles,omitempty"` // in words, for the operator
	Advice    []string `json:"advice,omitempty"`   // what would be better, though nothing is wrong
}

// markHash is a node's state hash as of a Mark.
type markHash struct {
	Index uint64 `json:"index"`
	Hash  []byte `json:"hash"`
}

// Answer serves the questions of other nodes' operators. It may be called
// concurrently; an error goes back to the asking node as text.
func (o *Operator) Answer(ctx context.Context, from, method string, req []byte) ([]byte, error) {
	switch method {
	case askVitals:
		return json.Marshal(o.ownVitals())
	case askActive:
		return encodeRefs(o.ownActive()), nil
	case askWhy:
		refs, err := decodeRefs(req)
		if err != nil {
			return nil, err
		}
		return json.Marshal(o.ownWhy(refs))
	case askHash:
		index, hash, err := o.Members.MarkHash(ctx, string(req))
		if err != nil {
			return nil, err
		}
		return json.Marshal(markHash{index, hash})
	}
	return nil, fmt.Errorf("node %s asks %q, which this version does not know", from, method)
}

func (o *Operator) ownVitals() NodeStats {
	if o.NodeStats == nil {
		return NodeStats{}
	}
	return o.NodeStats()
}

func (o *Operator) ownActive() []queue.Ref {
	if o.Active == nil {
		return nil
	}
	refs := o.Active()
	return refs[:min(len(refs), maxRefs)]
}

func (o *Operator) ownWhy(refs []queue.Ref) []string {
	all := make([]string, len(refs))
	if o.Why != nil {
		for i, ref := range refs {
			all[i] = o.Why(ref)
		}
	}
	return all
}

const refSize = 20

func encodeRefs(refs []queue.Ref) []byte {
	b := make([]byte, 0, refSize*len(refs))
	for _, ref := range refs {
		b = binary.BigEndian.AppendUint32(append(b, ref.ID[:]...), ref.Recipient)
	}
	return b
}

func decodeRefs(b []byte) ([]queue.Ref, error) {
	if len(b)%refSize != 0 || len(b) > maxRefs*refSize {
		return nil, fmt.Errorf("%d octets are no list of queue entries", len(b))
	}
	refs := make([]queue.Ref, 0, len(b)/refSize)
	for part := range slices.Chunk(b, refSize) {
		refs = append(refs, queue.Ref{ID: queue.ID(part), Recipient: binary.BigEndian.Uint32(part[16:])})
	}
	return refs, nil
}

// peerCache remembers for a moment what the nodes said.
type peerCache struct {
	mu       sync.Mutex // also held while the nodes are asked: one asks for all
	active   map[queue.Ref]string
	activeAt time.Time
	vitals   map[string]NodeStats
	vitalsAt time.Time
	slow     map[string]time.Time // do not ask before
}

// fresh reports whether what was learnt at an instant may still be shown.
func fresh(at, now time.Time) bool {
	return !at.IsZero() && now.Sub(at) < askFresh && !now.Before(at)
}

// trying returns the recipients that are being tried now and by which node.
// Nodes that do not answer at once are left out. The map must not be changed.
func (o *Operator) trying(ctx context.Context) map[queue.Ref]string {
	p := &o.peers
	p.mu.Lock()
	defer p.mu.Unlock()
	now := o.Now()
	if fresh(p.activeAt, now) {
		return p.active
	}
	all := map[queue.Ref]string{}
	for _, ref := range o.ownActive() {
		all[ref] = o.Node
	}
	for node, answer := range o.askAll(ctx, askActive, nil) {
		refs, err := decodeRefs(answer)
		if err != nil {
			o.Log.Warn("a node's list of active recipients is unreadable", zap.String("node", node), zap.Error(err))
		}
		for _, ref := range refs {
			all[ref] = node
		}
	}
	if ctx.Err() == nil {
		p.active, p.activeAt = all, now
	}
	return all
}

// allVitals returns what the nodes tell of themselves, by id. Nodes that do
// not answer at once are left out. The map must not be changed.
func (o *Operator) allVitals(ctx context.Context) map[string]NodeStats {
	p := &o.peers
	p.mu.Lock()
	defer p.mu.Unlock()
	now := o.Now()
	if fresh(p.vitalsAt, now) {
		return p.vitals
	}
	all := map[string]NodeStats{o.Node: o.ownVitals()}
	for node, answer := range o.askAll(ctx, askVitals, nil) {
		var one NodeStats
		if err := json.Unmarshal(answer, &one); err != nil {
			o.Log.Warn("a node's answer is unreadable", zap.String("node", node), zap.Error(err))
			continue
		}
		all[node] = one
	}
	if ctx.Err() == nil {
		p.vitals, p.vitalsAt = all, now
	}
	return all
}

// askAll asks all other live nodes at once and returns the answers that came
// in time. The caller holds peers.mu.
func (o *Operator) askAll(ctx context.Context, method string, req []byte) map[string][]byte {
	nodes := o.others()
	answers := make([][]byte, len(nodes))
	errs := make([]error, len(nodes))
	within, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	var all sync.WaitGroup
	for i, node := range nodes {
		if o.Now().Before(o.peers.slow[node]) {
			continue
		}
		all.Go(func() { answers[i], errs[i] = o.Members.Ask(within, node, method, req) })
	}
	all.Wait()
	said := make(map[string][]byte, len(nodes))
	for i, node := range nodes {
		switch {
		case errs[i] == nil && answers[i] != nil:
			said[node] = answers[i]
		case errs[i] != nil && ctx.Err() == nil:
			o.Log.Debug("a node does not answer", zap.String("node", node), zap.String("question", method), zap.Error(errs[i]))
			if o.peers.slow == nil {
				o.peers.slow = map[string]time.Time{}
			}
			o.peers.slow[node] = o.Now().Add(askPenalty)
		}
	}
	return said
}

// others lists the other nodes with a live session.
func (o *Operator) others() []string {
	var nodes []string
	err := o.Replica.View(func(v spool.View) error {
		sessions, err := v.Sessions()
		for _, s := range sessions {
			if s.Node != o.Node {
				nodes = append(nodes, s.Node)
			}
		}
		return err
	})
	if err != nil {
		o.Log.Error("cannot read the sessions", zap.Error(err))
	}
	return nodes
}

// whyOf asks the owner's queue manager what it waits for with some entries of
// one message; empty texts where it does not answer.
func (o *Operator) whyOf(ctx context.Context, owner string, refs []queue.Ref) []string {
	if owner == o.Node {
		return o.ownWhy(refs)
	}
	none := make([]string, len(refs))
	if owner == "" || len(refs) == 0 || len(refs) > maxRefs {
		return none
	}
	within, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	answer, err := o.Members.Ask(within, owner, askWhy, encodeRefs(refs))
	var said []string
	if err != nil || json.Unmarshal(answer, &said) != nil || len(said) != len(refs) {
		return none
	}
	return said
}

// Send implements admin.Mail.
func (o *Operator) Send(ctx context.Context, by admin.By, e admin.Envelope, message io.Reader) (*admin.Receipt, error) {
	if o.Submit == nil {
		return nil, admin.Unsupported("the sending of mail")
	}
	if len(e.Recipients) == 0 {
		return nil, admin.Invalid("a recipient is missing")
	}
	sender, err := "", error(nil)
	if e.Sender != "" {
		if sender, err = envelopeAddress(e.Sender); err != nil {
			return nil, err
		}
	}
	to := make([]string, len(e.Recipients))
	for i, one := range e.Recipients {
		if to[i], err = envelopeAddress(one); err != nil {
			return nil, err
		}
	}
	return o.Submit(ctx, sender, to, message, by)
}

// envelopeAddress checks an address as SMTP does: a text that is no address must not
// come into the queue, and a line end in one not into a dialogue. A bare local part is
// completed later.
func envelopeAddress(text string) (string, error) {
	if !strings.Contains(text, "@") {
		if _, err := mailaddr.Parse(text + "@local.invalid"); err == nil {
			return text, nil
		}
	}
	plain, err := mailaddr.Parse(text)
	if err != nil {
		return "", admin.Invalid("%s is not an address", printable.Text(text, records.MaxName))
	}
	return plain, nil
}
