package log

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"go.uber.org/zap"
)

// Open opens the log in dir, or makes an empty one there. One process may
// have it open.
func Open(dir string, o Options) (l *Log, err error) {
	o = o.withDefaults()
	defer func() { // bbolt panics where its pages make no sense
		if r := recover(); r != nil {
			l, err = nil, fmt.Errorf("disk: the log in %s is damaged: %v: %s", dir, r, Rebuild)
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "raft.db")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		// It comes before the first segment. A new one would have no votes.
		if found, err := anyOf(dir, livePrefix, packedPrefix); err != nil || found {
			return nil, errors.Join(err,
				fmt.Errorf("%w: %s is gone, and segments of the log are there: remove this node and let it join anew", errSeal,
					path))
		}
		if err := createLog(path, o); err != nil {
			return nil, fmt.Errorf("disk: make %s: %w", path, err)
		}
	}
	l = &Log{o: o, path: path, failed: make(chan struct{})}
	l.cache.limit, l.cache.keep = o.CacheBytes, o.CacheFor
	l.data = segments{
		dir: dir, prefix: livePrefix, size: o.segmentBytes, spares: spareSegments, full: o.GrowTo >= 0, open: o.openSegment,
		syncDir: o.syncDir,
	}
	if err := l.ledger.read(path); errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("disk: %s is in use: does another relayd run on this data directory? (%w)", path, err)
	} else if err != nil {
		return nil, fmt.Errorf("disk: read %s: %w", path, err)
	}
	db, err := raftboltdb.New(boltOptions(path, o))
	if err != nil {
		return nil, fmt.Errorf("disk: open %s: %w", path, err)
	}
	l.db = o.wrap(db)
	err = l.stable.load(db)
	if err == nil {
		err = l.openEntries(dir)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close(), l.closeFiles())
	}
	return l, nil
}

// anyOf says whether there are segments in a directory with one of these prefixes.
func anyOf(dir string, prefixes ...string) (bool, error) {
	for _, prefix := range prefixes {
		if found, err := filepath.Glob(filepath.Join(dir, prefix+"*")); err != nil || len(found) > 0 {
			return true, err
		}
	}
	return false, nil
}

// openEntries opens a packed log, or another, which it packs if no older build may come
// back.
func (l *Log) openEntries(dir string) error {
	is, err := l.isPacked(dir)
	if err == nil && is {
		return l.openPacked(newPacked(dir, l.o))
	}
	if err == nil {
		err = l.openSegments()
	}
	if err != nil || !l.o.packed && !(l.stable.sealed && l.stable.marked) {
		return err
	}
	return l.packAtStart()
}

func (l *Log) closeFiles() error {
	err := l.data.close()
	if p := l.packed.Load(); p != nil {
		err = errors.Join(err, p.close())
	}
	return err
}

func (l *Log) files() *segments {
	if p := l.packed.Load(); p != nil {
		return &p.segments
	}
	return &l.data
}

// spareSegments is how many files are kept for reuse, shortSegments how many while
// the disk is short of space.
const (
	spareSegments = 8
	shortSegments = 2
)

// SetShort says whether the disk is short of space. While it is, fewer files are
// kept for reuse, and the others are removed.
func (l *Log) SetShort(short bool) {
	n := spareSegments
	if short {
		n = shortSegments
	}
	if err := l.files().keepSpares(n); err != nil {
		l.o.Log.Warn("remove spare segments", zap.Error(err))
	}
}

// openSegments opens the files with the entries' data, finds out which entries
// have theirs where, and gives bbolt the entries it has not got yet.
func (l *Log) openSegments() error {
	if err := l.data.load(); err != nil {
		return err
	}
	for i := range l.ledger.lines() {
		one := &l.ledger.lines()[i]
		var e raft.Log
		if err := l.db.GetLog(one.index, &e); err != nil {
			return fmt.Errorf("disk: read entry %d of the log: %w", one.index, err)
		}
		p, spilled, err := placeOf(&e)
		if err == nil && spilled {
			err = l.data.seen(p, one.index)
		}
		if err != nil {
			return fmt.Errorf("disk: the log in %s is damaged: entry %d: %w: %s", l.data.dir, one.index, err, Rebuild)
		}
		one.size += p.size
		l.ledger.bytes += int64(p.size)
	}
	if err := l.replay(); errors.Is(err, errSeal) {
		return fmt.Errorf("disk: the log in %s is damaged: %w: %s", l.data.dir, err, Rebuild)
	} else if err != nil {
		return fmt.Errorf("disk: read the end of the log in %s: %w", l.data.dir, err)
	}
	return l.data.tidy()
}

func boltOptions(path string, o Options) raftboltdb.Options {
	return raftboltdb.Options{
		Path:                    path,
		MsgpackUseNewTimeFormat: true,
		BoltOptions: &bbolt.Options{
			Timeout:         time.Second,
			NoFreelistSync:  true, // or each commit writes the whole list of free pages
			FreelistType:    bbolt.FreelistMapType,
			InitialMmapSize: int(o.MmapBytes), // or appends wait while the file is mapped anew
		},
	}
}

// boltShare is what raft.db gets of Options.GrowTo, the segments the rest.
const boltShare = 8

// createLog makes empty files of their final size. Otherwise the first hundreds
// of megabytes cost an additional sync and the allocation of blocks with every
// few commits.
//
// raft.db never shrinks. Segments that are made later, until the first ones can be used
// again, get their blocks by fallocate: to write a file twice took 15 % of the
// processor time of a load of 64 KiB messages.
func createLog(path string, o Options) error {
	tmp := path + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	small := o
	small.MmapBytes = 0 // or bbolt makes the file larger by itself, and leaves a hole
	db, err := raftboltdb.New(boltOptions(tmp, small))
	if err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return err
	}
	err = grow(tmp, o.GrowTo/boltShare)
	if n := o.GrowTo * (boltShare - 1) / boltShare / o.segmentBytes; err == nil && n > 0 {
		ahead := segments{
			dir: filepath.Dir(path), prefix: livePrefix, size: o.segmentBytes, full: true, open: o.openSegment,
			syncDir: o.syncDir,
		}
		err = ahead.load()
		if err == nil {
			err = ahead.fill(max(0, int(n)-len(ahead.spare)))
		}
		err = errors.Join(err, ahead.close())
	}
	if err != nil {
		// It is only slower without.
		o.Log.Warn("the log's files were not made ahead of time", zap.String("path", path), zap.Error(err))
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return o.syncDir(filepath.Dir(path))
}

// grow writes zeros behind the end; a hole would have to be allocated later.
func grow(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	zeros := make([]byte, 1<<20)
	for at := st.Size(); at < size && err == nil; at += int64(len(zeros)) {
		_, err = f.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at)
	}
	if err != nil {
		err = errors.Join(err, f.Truncate(st.Size()))
	}
	return errors.Join(err, f.Sync(), f.Close())
}
