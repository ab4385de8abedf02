package node

import (
	"context"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// storage watches the free space of the data directory, so that new mail is
// refused (452 4.3.1) before anything breaks.
type storage struct {
	dir     string
	minFree uint64
	percent uint64
	log     *zap.Logger
	full    atomic.Bool
	free    atomic.Uint64
	total   atomic.Uint64
}

// look measures once.
func (s *storage) look() {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		s.log.Error("cannot measure free disk space", zap.String("dir", s.dir), zap.Error(err))
		return
	}
	free, total := st.Bavail*uint64(st.Bsize), st.Blocks*uint64(st.Bsize)
	s.free.Store(free)
	s.total.Store(total)
	full := free < s.minFree || free*100 < total*s.percent
	if was := s.full.Swap(full); was != full {
		s.log.Warn("disk watermark crossed", zap.Bool("full", full), zap.Uint64("free", free), zap.Uint64("total", total))
	}
}

// watch measures every few seconds until ctx ends.
func (s *storage) watch(ctx context.Context) error {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		s.look()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
