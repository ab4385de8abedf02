// Package ids reads and makes the ids of messages, which sort by the time of acceptance.
package ids

import (
	"time"

	"github.com/oklog/ulid/v2"

	"relay/cluster/spool"
)

// Of reads the 16 octets of an id in a record.
func Of(b []byte) (id spool.ID, ok bool) {
	if len(b) != len(id) {
		return id, false
	}
	copy(id[:], b)
	return id, true
}

// Text is the text of an id in a record, empty where there is none.
func Text(b []byte) string {
	if id, ok := Of(b); ok {
		return id.String()
	}
	return ""
}

// At is the first id of a millisecond.
func At(t time.Time) (id spool.ID) {
	ms := t.UnixMilli()
	if ms <= 0 {
		return id
	}
	_ = id.SetTime(uint64(min(ms, int64(ulid.MaxTime()))))
	return id
}

// Time is when the id was made, to the millisecond.
func Time(id spool.ID) time.Time { return time.UnixMilli(int64(id.Time())) }

// After is the id behind id.
func After(id spool.ID) spool.ID {
	for i := len(id) - 1; i >= 0; i-- {
		if id[i]++; id[i] != 0 {
			break
		}
	}
	return id
}

// Last is behind every id that is in use.
func Last() (id spool.ID) {
	for i := range id {
		id[i] = 0xff
	}
	return id
}
