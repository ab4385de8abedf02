package inbound

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	"relay/node/replica"
)

// receipt names one of the messages that are the same: see repeat.go.
type receipt struct {
	key [16]byte
	n   uint32
}

// receipts remember which messages their clients have surely read the 250 of, and
// ask other nodes. Nothing of it is on any disk. Its methods may be called
// concurrently; a nil one knows nothing.
//
// # Repeats (2026-11-29)
//
// Apply takes an Accept for a repeat by its key twin: a digest of client, envelope and octets, and
// since 2026-11-29 of a number. The number is 0 for the first, and one more for each that its client
// has surely read the 250 of (smtp.Receiver) before it sent the same again. It is known in memory
// only, at the node that answered (receipts, 10 to 20 minutes, two halves of 128k entries, 10 MB); a
// node that meets a repeat asks all that live (receipt, 1 s), any of which may know more. The repeat
// counts as one if nobody is sure. A new message asks nobody and writes nothing more. Commands and
// Apply are as in version 1. Large bodies are dropped by Apply at a repeat, so the key is looked up
// before they are proposed; where that is too early, 451. Rejected: a proof in the log (a write for
// every message), the accepting node alone as a witness (a repeat may have been answered elsewhere).
type receipts struct {
	replica replica.Replica
	node    string
	ask1    func(ctx context.Context, node, method string, req []byte) ([]byte, error)
	log     *zap.Logger
	most    int // of each half

	mu    sync.Mutex
	halfs [2]map[uint64]uint32 // by the beginning of a key: the number of the next that is meant; the newer half first
	since time.Time            // the newer half began
}

const (
	// receiptsMost bounds each half: some 5 MB.
	receiptsMost = 128 << 10
	// receiptsFor is how long a half is the newer one: Apply knows a repeat for as
	// long, and what was used for a message has to outlive its key.
	receiptsFor = spool.DedupMs * time.Millisecond
	// MethodReceipt is what a node asks another under: key, 16 octets → the number of
	// the next message, 4 octets.
	MethodReceipt = "receipt"
	// receiptWithin bounds what a repeat waits for other nodes.
	receiptWithin = time.Second
)

func newReceipts(r replica.Replica, node string, ask func(context.Context, string, string, []byte) ([]byte, error),
	log *zap.Logger) *receipts {
	return &receipts{replica: r, node: node, ask1: ask, log: log, most: receiptsMost}
}

// note says that a client has read the 250 of a message.
func (r *receipts) note(one receipt) {
	if r == nil || one == (receipt{}) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.put(one.key[:], max(one.n+1, r.look(one.key[:])))
}

// read is the number of the next message with a key that is meant, as far as this
// node knows. An entry that is used is remembered for as long again.
func (r *receipts) read(key []byte) uint32 {
	if r == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.look(key)
	if n > 0 {
		r.put(key, n)
	}
	return n
}

func (r *receipts) look(key []byte) uint32 {
	k := binary.BigEndian.Uint64(key)
	return max(r.halfs[0][k], r.halfs[1][k])
}

// put makes an entry in the newer half. The caller holds mu.
func (r *receipts) put(key []byte, n uint32) {
	now := time.Now()
	switch age := now.Sub(r.since); {
	case r.halfs[0] != nil && age < receiptsFor && len(r.halfs[0]) < r.most:
	case age >= 2*receiptsFor:
		r.halfs, r.since = [2]map[uint64]uint32{{}, nil}, now
	default:
		r.halfs, r.since = [2]map[uint64]uint32{{}, r.halfs[0]}, now
	}
	r.halfs[0][binary.BigEndian.Uint64(key)] = n
}

// answer is the other side of ask.
func (r *receipts) answer(req []byte) []byte {
	var n uint32
	if len(req) == len(receipt{}.key) {
		n = r.read(req)
	}
	return binary.BigEndian.AppendUint32(nil, n)
}

// ask returns what any node that lives knows. A node that does not answer in time
// knows nothing.
func (r *receipts) ask(ctx context.Context, key []byte) uint32 {
	if r == nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, receiptWithin)
	defer cancel()
	nodes := replica.Others(r.replica, r.node)
	said := make([]uint32, len(nodes))
	var all sync.WaitGroup
	for i, node := range nodes {
		all.Go(func() {
			answer, err := r.ask1(ctx, node, MethodReceipt, key)
			if err == nil && len(answer) == 4 {
				said[i] = binary.BigEndian.Uint32(answer)
			} else {
				r.log.Debug("a node does not tell what clients have read", zap.String("node", node), zap.Error(err))
			}
		})
	}
	all.Wait()
	n := r.read(key)
	for _, other := range said {
		n = max(n, other)
	}
	return n
}
