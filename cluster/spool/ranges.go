package spool

import (
	"encoding/binary"
	"errors"
	"slices"
)

// Ranges are ascending uids in little space, so that all deletions of a session
// fit one frame: for each run, a varint of twice the distance from the end of
// the run before, plus one where the run is longer than 1; then a varint of its
// length less two follows.

// Deletions as ranges. A session's deletions are one command, all or none. Written as
// runs (ranges.go), 100,000 of them fit a frame unless the uids lie 8,000 apart.
// Rejected: several Removes under one lock, of which a death may leave half.

// AppendRanges appends uids, which must ascend and be above 0.
func AppendRanges(dst []byte, uids []uint64) []byte {
	end := uint64(0) // the last uid written
	for i := 0; i < len(uids); {
		n := 1
		for i+n < len(uids) && uids[i+n] == uids[i]+uint64(n) {
			n++
		}
		gap := (uids[i] - end) << 1
		if n == 1 {
			dst = binary.AppendUvarint(dst, gap)
		} else {
			dst = binary.AppendUvarint(dst, gap|1)
			dst = binary.AppendUvarint(dst, uint64(n-2))
		}
		end = uids[i] + uint64(n) - 1
		i += n
	}
	return dst
}

// run is uids from first to last.
type run struct{ first, last uint64 }

func (r run) size() uint64 { return r.last - r.first + 1 }

// appendRun adds a run to others that end before it.
func appendRun(runs []run, first, last uint64) []run {
	if n := len(runs); n > 0 && runs[n-1].last+1 == first {
		runs[n-1].last = last
		return runs
	}
	return append(runs, run{first, last})
}

// parseRuns reads ranges.
func parseRuns(b []byte, most uint64) (runs []run, err error) {
	err = Ranges(b, most, func(first, last uint64) { runs = append(runs, run{first, last}) })
	return runs, err
}

// encodeRuns writes runs as ranges.
func encodeRuns(runs []run) (b []byte) {
	end := uint64(0)
	for _, r := range runs {
		gap := (r.first - end) << 1
		if r.first == r.last {
			b = binary.AppendUvarint(b, gap)
		} else {
			b = binary.AppendUvarint(binary.AppendUvarint(b, gap|1), r.last-r.first-1)
		}
		end = r.last
	}
	return b
}

// sizeOf is how many uids there are in runs.
func sizeOf(runs []run) (n uint64) {
	for _, r := range runs {
		n += r.size()
	}
	return n
}

// runOf finds the run that a uid is in; runs ascend.
func runOf(runs []run, uid uint64) (run, bool) {
	i, found := slices.BinarySearchFunc(runs, uid, func(r run, uid uint64) int {
		switch {
		case r.last < uid:
			return -1
		case r.first > uid:
			return 1
		}
		return 0
	})
	if !found {
		return run{}, false
	}
	return runs[i], true
}

var errRanges = errors.New("spool: malformed ranges")

// Ranges calls fn for each run of uids from first to last. Nothing above most
// is taken: a malformed set is an error before or after some calls of fn.
func Ranges(b []byte, most uint64, fn func(first, last uint64)) error {
	end := uint64(0)
	for len(b) > 0 {
		gap, n := binary.Uvarint(b)
		if n <= 0 {
			return errRanges
		}
		b = b[n:]
		more := uint64(0)
		if gap&1 != 0 {
			if more, n = binary.Uvarint(b); n <= 0 || more >= most {
				return errRanges
			}
			b = b[n:]
			more++
		}
		gap >>= 1
		if gap == 0 || gap > most || end+gap+more > most {
			return errRanges
		}
		fn(end+gap, end+gap+more)
		end += gap + more
	}
	return nil
}
