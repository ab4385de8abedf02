package spool

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sort"
	"strings"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	pb "relay/cluster/spool/spoolpb"
)

// buckets is how many shards the queue entries of one session fall into, so
// that several nodes can share what a dead one leaves.
const buckets = 16

func bucketOf(id ID) uint32 { return uint32(id[15]) % buckets }

type shardKey struct {
	home   uint64
	bucket uint32
}

// state is what Apply keeps in memory; every part of it is in the store too.
//
// Locks are read from memory. The machine keeps the records of the mailboxes that are
// held, as it does the sessions. Every POP3 session writes and deletes its mailbox's
// record, and a read of a deleted key walks over all that was written under it since
// the store's last flush: the twenty thousandth session of a mailbox cost half a
// millisecond on each node, and costs 15 µs now (go test ./cluster/disk -bench Locks
// -benchtime 20000x).
type state struct {
	clock    int64
	timing   *pb.TimeState // the clock's jumps
	cluster  *pb.Cluster
	settings *pb.Settings
	sessions map[string]*pb.Session // by node
	epochs   map[uint64]*pb.Session // the same, by epoch
	shards   map[shardKey]*pb.Shard // exceptions to "the home session owns it"
	locks    map[string][]byte      // records of the mailboxes that are held
	counters map[string]int64
	dedup    dedupFilter // tells less than the store has
	dirty    map[string]struct{}
	windows  windows
	rulesEnd int64 // when the first of the standing rules ends that do; 0: none does
	ticked   bool
	changes  Changes
	watched  *atomic.Bool // nil: nobody ever watches
	sums     sums
}

func (s *state) load(r Reader) error {
	*s = state{
		cluster:  &pb.Cluster{},
		settings: &pb.Settings{},
		timing:   &pb.TimeState{},
		sessions: map[string]*pb.Session{},
		epochs:   map[uint64]*pb.Session{},
		shards:   map[shardKey]*pb.Shard{},
		locks:    map[string][]byte{},
		counters: map[string]int64{},
		dirty:    map[string]struct{}{},
	}
	v := View{r}
	if _, _, err := load(r, key(kMeta, "cluster"), s.cluster); err != nil {
		return fmt.Errorf("spool: load cluster: %w", err)
	}
	if err := knows(s.cluster); err != nil {
		return err
	}
	if _, _, err := load(r, key(kMeta, "settings"), s.settings); err != nil {
		return fmt.Errorf("spool: load settings: %w", err)
	}
	var err error
	if s.clock, err = v.Clock(); err != nil {
		return fmt.Errorf("spool: load clock: %w", err)
	}
	if _, _, err := load(r, key(kMeta, "time"), s.timing); err != nil {
		return fmt.Errorf("spool: load the clock's jumps: %w", err)
	}
	sessions, err := v.Sessions()
	if err != nil {
		return fmt.Errorf("spool: load sessions: %w", err)
	}
	for _, one := range sessions {
		s.sessions[one.Node], s.epochs[one.Epoch] = one, one
	}
	shards, err := list(r, []byte{kShard}, func() *pb.Shard { return new(pb.Shard) })
	if err != nil {
		return fmt.Errorf("spool: load shards: %w", err)
	}
	for _, one := range shards {
		s.shards[shardKey{one.Home, one.Bucket}] = one
	}
	if err := s.loadLocks(r); err != nil {
		return fmt.Errorf("spool: load locks: %w", err)
	}
	if err := s.dedup.load(r, s.clock/DedupMs); err != nil {
		return fmt.Errorf("spool: load digests of messages: %w", err)
	}
	s.counters, err = v.Counters("")
	if err != nil {
		return fmt.Errorf("spool: load counters: %w", err)
	}
	if err := s.windows.load(r); err != nil {
		return fmt.Errorf("spool: load windows of history: %w", err)
	}
	return s.loadRules(v)
}

// loadRules finds when the first of the standing rules ends.
func (s *state) loadRules(v View) error {
	rules, err := v.Rules()
	if err != nil {
		return fmt.Errorf("spool: load rules: %w", err)
	}
	for _, one := range rules {
		s.ruleEnds(one)
	}
	return nil
}

// flush writes the clock and the counters that changed.
func (s *state) flush(b Batch) error {
	if s.ticked {
		if err := b.Set(key(kMeta, "clock"), binary.BigEndian.AppendUint64(nil, uint64(s.clock))); err != nil {
			return err
		}
		s.ticked = false
	}
	names := make([]string, 0, len(s.dirty))
	for name := range s.dirty {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		var err error
		if n := s.counters[name]; n != 0 {
			err = b.Set(key(kCounter, name), binary.AppendVarint(nil, n))
		} else {
			delete(s.counters, name)
			err = b.Delete(key(kCounter, name))
		}
		if err != nil {
			return err
		}
	}
	clear(s.dirty)
	return s.windows.flush(b)
}

func (s *state) count(name string, by int64) {
	if by == 0 {
		return
	}
	s.sums.count(name, by)
	s.counters[name] += by
	s.dirty[name] = struct{}{}
}

// Names of counters. Destinations and shards have one a piece.
const (
	CountQueueMessages   = "queue.messages"   // messages with an open recipient
	CountQueueRecipients = "queue.recipients" // open recipients
	CountQueueBytes      = "queue.bytes"      // bodies of such messages
	CountSpoolMessages   = "spool.messages"   // messages whose body is kept
	CountSpoolBytes      = "spool.bytes"
	CountHistoryMessages = "history.messages" // finished messages
	CountHistoryBytes    = "history.bytes"
	CountAuditBytes      = "audit.bytes"
	CountAccepted        = "total.accepted" // totals since the cluster was made
	CountDelivered       = "total.delivered"
	CountDeferred        = "total.deferred"
	CountBounced         = "total.bounced"
	CountMailboxMessages = "mailbox.messages"
	CountMailboxBytes    = "mailbox.bytes"
	CountRules           = "rules"    // standing rules
	CountPolicies        = "policies" // MTA-STS policies
	CountTLS             = "tls"      // counts for TLS-RPT

	countDestination = "dest/"
	countShard       = "shard/"
)

func destinationCounter(domain string, st pb.State) string {
	return countDestination + domain + "/" + st.String()
}

func shardCounter(home uint64, bucket uint32) string {
	return fmt.Sprintf("%s%d/%d", countShard, home, bucket)
}

// DomainOf returns the lower-case domain of an address, or "" without one.
func DomainOf(address string) string {
	return strings.ToLower(address[strings.LastIndexByte(address, '@')+1:])
}

// owner returns the epoch of the live session that owns a shard, or 0.
func (s *state) owner(home uint64, bucket uint32) uint64 {
	if one, ok := s.shards[shardKey{home, bucket}]; ok {
		return one.Owner
	}
	if _, live := s.epochs[home]; live {
		return home
	}
	return 0
}

// tx is one command's access to a batch: the first store error sticks, and
// Apply returns it, so that the steps in between stay readable.
type tx struct {
	*state
	b     Batch
	index uint64
	seq   uint16 // history lines written by this command
	err   error
}

func (t *tx) fail(err error) {
	if t.err == nil && err != nil {
		t.err = err
	}
}

func (t *tx) get(k []byte) []byte {
	if t.err != nil {
		return nil
	}
	v, err := t.b.Get(k)
	t.fail(err)
	return v
}

// read fills into from a record; false where there is none.
func (t *tx) read(k []byte, into proto.Message) bool {
	v := t.get(k)
	if v == nil {
		return false
	}
	if err := proto.Unmarshal(v, into); err != nil {
		t.fail(fmt.Errorf("spool: record %q is corrupt: %w", k, err))
		return false
	}
	return t.err == nil
}

var marshal = proto.MarshalOptions{Deterministic: true}

func (t *tx) write(k []byte, m proto.Message) int {
	if t.err != nil {
		return 0
	}
	v, err := marshal.Marshal(m)
	t.fail(err)
	t.set(k, v)
	return len(v)
}

func (t *tx) set(k, v []byte) {
	if t.err == nil {
		t.sums.write('s', k, v)
		t.fail(t.b.Set(k, v))
	}
}

func (t *tx) del(k []byte) {
	if t.err == nil {
		t.sums.write('d', k, nil)
		t.fail(t.b.Delete(k))
	}
}

// delRange deletes what a kind of record has in a range of ids.
func (t *tx) delRange(kind byte, lo, hi []byte) {
	from, to := span(kind, lo, hi)
	if t.err == nil && bytes.Compare(from, to) < 0 {
		t.sums.write('R', from, to)
		t.fail(t.b.DeleteRange(from, to))
	}
}

// refs reads what still needs a message; false where it is finished.
func (t *tx) refs(id ID, refs *pb.Refs) bool {
	return t.read(keyID(kRefs, id), refs) && !refs.Late
}

// scan collects keys first, because a batch must not be written while it is
// scanned. It stops after max keys; 0 means all.
func (t *tx) scan(prefix []byte, max int, fn func(k, v []byte)) {
	if t.err != nil {
		return
	}
	type pair struct{ k, v []byte }
	var found []pair
	t.fail(t.b.Scan(prefix, after(prefix), func(k, v []byte) bool {
		found = append(found, pair{append([]byte(nil), k...), append([]byte(nil), v...)})
		return max == 0 || len(found) < max
	}))
	for _, p := range found {
		if t.err == nil {
			fn(p.k, p.v)
		}
	}
}

// watching reports whether somebody wants to hear what happens.
func (t *tx) watching() bool { return t.watched != nil && t.watched.Load() }

// event adds a line to a message's history and returns its octets.
func (t *tx) event(id ID, e *pb.Event) uint64 {
	e.Index = t.index
	if e.AtMs == 0 {
		e.AtMs = t.clock
	}
	n := t.write(keyHistory(id, t.index, t.seq), e)
	t.seq++
	if t.watching() {
		t.changes.Happened = append(t.changes.Happened,
			Happening{Index: t.index, N: uint32(t.seq), ID: id, Event: proto.CloneOf(e)})
	}
	return uint64(n) + sizeHistory
}

func (t *tx) ok() *pb.Result { return &pb.Result{Index: t.index} }

func (t *tx) refuse(code pb.Code, format string, args ...any) *pb.Result {
	return &pb.Result{Index: t.index, Code: code, Text: fmt.Sprintf(format, args...)}
}

func parseShardCounter(name string) (home uint64, bucket uint32, ok bool) {
	n, err := fmt.Sscanf(name, countShard+"%d/%d", &home, &bucket)
	return home, bucket, n == 2 && err == nil
}
