package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/sstable/blob"
	"github.com/cockroachdb/pebble/v2/vfs"

	"relay/cluster/disk/log"
)

// Pebble v2.1.7 panics where it opens a file of bodies that is absent, cut short,
// or damaged in its footer, on whichever goroutine reads or compacts. So the store
// checks the footer first: of all files of a database when it opens it, and of one
// file whenever Pebble opens it again.

// bodySuffix ends the names of files of bodies.
const bodySuffix = ".blob"

// bodyFS checks the files of bodies that Pebble opens. It tells Options.Fatal of
// damage before Pebble can panic.
type bodyFS struct {
	vfs.FS
	found func(error)
}

// Open implements vfs.FS.
func (f bodyFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	if strings.HasSuffix(name, bodySuffix) {
		if err := checkBodyFile(f.FS, name); err != nil {
			f.found(err)
		}
	}
	return f.FS.Open(name, opts...)
}

// Unwrap implements vfs.FS.
func (f bodyFS) Unwrap() vfs.FS { return f.FS }

// checkBodyFile reads the footer of a file of bodies. An error is a sentence for
// the operator.
func checkBodyFile(from vfs.FS, name string) error {
	file, err := from.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("disk: store is damaged: %s, which holds bodies of messages, is gone: %s", name, rebuild)
	}
	if err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	readable, err := sstable.NewSimpleReadable(file)
	if err != nil {
		return errors.Join(fmt.Errorf("disk: %w", err), file.Close())
	}
	_, err = blob.NewFileReader(context.Background(), readable, blob.FileReaderOptions{})
	if pebble.IsCorruptionError(err) {
		err = fmt.Errorf("disk: store is damaged: %s, which holds bodies of messages: %w: %s", name, err, rebuild)
	}
	return errors.Join(err, readable.Close())
}

// rebuild is the cure of a damaged store or log.
const rebuild = log.Rebuild

// checkBodies checks the files of bodies that a database refers to.
func (s *Store) checkBodies(db *pebble.DB, dir string) error {
	v := db.DebugCurrentVersion()
	v.Ref()
	defer v.Unref()
	for m := range v.BlobFiles.All() {
		name := s.fs.PathJoin(dir, m.Physical.FileNum.String()+bodySuffix)
		if err := checkBodyFile(s.fs, name); err != nil {
			return err
		}
		st, err := s.fs.Stat(name)
		if err != nil {
			return fmt.Errorf("disk: %w", err)
		}
		if st.Size() != int64(m.Physical.Size) {
			return fmt.Errorf("disk: store is damaged: %s, which holds bodies of messages, has %d octets, not %d: %s",
				filepath.Base(name), st.Size(), m.Physical.Size, rebuild)
		}
	}
	return nil
}
