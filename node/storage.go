package node

import (
	"context"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"relay/cluster/spool"
	"relay/node/replica"
)

// storage watches the free space of the data directory and the size of the spool,
// so that new mail is refused (452 4.3.1) before anything breaks.
type storage struct {
	dir      string
	minFree  uint64
	percent  uint64
	messages uint64 // most in the spool, queue and mailboxes together; 0: no limit
	bytes    uint64
	log      *zap.Logger
	measure  func(dir string) (free, total uint64, err error) // statfs, except in tests
	full     atomic.Bool                                      // the disk is
	short    atomic.Bool                                      // it is, or will soon be
	laden    atomic.Bool                                      // the spool was, when it was looked at last
	free     atomic.Uint64
	total    atomic.Uint64
}

// over reports whether the spool has no room for one more message of a size (0:
// not known). Mail on its way in may exceed the limit by what is under way.
func (s *storage) over(r replica.Replica, size uint64) (bool, error) {
	if s.messages == 0 && s.bytes == 0 {
		return false, nil
	}
	var messages, bytes int64
	err := r.View(func(v spool.View) (err error) {
		if messages, err = v.Counter(spool.CountSpoolMessages); err == nil {
			bytes, err = v.Counter(spool.CountSpoolBytes)
		}
		return err
	})
	if err != nil {
		return false, err
	}
	laden := s.messages > 0 && uint64(messages) >= s.messages || s.bytes > 0 && uint64(bytes) >= s.bytes
	if was := s.laden.Swap(laden); was != laden {
		s.log.Warn("spool watermark crossed", zap.Bool("full", laden), zap.Int64("messages", messages),
			zap.Int64("bytes", bytes))
	}
	return laden || s.bytes > 0 && uint64(bytes)+size > s.bytes, nil
}

// room is a node's storage as SMTP intake asks for it. It meets inbound.Room.
type room struct {
	storage *storage
	replica replica.Replica
}

// Full implements inbound.Room.
func (r room) Full() bool { return r.storage.full.Load() }

// Over implements inbound.Room.
func (r room) Over(size uint64) (bool, error) { return r.storage.over(r.replica, size) }

// look measures once. A disk is short from a quarter above the watermark on, until
// it has half as much again: the work that makes space has time before mail is
// refused, and does not stop at the first octet.
func (s *storage) look() {
	free, total, err := s.measure(s.dir)
	if err != nil {
		s.log.Error("cannot measure free disk space", zap.String("dir", s.dir), zap.Error(err))
		return
	}
	s.free.Store(free)
	s.total.Store(total)
	mark := max(s.minFree, total/100*s.percent)
	full := free < s.minFree || free*100 < total*s.percent
	if was := s.full.Swap(full); was != full {
		s.log.Warn("disk watermark crossed", zap.Bool("full", full), zap.Uint64("free", free), zap.Uint64("total", total))
	}
	s.short.Store(full || free < mark+mark/4 || s.short.Load() && free < mark+mark/2)
}

// statfs is what measures a disk.
func statfs(dir string) (free, total uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, err
	}
	return st.Bavail * uint64(st.Bsize), st.Blocks * uint64(st.Bsize), nil
}

// nowFull measures, and reports whether the disk has room for nothing more. An
// import fills in a second what clients fill in minutes.
func (s *storage) nowFull() bool {
	s.look()
	return s.full.Load()
}

// watch measures every few seconds until ctx ends, and tells short what it finds.
func (s *storage) watch(ctx context.Context, short func(bool)) error {
	const every = 2 * time.Second
	for {
		s.look()
		short(s.short.Load())
		now := time.Now()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(now.Truncate(every).Add(every).Sub(now)): // as all that looks once a second
		}
	}
}
