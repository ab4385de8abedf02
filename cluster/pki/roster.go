package pki

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"relay/cluster/internal/wire"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

const (
	OldGrace   = time.Hour       // for how long a member may still show its former certificate
	SerialSize = 16              // octets: the signer's applied index (8), random ones (8)
	MaxSerial  = uint64(1) << 48 // indexes are below; the top of a random serial hardly ever is
)

// ErrNewer says that a certificate is newer than the one this node has on
// record: this node lags behind, or somebody else has signed it.
var ErrNewer = errors.New("the certificate is newer than the one on record")

// Roster knows which certificates count: of each member, the serial and the key
// that the replicated state has. The signature of the CA alone is not enough, as
// the CA's key is in the store of every replica.
//
// The port checks a chain as of when its leaf began, so no clock breaks a link. The
// serial and key on record are good whatever the date, those before them for an hour. A
// serial that is newer than the record (its first 8 octets are the signer's applied
// index) counts after a read index, or where no leader is heard, as a node that lags
// must hear the leader.
type Roster struct {
	Now        func() time.Time // the cluster's clock
	generation uint64           // of this node's certificate

	mu      sync.RWMutex
	members map[string]*pb.Member
}

// NewRoster makes a roster that knows no member yet.
func NewRoster(now func() time.Time, generation uint64) *Roster {
	return &Roster{Now: now, generation: generation}
}

// Learn reads the member records again. After a recovery those of the generation
// before do not count: until the state has the new one, nothing is on record.
func (r *Roster) Learn(v spool.View) error {
	list, err := v.Members()
	if err != nil {
		return err
	}
	record, _, err := v.Cluster()
	if err != nil {
		return err
	}
	if record.Generation < r.generation {
		list = nil
	}
	members := make(map[string]*pb.Member, len(list))
	for _, m := range list {
		members[m.Id] = m
	}
	r.mu.Lock()
	r.members = members
	r.mu.Unlock()
	return nil
}

// Member returns the record of a node, nil where there is none.
func (r *Roster) Member(node string) *pb.Member {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.members[node]
}

// Judge says whether a certificate counts for the node that it names. Dates
// matter only where nothing is on record: the clock of a node may be days off,
// and what is on record stays good until it is replaced. ErrNewer: the record
// may lag. A Peer that is a name alone is good.
func (r *Roster) Judge(p wire.Peer) error {
	if len(p.Serial) == 0 {
		return nil
	}
	m, now := r.Member(p.Node), r.Now()
	switch {
	case len(m.GetSerial()) == 0:
		return r.unrecorded(p)
	case IsOf(p, m.Serial, m.Key):
		return nil
	case IsOf(p, m.OldSerial, m.OldKey):
		if now.After(time.UnixMilli(m.IssuedMs).Add(OldGrace)) {
			return fmt.Errorf("cluster: node %s shows the certificate before its present one", p.Node)
		}
		return nil
	case SerialIndex(p.Serial) > SerialIndex(m.Serial):
		return fmt.Errorf("cluster: node %s: %w", p.Node, ErrNewer)
	}
	return fmt.Errorf("cluster: node %s shows a certificate that is not the one on record", p.Node)
}

// unrecorded judges a certificate of a node of which none is on record.
func (r *Roster) unrecorded(p wire.Peer) error {
	if r.Now().After(p.NotAfter) {
		return fmt.Errorf("cluster: the certificate of node %s expired at %s, and none is on record",
			p.Node, p.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// IsOf reports whether a certificate is the one of a record: by its serial, and
// by its key where the record has one.
func IsOf(p wire.Peer, serial, key []byte) bool {
	return len(serial) > 0 && bytes.Equal(p.Serial, serial) && (len(key) == 0 || bytes.Equal(p.Key[:], key))
}

// SerialIndex is the signer's applied index in a serial; 0 for serials of before
// cluster version 2, which are random.
func SerialIndex(serial []byte) uint64 {
	if len(serial) != SerialSize {
		return 0
	}
	if i := binary.BigEndian.Uint64(serial); i < MaxSerial {
		return i
	}
	return 0
}
