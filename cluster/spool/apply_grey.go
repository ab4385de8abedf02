package spool

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	pb "relay/cluster/spool/spoolpb"
)

// Defaults of greylisting, where the settings are zero, and its bounds.
const (
	DefaultGreyWindowMs = 8 * 3600 * 1000
	DefaultGreyLifeMs   = 36 * dayMs
	DefaultGreyTrust    = 5
	// GreyRefreshMs is how old the last use of a record may be before another
	// one is written down.
	GreyRefreshMs = dayMs

	DefaultGreyRecords = 200000

	greyGraceMs  = 3600 * 1000 // a retry has at least so long after the delay
	maxGreyDelay = 24 * 3600 * 1000
)

// CountGrey counts the records of greylisting.
const CountGrey = "grey.records"

// Triplet names what greylisting looks at (RFC 6647 §2.3): where a client is,
// who it says sends, and to which domain. The sender is expected in the form in which
// the caller compares it.
func Triplet(network, sender, domain string) []byte {
	sum := sha256.Sum256([]byte(network + "\x00" + sender + "\x00" + domain))
	return sum[:16]
}

func keyTriplet(triplet []byte) []byte { return append([]byte{kGrey, 't'}, triplet...) }

func keyGreyNet(network string) []byte { return key(kGrey, "n"+network) }

// keyGreyTime is the index entry of a record: the record that is forgotten first comes
// first.
func keyGreyTime(expires int64, of []byte) []byte {
	k := binary.BigEndian.AppendUint64(append(make([]byte, 0, sizeNumber+len(of)), kGrey, 'e'), uint64(expires))
	return append(k, of[1:]...)
}

// greet judges attempts in their order.
//
// Gt and Gn are what is known of triplets and networks, Ge the same by the time at
// which it is forgotten. A Greet judges many attempts in their order and answers each;
// delay by attempt (the proposer knows the domain's), window, life, trust and bound by
// the settings.
func (t *tx) greet(h *pb.Greet) *pb.Result {
	res := t.ok()
	for _, a := range h.Attempts {
		code, wait := pb.Code_INVALID, int64(0)
		if len(a.GetTriplet()) == 16 && len(a.GetNetwork()) <= 50 {
			code, wait = t.attempt(a)
		}
		res.Codes, res.WaitsMs = append(res.Codes, code), append(res.WaitsMs, wait)
	}
	return res
}

// attempt is one look at the greylist. A network of which enough triplets passed
// needs none of its own; a triplet that was seen long enough ago passes from now
// on; all others wait.
func (t *tx) attempt(a *pb.Attempt) (pb.Code, int64) {
	trust := GreyTrust(t.settings)
	netKey, tripletKey := keyGreyNet(a.Network), keyTriplet(a.Triplet)
	net := t.grey(netKey)
	if trust > 0 && net != nil && net.Passed >= trust {
		t.useGrey(netKey, net)
		return pb.Code_OK, 0
	}
	delay := min(max(a.DelayMs, 0), maxGreyDelay)
	one := t.grey(tripletKey)
	switch {
	case one == nil, one.Passed == 0 && one.FirstMs > t.clock: // the clock was set back: as if it were new
		one = &pb.Grey{FirstMs: t.clock, LastMs: t.clock}
		t.keepGrey(tripletKey, nil, one,
			t.clock+max(orDefault(t.settings.GreylistWindowMs, DefaultGreyWindowMs), delay+greyGraceMs))
		return pb.Code_TOO_SOON, delay
	case one.Passed > 0:
		t.useGrey(tripletKey, one)
		return pb.Code_OK, 0
	case t.clock < one.FirstMs+delay:
		return pb.Code_TOO_SOON, one.FirstMs + delay - t.clock
	}
	t.passGrey(tripletKey, one)
	t.passGrey(netKey, net)
	return pb.Code_OK, 0
}

// grey returns a record that still counts, or nil.
func (t *tx) grey(k []byte) *pb.Grey {
	one := new(pb.Grey)
	if !t.read(k, one) || one.ExpiresMs <= t.clock {
		return nil
	}
	return one
}

// passGrey notes that a retry came.
func (t *tx) passGrey(k []byte, old *pb.Grey) {
	one := &pb.Grey{FirstMs: t.clock, LastMs: t.clock, Passed: 1}
	if old != nil {
		one.FirstMs, one.Passed = old.FirstMs, old.Passed+1
	}
	t.keepGrey(k, old, one, t.greyUntil())
}

func (t *tx) greyUntil() int64 {
	return t.clock + orDefault(t.settings.GreylistLifeMs, DefaultGreyLifeMs)
}

// useGrey prolongs the life of what passed, once a day.
func (t *tx) useGrey(k []byte, old *pb.Grey) {
	if t.since(old.LastMs) < GreyRefreshMs && (!t.at(2) || old.ExpiresMs <= t.greyUntil()) {
		return
	}
	one := &pb.Grey{FirstMs: old.FirstMs, LastMs: t.clock, Passed: old.Passed}
	t.keepGrey(k, old, one, t.greyUntil())
}

// keepGrey writes a record and its index entry. old is what it replaces; a
// record that was there all the same had expired.
func (t *tx) keepGrey(k []byte, old, one *pb.Grey, expires int64) {
	if old == nil {
		old = new(pb.Grey)
		if !t.read(k, old) {
			old = nil
			t.roomForGrey()
			t.count(CountGrey, 1)
		}
	}
	if old != nil && old.ExpiresMs != expires {
		t.del(keyGreyTime(old.ExpiresMs, k))
	}
	one.ExpiresMs = expires
	t.write(k, one)
	t.set(keyGreyTime(expires, k), []byte{})
}

// roomForGrey forgets what would be forgotten next anyway: attempts that nobody
// has come back for go before those who did.
func (t *tx) roomForGrey() {
	// Two, where the bound was lowered, so that it is reached in the end.
	if over := t.counters[CountGrey] - orDefault(int64(t.settings.GreylistRecords), DefaultGreyRecords); over >= 0 {
		t.forgetGrey(after([]byte{kGrey, 'e'}), int(min(over+1, 2)))
	}
}

// forgetGrey deletes at most limit records whose index entry is below end.
func (t *tx) forgetGrey(end []byte, limit int) (count uint32) {
	if t.err != nil {
		return 0
	}
	var old [][]byte
	t.fail(t.b.Scan([]byte{kGrey, 'e'}, end, func(k, _ []byte) bool {
		old = append(old, slices.Clone(k))
		return len(old) < limit
	}))
	for _, k := range old {
		t.del(k)
		t.del(append([]byte{kGrey}, k[sizeGrey:]...))
		t.count(CountGrey, -1)
		count++
	}
	return count
}

func (t *tx) sweepGrey(limit int, res *pb.Result) {
	res.Count += t.forgetGrey(keyGreyTime(t.clock, []byte{kGrey}), limit)
}

func orDefault(n, otherwise int64) int64 {
	if n <= 0 {
		return otherwise
	}
	return n
}

// GreyTrust is how many triplets of a network must have passed before all of
// its mail does; 0: that never happens.
func GreyTrust(s *pb.Settings) uint32 {
	switch n := s.GetGreylistTrust(); {
	case n == 0:
		return DefaultGreyTrust
	case n > 0:
		return uint32(n)
	}
	return 0
}

// Grey returns what greylisting knows of a triplet and of its network; nil for
// nothing. The caller looks whether it has expired.
func (v View) Grey(triplet []byte, network string) (one, net *pb.Grey, err error) {
	one, ok, err := load(v.R, keyTriplet(triplet), new(pb.Grey))
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		one = nil
	}
	net, ok, err = load(v.R, keyGreyNet(network), new(pb.Grey))
	if !ok {
		net = nil
	}
	return one, net, err
}
