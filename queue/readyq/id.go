package readyq

import "time"

// ID names a message: the 16 octets of a ULID.
type ID [16]byte

// Ref names one recipient of one message.
type Ref struct {
	ID        ID
	Recipient uint32
}

// Waiting is one recipient that this node owns and that is not settled.
type Waiting struct {
	Ref
	Domain   string    // of the recipient's address, lower case
	Route    string    // hop set by hand, or by a route for some senders; empty: the agent's routes decide
	Next     time.Time // when it is due
	Attempts uint32
	Priority int32
	Size     uint64
	Expires  time.Time // when it is to be given up; zero: by the retry policy
	Parked   bool      // held or suspended: not due until a change says so
	// A standing rule says so. Suspended: when it is due, Load says until when it waits; one that waits so
	// stays as it is. Ends: it is to be loaded at once, even if its destination is backed off from.
	Suspended, Ends bool
}

// String returns the id as a ULID is written.
func (id ID) String() string {
	const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	var out [26]byte
	// 128 bits in 26 characters of five bits, the first of which has three.
	hi, lo := uint64(0), uint64(0)
	for i := range 8 {
		hi, lo = hi<<8|uint64(id[i]), lo<<8|uint64(id[i+8])
	}
	for i := 25; i >= 0; i-- {
		out[i] = alphabet[lo&31]
		lo = lo>>5 | hi<<59
		hi >>= 5
	}
	return string(out[:])
}

func class(priority int32) uint8 {
	switch {
	case priority > 0:
		return classHigh
	case priority < 0:
		return classLow
	}
	return classNormal
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
