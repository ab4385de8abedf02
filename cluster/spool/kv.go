package spool

// Reader is a consistent view of an ordered set of keys.
//
// Implementations: the Pebble store of cluster/disk and the map of
// cluster/spool/memory; one conformance suite (package spooltest) runs on both.
type Reader interface {
	// Get returns a copy-free value that is valid until the next call on the
	// Reader, or nil where the key is absent. An empty value is not nil.
	Get(key []byte) ([]byte, error)
	// Scan calls fn for each key in [lo, hi), in ascending order, until fn
	// returns false. A nil hi means to the end. Key and value are valid only
	// during the call, and fn must not write to a Batch it scans.
	Scan(lo, hi []byte, fn func(key, value []byte) bool) error
}

// Batch collects the writes of one or more commands and reads through them:
// Get and Scan see what was set in the same batch. It becomes visible and
// durable as one unit, or not at all. Keys and values are copied.
type Batch interface {
	Reader
	Set(key, value []byte) error
	// SetParts stores the concatenation of parts without the caller having to
	// join them: bodies travel as raw frame bytes.
	SetParts(key []byte, parts ...[]byte) error
	Delete(key []byte) error
	// DeleteSized is Delete that tells the store how many octets the value
	// has, so that it can judge where space is to be won.
	DeleteSized(key []byte, size int) error
	// DeleteRange deletes the keys in [lo, hi), those of the same batch too. Keys that are
	// set afterwards stay. lo and hi are of one kind of record, or hi is the first octet
	// behind it; the kind must not be one that Cached keeps.
	DeleteRange(lo, hi []byte) error
}
