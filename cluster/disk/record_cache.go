package disk

import (
	"bytes"
	"sync"
)

// recordCache remembers records that views ask for with every message and that change
// seldom, absent ones too: what is in the store about settings, domains, routes
// and accounts. A look-up in the store goes through the memtables and a table of
// each level, most of all for what is not there.
//
// It belongs to one database. Any goroutine may use it. The one that commits
// calls begin before the commit is visible, and end after that and before anybody
// is told: so nobody who has seen something of a commit finds here what was before.
type recordCache struct {
	is func(key []byte) bool

	mu  sync.RWMutex
	gen uint64            // of the last change
	now bool              // a change is on its way
	all map[string][]byte // nil: absent
}

const (
	cachedKeys  = 4096     // when there are more, all are forgotten
	cachedValue = 16 << 10 // larger ones are not remembered
)

func newRecordCache(is func(key []byte) bool) *recordCache {
	return &recordCache{is: is, all: map[string][]byte{}}
}

// get returns what is remembered; gen is for put if it is nothing.
func (c *recordCache) get(key []byte) (value []byte, known bool, gen uint64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	value, known = c.all[string(key)]
	return value, known, c.gen
}

// put remembers what a reader found, unless something was changed since get:
// then it may have been this.
func (c *recordCache) put(key, value []byte, gen uint64) {
	if len(value) > cachedValue {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if gen != c.gen || c.now {
		return
	}
	if len(c.all) >= cachedKeys {
		clear(c.all)
	}
	c.all[string(key)] = bytes.Clone(value)
}

// begin forgets keys that are about to be written; nothing is remembered until
// end.
func (c *recordCache) begin(keys []string) {
	if len(keys) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = true
	for _, k := range keys {
		delete(c.all, k)
	}
}

// end says that the keys are written. Values read until now are not remembered any
// more.
func (c *recordCache) end(keys []string) {
	if len(keys) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	c.now = false
}
