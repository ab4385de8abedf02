package spool

import (
	"encoding/binary"

	"google.golang.org/protobuf/proto"

	pb "relay/cluster/spool/spoolpb"
)

// View reads records from a store. It holds nothing itself: it is as
// consistent as its Reader, and may be used by one goroutine at a time.
type View struct{ R Reader }

func load[T proto.Message](r Reader, k []byte, into T) (T, bool, error) {
	v, err := r.Get(k)
	if err != nil || v == nil {
		return into, false, err
	}
	return into, true, proto.Unmarshal(v, into)
}

func list[T proto.Message](r Reader, prefix []byte, make func() T) ([]T, error) {
	var all []T
	var bad error
	err := r.Scan(prefix, after(prefix), func(_, v []byte) bool {
		one := make()
		if bad = proto.Unmarshal(v, one); bad != nil {
			return false
		}
		all = append(all, one)
		return true
	})
	if err == nil {
		err = bad
	}
	return all, err
}

// Cluster returns the cluster's identity; false before init.
func (v View) Cluster() (*pb.Cluster, bool, error) {
	return load(v.R, key(kMeta, "cluster"), new(pb.Cluster))
}

// Members returns the nodes that were ever registered and not removed, by id.
func (v View) Members() ([]*pb.Member, error) {
	return list(v.R, []byte{kMember}, func() *pb.Member { return new(pb.Member) })
}

// Member returns one node.
func (v View) Member(id string) (*pb.Member, bool, error) {
	return load(v.R, key(kMember, id), new(pb.Member))
}

// Sessions returns the live node sessions, by node id.
func (v View) Sessions() ([]*pb.Session, error) {
	return list(v.R, []byte{kSession}, func() *pb.Session { return new(pb.Session) })
}

// Clock returns the time of the state in Unix milliseconds, as of the last
// command; 0: there was none.
func (v View) Clock() (int64, error) {
	b, err := v.R.Get(key(kMeta, "clock"))
	if err != nil || len(b) != 8 {
		return 0, err
	}
	return int64(binary.BigEndian.Uint64(b)), nil
}

// TimeState returns what is known of the clock's jumps; see Since and Excess.
func (v View) TimeState() (*pb.TimeState, error) {
	ts, _, err := load(v.R, key(kMeta, "time"), new(pb.TimeState))
	return ts, err
}

// Session returns the live session of a node; false where it has none.
func (v View) Session(node string) (*pb.Session, bool, error) {
	return load(v.R, key(kSession, node), new(pb.Session))
}

// JoinToken returns a join token by the SHA-256 of its secret.
func (v View) JoinToken(hash []byte) (*pb.JoinToken, bool, error) {
	return load(v.R, key(kJoinToken, string(hash)), new(pb.JoinToken))
}

// Answered returns what an admin command with a request id was answered.
func (v View) Answered(request []byte) (*pb.Result, bool, error) {
	seen, there, err := load(v.R, key(kRequest, string(request)), new(pb.Seen))
	return seen.GetResult(), there, err
}

// Counters returns the counters whose name begins with prefix, by name.
func (v View) Counters(prefix string) (map[string]int64, error) {
	all := map[string]int64{}
	k := key(kCounter, prefix)
	err := v.R.Scan(k, after(k), func(k, val []byte) bool {
		n, _ := binary.Varint(val)
		all[string(k[1:])] = n
		return true
	})
	return all, err
}

// Counter returns one counter; 0 where it was never counted.
func (v View) Counter(name string) (int64, error) {
	val, err := v.R.Get(key(kCounter, name))
	n, _ := binary.Varint(val)
	return n, err
}

// Failures returns how many logins from a network have failed lately, at any
// node, and when the last one did, in Unix milliseconds.
func (v View) Failures(network string) (*pb.Failures, bool, error) {
	return load(v.R, key(kFailures, network), new(pb.Failures))
}
