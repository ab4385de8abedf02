package spool

import (
	"encoding/binary"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	pb "relay/cluster/spool/spoolpb"
)

// Bounds of the suppression list.
const (
	MaxSuppressed     = 1_000_000        // in a cluster: beyond, the one that ends first goes
	MaxSuppressMs     = 10 * 365 * dayMs // how long an address may be on it
	maxSuppressedName = 320              // octets of a domain or an address
	sizeSuppressTime  = 2 + 8            // kind, 'e' and the time
)

// CountSuppressed counts the addresses on the suppression list.
const CountSuppressed = "suppressed"

func keySuppressed(domain, address string) []byte {
	return []byte(string([]byte{kSuppressed, 'a'}) + domain + "\x00" + address)
}

// keySuppressedTime is the index entry of a record: the one that ends first comes first.
func keySuppressedTime(expires int64, of []byte) []byte {
	k := binary.BigEndian.AppendUint64([]byte{kSuppressed, 'e'}, uint64(expires))
	return append(k, of[2:]...)
}

// putSuppressed puts an address on the suppression list by an operator's word.
func (t *tx) putSuppressed(h *pb.PutSuppressed) *pb.Result {
	s := h.GetSuppressed()
	switch {
	case !t.at(2):
		return t.refuse(pb.Code_INVALID, "the cluster is of version 1")
	case !fitsSuppression(s):
		return t.refuse(pb.Code_INVALID, "a suppression needs a domain of senders, an address and a time")
	}
	s.Who, s.Why, s.Id = h.Admin.GetWho(), h.Admin.GetWhy(), nil
	t.suppress(s)
	return t.ok()
}

func fitsSuppression(s *pb.Suppressed) bool {
	fits := func(name string) bool {
		return name != "" && len(name) <= maxSuppressedName && !strings.ContainsAny(name, "\x00\r\n")
	}
	return fits(s.GetDomain()) && fits(s.GetAddress()) && s.LifeMs > 0 && s.LifeMs <= MaxSuppressMs && len(s.Reply) <= 1024
}

// suppress keeps a record, in place of a former one of the same address.
func (t *tx) suppress(s *pb.Suppressed) {
	k := keySuppressed(s.Domain, s.Address)
	var old pb.Suppressed
	if t.read(k, &old) {
		t.del(keySuppressedTime(old.ExpiresMs, k))
	} else {
		if t.counters[CountSuppressed] >= MaxSuppressed {
			t.endSuppressions(after([]byte{kSuppressed, 'e'}), 1)
		}
		t.count(CountSuppressed, 1)
	}
	s.SinceMs, s.ExpiresMs = t.clock, t.clock+s.LifeMs
	t.write(k, s)
	t.set(keySuppressedTime(s.ExpiresMs, k), []byte{})
	t.changes.Suppressed = true
}

// suppressed keeps what a verdict says of an address that nobody has. The verdict ends the recipient in the same step.
func (t *tx) suppressed(id ID, v *pb.Verdict) {
	if s := v.Suppress; s != nil && t.at(2) && v.State == pb.State_BOUNCED && fitsSuppression(s) {
		s.Id, s.Who, s.Why = id[:], "", ""
		t.suppress(s)
	}
}

func (t *tx) dropSuppressed(h *pb.DropSuppressed) *pb.Result {
	k := keySuppressed(h.Domain, h.Address)
	var old pb.Suppressed
	if !t.read(k, &old) {
		return t.refuse(pb.Code_MISSING, "%s is not on the suppression list of %s: 'relayctl suppress ls' shows it",
			h.Address, h.Domain)
	}
	t.del(k)
	t.del(keySuppressedTime(old.ExpiresMs, k))
	t.count(CountSuppressed, -1)
	return t.ok()
}

// endSuppressions deletes at most limit records whose index entry is below end.
func (t *tx) endSuppressions(end []byte, limit int) (count uint32) {
	if t.err != nil || t.counters[CountSuppressed] == 0 {
		return 0
	}
	var old [][]byte
	t.fail(t.b.Scan([]byte{kSuppressed, 'e'}, end, func(k, _ []byte) bool {
		old = append(old, slices.Clone(k))
		return len(old) < limit
	}))
	for _, k := range old {
		t.del(k)
		t.del(append([]byte{kSuppressed, 'a'}, k[sizeSuppressTime:]...))
		t.count(CountSuppressed, -1)
		count++
	}
	return count
}

func (t *tx) sweepSuppressions(limit int, res *pb.Result) {
	res.Count += t.endSuppressions(keySuppressedTime(t.clock, []byte{kSuppressed, 'a'}), limit)
}

// Suppressed returns what is known of an address that mail of a domain's senders no longer goes to; false where the
// address is not on the list, or its time was over at now.
func (v View) Suppressed(domain, address string, nowMs int64) (*pb.Suppressed, bool, error) {
	s, ok, err := load(v.R, keySuppressed(domain, address), new(pb.Suppressed))
	return s, ok && s.ExpiresMs > nowMs, err
}

// AllSuppressed calls fn for each address on the list of a domain, or of all domains where it is empty, in order, from
// an address on, until it returns false. Those whose time is over, and that no Sweep has met yet, are among them.
func (v View) AllSuppressed(domain, from string, fn func(*pb.Suppressed) bool) error {
	prefix := []byte{kSuppressed, 'a'}
	if domain != "" {
		prefix = keySuppressed(domain, "")
	}
	var broken error
	err := v.R.Scan(append(slices.Clone(prefix), from...), after(prefix), func(_, b []byte) bool {
		s := new(pb.Suppressed)
		broken = proto.Unmarshal(b, s)
		return broken == nil && fn(s)
	})
	if err == nil {
		err = broken
	}
	return err
}
