package spool

import (
	"encoding/binary"

	"github.com/oklog/ulid/v2"
)

// ID names a message for ever: a ULID, so that ids sort by time of acceptance.
type ID = ulid.ULID

// The first octet of a key says what kind of record it is. Numbers in keys are
// big endian, so that keys sort as the numbers do. Names in keys are lower case
// and followed by a zero octet where another part comes behind.
const (
	kAccount   = 'a' // a<address> → Account
	kBody      = 'b' // b<id><seq:4> → octets (the only large values)
	kCounter   = 'c' // c<name> → varint
	kDomain    = 'd' // d<name> → Domain
	kExpiry    = 'e' // e<done ms:8><id> → varint history size: messages by their end; from version 2 on late ones only
	kRefs      = 'f' // f<id> → Refs: what still needs the body
	kGarbage   = 'g' // g<box:8> → Garbage: entries of a dropped account, to be swept
	kHistory   = 'h' // h<id><index:8><n:2> → Event
	kMember    = 'i' // i<node> → Member
	kJoinToken = 'j' // j<hash> → JoinToken
	kLock      = 'l' // l<mailbox> → Lock
	kMessage   = 'm' // m<id> → Message
	kAlias     = 'n' // n<address> → Alias
	kOrphan    = 'o' // o<id> → Orphan: a body that no Accept has claimed yet
	kRoute     = 'p' // p<domain> → Route; p<domain>\x00<from>\x00<login>: those for some senders only
	kRequest   = 'q' // q<request id> → Seen: admin commands applied
	kRecipient = 'r' // r<id><n:4> → Recipient
	kSession   = 's' // s<node> → Session
	kAudit     = 't' // t<index:8> → Audit
	kBox       = 'u' // u<mailbox> → Mailbox
	kKeep      = 'k' // k<mailbox> → empty: an account that has a retention
	kFailures  = 'y' // y<network> → Failures; y\0<node>: that node's last Tally
	kShard     = 'w' // w<home:8><bucket:4> → Shard
	kEntry     = 'x' // x<box:8><uid:8> → Entry
	kMeta      = 'z' // z<name>: cluster, settings, clock, time (TimeState), swept (8 octets)
	kTombstone = 'B' // B<box:8> → Burial: entries that a large Remove took out, to be swept
	kWindow    = 'W' // W<minute:8> → Window: finished messages by the minute of their ids
	kRule      = 'R' // R<id:8> → Rule
	kListed    = 'N' // N<domain>\x00<local part> → 1: recipients of a routed domain
	kPolicy    = 'P' // P<domain> → Policy
	kTLS       = 'Y' // Y<day:4><domain>\x00<source> → Tls
	kCert      = 'C' // C<name> → Cert: what ACME keeps
	kDkim      = 'D' // D<domain>\x00<selector> → DkimKey
	kGrey      = 'G' // Gt<triplet>, Gn<network> → Grey; Ge<expires ms:8><the rest of such a key> → empty: by time
	kSpent     = 'S' // S<account> → Spent
	kTomb      = 'X' // X<node> → Tomb: a node that was removed
	kOld       = 'I' // I<generation:8><key> → Twin: messages that were imported lately
	kUidl      = 'U' // U<box:8><unique id> → Uidl: entries that have one of their own
	kDedup     = 'T' // T<generation:8><digest> → Twin: messages that may be sent again

	kSuppressed = 'V' // Va<domain>\x00<address> → Suppressed; Ve<expires ms:8><the rest of such a key> → empty: by time
)

// Sizes of keys, in octets: the kind, then the parts named.
const (
	sizeNumber  = 1 + 8           // a box, a time, a generation, an index
	sizeID      = 1 + 16          // a message
	sizeIDSeq   = sizeID + 4      // a message and a number in it: a recipient, a chunk
	sizeHistory = sizeID + 8 + 2  // a message, an index, and a number among its events there
	sizeExpiry  = sizeNumber + 16 // a time and a message
	sizeShard   = sizeNumber + 4  // a session and a bucket
	sizeEntry   = sizeNumber + 8  // a box and a uid
	sizeGrey    = 1 + sizeNumber  // a kind of its own and a time, before the rest of a key
)

// numberOf reads the number behind a key's kind, behindNumber what follows it.
func numberOf(k []byte) uint64 { return binary.BigEndian.Uint64(k[1:]) }

func behindNumber(k []byte) []byte { return k[sizeNumber:] }

// seqOf reads the number behind a key's id.
func seqOf(k []byte) uint32 { return binary.BigEndian.Uint32(k[sizeID:]) }

// Cached says which records are asked for with every message or session and change
// by the hand of an operator: a store may keep them at hand.
func Cached(key []byte) bool {
	if len(key) == 0 {
		return false
	}
	switch key[0] {
	case kAccount, kAlias, kDomain, kRoute:
		return true
	case kMeta:
		return string(key[1:]) == "settings"
	}
	return false
}

func key(prefix byte, s string) []byte {
	k := make([]byte, 0, 1+len(s))
	return append(append(k, prefix), s...)
}

func keyID(prefix byte, id ID) []byte {
	k := make([]byte, 0, sizeID)
	return append(append(k, prefix), id[:]...)
}

func keyIDSeq(prefix byte, id ID, seq uint32) []byte {
	k := make([]byte, 0, sizeIDSeq)
	k = append(append(k, prefix), id[:]...)
	return binary.BigEndian.AppendUint32(k, seq)
}

func keyBody(id ID, seq uint32) []byte { return keyIDSeq(kBody, id, seq) }

func keyRecipient(id ID, n uint32) []byte { return keyIDSeq(kRecipient, id, n) }

func keyHistory(id ID, index uint64, n uint16) []byte {
	k := make([]byte, 0, sizeHistory)
	k = append(append(k, kHistory), id[:]...)
	k = binary.BigEndian.AppendUint64(k, index)
	return binary.BigEndian.AppendUint16(k, n)
}

func keyExpiry(done int64, id ID) []byte {
	k := make([]byte, 0, sizeExpiry)
	k = binary.BigEndian.AppendUint64(append(k, kExpiry), uint64(done))
	return append(k, id[:]...)
}

func keyWindow(w uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, sizeNumber), kWindow), w)
}

func keyAudit(index uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, sizeNumber), kAudit), index)
}

func keyShard(home uint64, bucket uint32) []byte {
	k := binary.BigEndian.AppendUint64(append(make([]byte, 0, sizeShard), kShard), home)
	return binary.BigEndian.AppendUint32(k, bucket)
}

func keyEntry(box, uid uint64) []byte {
	k := binary.BigEndian.AppendUint64(append(make([]byte, 0, sizeEntry), kEntry), box)
	return binary.BigEndian.AppendUint64(k, uid)
}

// uidOf reads the uid of an entry's key.
func uidOf(k []byte) uint64 { return binary.BigEndian.Uint64(behindNumber(k)) }

func keyBox(prefix byte, box uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, sizeNumber), prefix), box)
}

// after returns the first key behind all keys that begin with prefix.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return nil
}
