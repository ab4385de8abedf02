package disk

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/zap"
)

// handle is a database and those who are reading it. An installed snapshot
// replaces the store's handle at once; readers finish on the one they began
// with, and the last one out closes it. So a switch makes nobody wait and
// takes nothing away from under a reader.
type handle struct {
	s       *Store
	db      *pebble.DB
	cache   *recordCache
	name    string
	refs    atomic.Int64  // readers, and 1 for the store
	retired atomic.Bool   // replaced: remove the directory behind the last reader
	gone    chan struct{} // closed when the database is closed
	err     error         // of closing; read after gone
}

func (s *Store) openHandle(name string, create bool) (*handle, error) {
	h := &handle{s: s, name: name, gone: make(chan struct{}), cache: newRecordCache(s.o.Cached)}
	h.refs.Store(1)
	o := s.engine(h)
	o.ErrorIfNotExists = !create
	db, err := pebble.Open(s.dir.path(name), o)
	if pebble.IsCorruptionError(err) {
		return nil, fmt.Errorf("disk: store is damaged: open %s: %w: %s", name, err, rebuild)
	}
	if err != nil {
		return nil, fmt.Errorf("disk: open %s: %w", name, err)
	}
	h.db = db
	if err := s.checkBodies(db, s.dir.path(name)); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return h, nil
}

// acquire returns the handle in use, which the caller must release.
func (s *Store) acquire() (*handle, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.cur == nil {
		return nil, s.reason()
	}
	s.cur.refs.Add(1)
	return s.cur, nil
}

func (h *handle) release() {
	if h.refs.Add(-1) == 0 {
		go h.close()
	}
}

func (h *handle) close() {
	defer close(h.gone)
	h.err = h.db.Close()
	if h.retired.Load() {
		h.err = errors.Join(h.err, h.s.fs.RemoveAll(h.s.dir.path(h.name)))
	}
	if h.err != nil {
		h.s.log.Warn("close database", zap.String("name", h.name), zap.Error(h.err))
	}
	h.s.mu.Lock()
	delete(h.s.handles, h)
	h.s.mu.Unlock()
}

// reader returns a reader of the handle's latest state.
func (h *handle) reader() *reader { return &reader{src: h.db, cache: h.cache, fail: h.s.checked} }
