package spool

import (
	"bytes"
	"strings"
	"time"
)

// Kinds whose records a store keeps in files of their own: what comes and goes with
// every message, each at its own pace. The records of operators and all other kinds may
// share files.
const apart = "Tbefhmr" // ascending

// aged are kinds that begin with the id of a message, so that their keys are in the order
// of time. Of these a store keeps what is young apart from what is old.
const aged = "bfhmr"

// young is how long the records of a message are young. Within it nearly every message
// is delivered and its short-lived records are deleted.
const young = 2 * time.Hour

// Border returns the key that a file of a store must not reach, where start is the
// first key of it; nil: it may hold all that is behind. Files that end there overlap
// no others for long, so compactions do not rewrite history for the sake of what was
// deleted beside it. The cut between young and old moves once an hour. Border is about
// the layout of files, not about contents: nodes may have different clocks.
func Border(start []byte, now time.Time) []byte {
	if len(start) == 0 {
		return []byte{1}
	}
	kind := start[0]
	if strings.IndexByte(apart, kind) < 0 {
		return nextApart(kind)
	}
	if strings.IndexByte(aged, kind) >= 0 {
		var id ID
		if ms := now.Add(-young).Truncate(time.Hour).UnixMilli(); ms > 0 && id.SetTime(uint64(ms)) == nil {
			if cut := append([]byte{kind}, id[:6]...); bytes.Compare(start, cut) < 0 {
				return cut
			}
		}
	}
	return []byte{kind + 1}
}

// nextApart is the border of kinds that share files. The store's own records, with
// first octet 0, share theirs with nothing.
func nextApart(kind byte) []byte {
	if kind == 0 {
		return []byte{1}
	}
	for _, k := range []byte(apart) {
		if k > kind {
			return []byte{k}
		}
	}
	return nil
}
