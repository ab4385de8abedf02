package datadir

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"relay/cluster/fault"
)

const (
	promiseFile = "promise"
	slotSize    = 4 << 10
	slotHead    = 16  // sequence (8 octets), length (4), CRC-32C (4)
	MaxPending  = 16  // nonces
	maxHere     = 8   // nonces
	maxDiverged = 512 // octets
)

// Promised is what a node must not forget, whatever becomes of its log and
// store. All of it says "at least": an older build does not write it.
//
// The file has two slots with checksums, and is written with each probe.
type Promised struct {
	Cluster   string          `json:"cluster"`
	Node      string          `json:"node"`
	Log       string          `json:"log"` // as in the identity
	Version   uint32          `json:"version,omitempty"`
	Term      uint64          `json:"term,omitempty"`
	LastTerm  uint64          `json:"last_term,omitempty"`
	LastIndex uint64          `json:"last_index,omitempty"`
	Commit    uint64          `json:"commit,omitempty"` // raft's commit index
	Applied   uint64          `json:"applied,omitempty"`
	Acked     Acked           `json:"acked,omitzero"`
	Pending   []string        `json:"pending,omitempty"`  // nonces sent whose answer has not come
	Home      string          `json:"home,omitempty"`     // this machine since its boot, and the log's file
	Here      []string        `json:"here,omitempty"`     // nonces that were made there
	Peers     map[string]Mark `json:"peers,omitempty"`    // what followers acknowledged to this node
	Birth     string          `json:"birth,omitempty"`    // of the log's file (BirthOf)
	Diverged  string          `json:"diverged,omitempty"` // how this replica differs from the others
}

// Acked is the last registration that was answered.
type Acked struct {
	Nonce string `json:"nonce,omitempty"`
	Epoch uint64 `json:"epoch,omitempty"`
}

// Mark is a place in a log that its owner has acknowledged: in that term, up
// to that index.
type Mark struct {
	Term  uint64 `json:"term"`
	Index uint64 `json:"index"`
	Log   string `json:"log,omitempty"` // name of that log, where it is known
}

// Promise keeps promised in a file of two slots that are written in turn, so
// that a write that is cut short leaves the one before. Memory and file have
// locks of their own: a reader never waits for the disk.
type Promise struct {
	writing sync.Mutex // guards file and seq
	file    *os.File
	seq     uint64

	mu  sync.Mutex
	now Promised
}

// OpenPromise opens the file of a data directory. If there is none, it makes
// one from first, which says what log and store know.
func OpenPromise(dir string, id *Identity, first Promised) (*Promise, error) {
	first.Cluster, first.Node, first.Log = id.Cluster, id.Node, id.Log
	path := filepath.Join(dir, promiseFile)
	p, err := readPromise(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), err != nil && id.Fresh:
		return makePromise(path, first)
	case err != nil:
		return nil, err
	}
	if p.now.Cluster != id.Cluster || p.now.Node != id.Node || p.now.Log != id.Log {
		if id.Fresh { // left behind by a node that was here before: this one has promised nothing yet
			if err := p.Close(); err != nil {
				return nil, err
			}
			return makePromise(path, first)
		}
		return nil, errors.Join(fmt.Errorf("%w: %s is of node %s with another log: move the data directory away and join "+
			"again with a token",
			fault.ErrLogLost, path, p.now.Node), p.Close())
	}
	return p, nil
}

// makePromise writes both slots of a new file, and only then gives it its name.
func makePromise(path string, first Promised) (*Promise, error) {
	p := &Promise{now: first, seq: 1}
	var both []byte
	for seq := range uint64(2) {
		slot, err := encodeSlot(seq, first)
		if err != nil {
			return nil, err
		}
		both = append(both, slot...)
	}
	if err := WriteFile(path, both); err != nil {
		return nil, fmt.Errorf("cluster: write %s: %w", path, err)
	}
	var err error
	p.file, err = os.OpenFile(path, os.O_RDWR, 0o600)
	return p, err
}

// readPromise opens a file and reads the newest slot that is whole.
func readPromise(path string) (*Promise, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	p := &Promise{file: f}
	found := false
	for i := range int64(2) {
		slot := make([]byte, slotSize)
		if _, err := f.ReadAt(slot, i*slotSize); err != nil {
			continue
		}
		if seq, v, ok := decodeSlot(slot); ok && (!found || seq > p.seq) {
			p.seq, p.now, found = seq, v, true
		}
	}
	if !found {
		return nil, errors.Join(fmt.Errorf("%w: %s is damaged: move the data directory away and join again with a token",
			fault.ErrLogLost, path), f.Close())
	}
	return p, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encodeSlot makes a slot. It leaves out the other nodes' marks, which they know
// too, where there is no room for all.
func encodeSlot(seq uint64, v Promised) ([]byte, error) {
	b, err := json.Marshal(v)
	if err == nil && len(b) > slotSize-slotHead {
		v.Peers = nil
		b, err = json.Marshal(v)
	}
	if err != nil {
		return nil, err
	}
	if len(b) > slotSize-slotHead {
		return nil, fmt.Errorf("cluster: %d octets do not fit into a slot of %s", len(b), promiseFile)
	}
	slot := make([]byte, slotSize)
	binary.BigEndian.PutUint64(slot, seq)
	binary.BigEndian.PutUint32(slot[8:], uint32(len(b)))
	copy(slot[slotHead:], b)
	binary.BigEndian.PutUint32(slot[12:], slotSum(slot, len(b)))
	return slot, nil
}

// slotSum covers sequence, length and contents.
func slotSum(slot []byte, n int) uint32 {
	return crc32.Update(crc32.Checksum(slot[:12], castagnoli), castagnoli, slot[slotHead:slotHead+n])
}

func decodeSlot(slot []byte) (seq uint64, v Promised, ok bool) {
	n := binary.BigEndian.Uint32(slot[8:])
	if n > slotSize-slotHead || slotSum(slot, int(n)) != binary.BigEndian.Uint32(slot[12:]) {
		return 0, v, false
	}
	err := json.Unmarshal(slot[slotHead:slotHead+n], &v)
	return binary.BigEndian.Uint64(slot), v, err == nil
}

// Look returns what is promised; the caller must not change what it points to.
func (p *Promise) Look() Promised {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// Note changes what is promised in memory; the next write brings it to disk.
// fn replaces slices and maps and does not change them.
func (p *Promise) Note(fn func(*Promised)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn(&p.now)
	p.now.Pending = p.now.Pending[max(0, len(p.now.Pending)-MaxPending):]
	p.now.Here = p.now.Here[max(0, len(p.now.Here)-maxHere):]
	p.now.Diverged = p.now.Diverged[:min(len(p.now.Diverged), maxDiverged)]
}

// Write changes what is promised, as note does, and returns when it is on the
// disk. It also proves that the disk takes writes.
func (p *Promise) Write(fn func(*Promised)) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.Note(fn)
	slot, err := encodeSlot(p.seq+1, p.Look())
	if err != nil {
		return err
	}
	if _, err := p.file.WriteAt(slot, int64((p.seq+1)%2)*slotSize); err != nil {
		return err
	}
	if err := p.file.Sync(); err != nil {
		return err
	}
	p.seq++
	return nil
}

// Close closes the file.
func (p *Promise) Close() error {
	p.writing.Lock()
	defer p.writing.Unlock()
	return p.file.Close()
}

// Nonces are all that this directory registered with last, or may have.
func (v Promised) Nonces() []string {
	all := slices.Clone(v.Pending)
	if v.Acked.Nonce != "" {
		all = append(all, v.Acked.Nonce)
	}
	return all
}

// Furthest merges what is known of the members' logs. Former members drop out
// when others need the room.
func Furthest(old, now map[string]Mark) map[string]Mark {
	all := maps.Clone(now)
	for node, m := range old {
		if have, ok := all[node]; !ok || have.Log == m.Log && have.Less(m) {
			if all == nil {
				all = map[string]Mark{}
			}
			all[node] = m
		}
	}
	return all
}

// Less orders places in a log: a later term first, as only its leader can have
// made a log shorter.
func (m Mark) Less(o Mark) bool {
	return m.Term < o.Term || m.Term == o.Term && m.Index < o.Index
}

// Prune takes the leader's word for which registration was the last, when there
// are many whose answer never came: none of the others can count any more.
func (p *Promised) Prune(nonce string, epoch uint64) {
	if len(p.Pending) < MaxPending/2 {
		return
	}
	if nonce != "" && slices.Contains(p.Pending, nonce) {
		p.Acked, p.Pending = Acked{nonce, epoch}, nil
	}
	if nonce == p.Acked.Nonce && epoch == p.Acked.Epoch {
		p.Pending = nil
	}
}
