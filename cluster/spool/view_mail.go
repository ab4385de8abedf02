package spool

import (
	"errors"
	"maps"
	"strings"

	"google.golang.org/protobuf/proto"

	pb "relay/cluster/spool/spoolpb"
)

// Message returns a message's record, also after it is finished, as long as
// its history is kept.
func (v View) Message(id ID) (*pb.Message, bool, error) {
	return load(v.R, keyID(kMessage, id), new(pb.Message))
}

// Refs returns what still needs a message's body; false when it is finished.
func (v View) Refs(id ID) (*pb.Refs, bool, error) {
	refs, ok, err := load(v.R, keyID(kRefs, id), new(pb.Refs))
	return refs, ok && !refs.Late, err
}

// Recipient returns one open recipient.
func (v View) Recipient(id ID, n uint32) (*pb.Recipient, bool, error) {
	return load(v.R, keyRecipient(id, n), new(pb.Recipient))
}

// Recipients calls fn for each open recipient of a message.
func (v View) Recipients(id ID, fn func(n uint32, r *pb.Recipient)) error {
	return v.recipients(keyID(kRecipient, id), func(_ ID, n uint32, r *pb.Recipient) bool { fn(n, r); return true })
}

// Queue calls fn for each open recipient of the cluster, oldest message first,
// beginning with the id from, until fn returns false. The record is reused:
// fn must not keep it.
func (v View) Queue(from ID, fn func(id ID, n uint32, r *pb.Recipient) bool) error {
	return scanRecipients(v.R, keyID(kRecipient, from), []byte{kRecipient + 1}, fn)
}

func (v View) recipients(prefix []byte, fn func(id ID, n uint32, r *pb.Recipient) bool) error {
	return scanRecipients(v.R, prefix, after(prefix), fn)
}

func scanRecipients(r Reader, lo, hi []byte, fn func(id ID, n uint32, r *pb.Recipient) bool) error {
	var bad error
	var rec pb.Recipient
	var reader pb.RecipientReader
	err := r.Scan(lo, hi, func(k, val []byte) bool {
		id, ok := toID(k[1:sizeID])
		if !ok {
			return true
		}
		if bad = reader.Read(val, &rec); bad != nil {
			return false
		}
		return fn(id, seqOf(k), &rec)
	})
	if err == nil {
		err = bad
	}
	return err
}

// Owned calls fn for each open recipient that a session owns.
func (v View) Owned(epoch uint64, fn func(id ID, n uint32, r *pb.Recipient)) error {
	owners, err := v.Owners()
	if err != nil || epoch == 0 {
		return err
	}
	return v.Queue(ID{}, func(id ID, n uint32, r *pb.Recipient) bool {
		if owners.Of(r.Home, id) == epoch {
			fn(id, n, r)
		}
		return true
	})
}

// Owners knows who owns which queue entries at one point of time.
type Owners struct {
	live   map[uint64]string // epoch → node
	shards map[shardKey]*pb.Shard
}

// Owners reads the sessions and shards.
func (v View) Owners() (Owners, error) {
	o := Owners{live: map[uint64]string{}, shards: map[shardKey]*pb.Shard{}}
	sessions, err := v.Sessions()
	if err != nil {
		return o, err
	}
	for _, s := range sessions {
		o.live[s.Epoch] = s.Node
	}
	shards, err := list(v.R, []byte{kShard}, func() *pb.Shard { return new(pb.Shard) })
	for _, s := range shards {
		o.shards[shardKey{s.Home, s.Bucket}] = s
	}
	return o, err
}

// Of returns the epoch that owns the entries of a message, or 0.
func (o Owners) Of(home uint64, id ID) uint64 {
	if s, ok := o.shards[shardKey{home, bucketOf(id)}]; ok {
		return s.Owner
	}
	if _, ok := o.live[home]; ok {
		return home
	}
	return 0
}

// Equal reports whether both say the same of every entry.
func (o Owners) Equal(p Owners) bool {
	return maps.Equal(o.live, p.live) &&
		maps.EqualFunc(o.shards, p.shards, func(a, b *pb.Shard) bool { return proto.Equal(a, b) })
}

// Node names the node whose session an epoch is, or "".
func (o Owners) Node(epoch uint64) string { return o.live[epoch] }

// Adoption returns the takeover a message's entries went through last, if any.
func (o Owners) Adoption(home uint64, id ID) *pb.Shard { return o.shards[shardKey{home, bucketOf(id)}] }

// History returns the events of a message in order.
func (v View) History(id ID) ([]*pb.Event, error) {
	return list(v.R, keyID(kHistory, id), func() *pb.Event { return new(pb.Event) })
}

// Messages calls fn for each message with an id in [from, to), oldest first,
// finished ones too, until fn returns false.
func (v View) Messages(from, to ID, fn func(id ID, m *pb.Message) bool) error {
	var bad error
	err := v.R.Scan(keyID(kMessage, from), keyID(kMessage, to), func(k, val []byte) bool {
		id, _ := toID(k[1:])
		m := &pb.Message{}
		if bad = proto.Unmarshal(val, m); bad != nil {
			return false
		}
		return fn(id, m)
	})
	if err == nil {
		err = bad
	}
	return err
}

// IDs calls fn for each message that is known, oldest first, finished ones too,
// until fn returns false. It reads no record.
func (v View) IDs(fn func(ID) bool) error {
	return v.R.Scan([]byte{kMessage}, []byte{kMessage + 1}, func(k, _ []byte) bool {
		id, ok := toID(k[1:])
		return !ok || fn(id)
	})
}

// Mailbox returns the mailbox of an account.
func (v View) Mailbox(address string) (*pb.Mailbox, bool, error) {
	return load(v.R, key(kBox, address), new(pb.Mailbox))
}

// Entries calls fn for each message of a mailbox from a UID on, in order of
// UID, until fn returns false. The record is reused: fn must not keep it.
func (v View) Entries(box, from uint64, fn func(uid uint64, e *pb.Entry) bool) error {
	_, gone, err := readTombstone(v.R, box)
	var bad error
	var e pb.Entry
	end := after(keyBox(kEntry, box))
	for again := true; again && err == nil && bad == nil; {
		again = false
		err = v.R.Scan(keyEntry(box, from), end, func(k, val []byte) bool {
			uid := uidOf(k)
			if gone.has(uid) {
				from = gone.past(uid)
				again = from != uid
				return !again
			}
			if bad = proto.Unmarshal(val, &e); bad != nil {
				return false
			}
			return fn(uid, &e)
		})
	}
	if err == nil {
		err = bad
	}
	return err
}

// Entry returns one message of a mailbox.
func (v View) Entry(box, uid uint64) (*pb.Entry, bool, error) {
	// First the tombstone: it outlives what is in it, so that where Sweep comes in
	// between nothing rises from it.
	_, gone, err := readTombstone(v.R, box)
	if err != nil || gone.has(uid) {
		return new(pb.Entry), false, err
	}
	return load(v.R, keyEntry(box, uid), new(pb.Entry))
}

// OwnEntry is Entry for a session that has the mailbox for itself and asks for
// what was in it when it came: nobody else can have deleted that, and a look less
// counts where messages are read by the hundred thousand.
func (v View) OwnEntry(box, uid uint64) (*pb.Entry, bool, error) {
	return load(v.R, keyEntry(box, uid), new(pb.Entry))
}

// Lock returns the lock of a mailbox, if it is held.
func (v View) Lock(address string) (*pb.Lock, bool, error) {
	return load(v.R, key(kLock, address), new(pb.Lock))
}

// Locks returns all locks, by mailbox.
func (v View) Locks() (map[string]*pb.Lock, error) {
	all := map[string]*pb.Lock{}
	var bad error
	err := v.R.Scan([]byte{kLock}, []byte{kLock + 1}, func(k, val []byte) bool {
		l := &pb.Lock{}
		if bad = proto.Unmarshal(val, l); bad != nil {
			return false
		}
		all[string(k[1:])] = l
		return true
	})
	if err == nil {
		err = bad
	}
	return all, err
}

// Account returns an account by its whole address, lower case.
func (v View) Account(address string) (*pb.Account, bool, error) {
	return load(v.R, key(kAccount, address), new(pb.Account))
}

// Accounts returns all accounts by address.
func (v View) Accounts() ([]*pb.Account, error) {
	return list(v.R, []byte{kAccount}, func() *pb.Account { return new(pb.Account) })
}

// EachAccount calls each with every account, by address, until it returns false.
// The account is valid during the call only.
func (v View) EachAccount(each func(*pb.Account) bool) error {
	var bad error
	one := new(pb.Account)
	err := v.R.Scan([]byte{kAccount}, after([]byte{kAccount}), func(_, b []byte) bool {
		proto.Reset(one)
		bad = proto.Unmarshal(b, one)
		return bad == nil && each(one)
	})
	return errors.Join(err, bad)
}

// Domain returns a local domain; false for a remote one.
func (v View) Domain(name string) (*pb.Domain, bool, error) {
	return load(v.R, key(kDomain, name), new(pb.Domain))
}

// Domains returns all local domains by name.
func (v View) Domains() ([]*pb.Domain, error) {
	return list(v.R, []byte{kDomain}, func() *pb.Domain { return new(pb.Domain) })
}

// Alias returns an alias by its whole address, lower case.
func (v View) Alias(address string) (*pb.Alias, bool, error) {
	return load(v.R, key(kAlias, address), new(pb.Alias))
}

// Aliases returns all aliases by address.
func (v View) Aliases() ([]*pb.Alias, error) {
	return list(v.R, []byte{kAlias}, func() *pb.Alias { return new(pb.Alias) })
}

// Settings returns the replicated settings; zero values where never set.
func (v View) Settings() (*pb.Settings, error) {
	s, _, err := load(v.R, key(kMeta, "settings"), new(pb.Settings))
	return s, err
}

// Audits calls fn for each audit line, newest first is the caller's to make:
// they come oldest first, from an index on.
func (v View) Audits(from uint64, fn func(*pb.Audit) bool) error {
	var bad error
	err := v.R.Scan(keyAudit(from), []byte{kAudit + 1}, func(_, val []byte) bool {
		a := &pb.Audit{}
		if bad = proto.Unmarshal(val, a); bad != nil {
			return false
		}
		return fn(a)
	})
	if err == nil {
		err = bad
	}
	return err
}

// Destination counts the open recipients of one domain in one state.
type Destination struct {
	Domain string
	State  pb.State
	Count  int64
}

// Destinations returns the queue's counters by destination and state. It reads
// counters, never the queue.
func (v View) Destinations() ([]Destination, error) {
	all, err := v.Counters(countDestination)
	if err != nil {
		return nil, err
	}
	list := make([]Destination, 0, len(all))
	for name, n := range all {
		domain, st, _ := strings.Cut(name[len(countDestination):], "/")
		list = append(list, Destination{domain, pb.State(pb.State_value[st]), n})
	}
	return list, nil
}

// OwnedCounts returns how many open recipients each live session owns. It
// reads counters, never the queue.
func (v View) OwnedCounts() (map[uint64]int64, error) {
	owners, err := v.Owners()
	if err != nil {
		return nil, err
	}
	all, err := v.Counters(countShard)
	if err != nil {
		return nil, err
	}
	owned := map[uint64]int64{}
	for name, n := range all {
		home, bucket, ok := parseShardCounter(name)
		if !ok {
			continue
		}
		var probe ID
		probe[15] = byte(bucket)
		owned[owners.Of(home, probe)] += n
	}
	return owned, nil
}

// AllEntries calls fn for each record of a message in a mailbox, until fn returns
// false. Also there are those that are not swept yet: of accounts that were
// dropped, and with gone set, of messages that were taken out. The record is
// reused: fn must not keep it.
func (v View) AllEntries(fn func(box, uid uint64, gone bool, e *pb.Entry) bool) error {
	all := map[uint64]deletedRuns{}
	var bad error
	err := v.R.Scan([]byte{kTombstone}, []byte{kTombstone + 1}, func(k, val []byte) bool {
		var tombstone pb.Burial
		if bad = proto.Unmarshal(val, &tombstone); bad == nil {
			all[numberOf(k)], bad = decodeTombstone(&tombstone)
		}
		return bad == nil
	})
	if err = errors.Join(err, bad); err != nil {
		return err
	}
	var e pb.Entry
	err = v.R.Scan([]byte{kEntry}, []byte{kEntry + 1}, func(k, val []byte) bool {
		if bad = proto.Unmarshal(val, &e); bad != nil {
			return false
		}
		box, uid := numberOf(k), uidOf(k)
		return fn(box, uid, all[box].has(uid), &e)
	})
	if err == nil {
		err = bad
	}
	return err
}
