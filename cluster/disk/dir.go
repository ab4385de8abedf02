package disk

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// layout is the store's directory:
//
//	LOCK        one process at a time
//	CURRENT     the name of the database in use, and its checksum
//	db-<n>      databases; all but the one in CURRENT are leftovers
//	in-<n>      a snapshot that is being received
//	ck-<n>      checkpoints that are being sent
//
// Leftovers are removed at Open. CURRENT changes by rename, so it always names
// a whole database.
type layout struct {
	fs   vfs.FS
	root string
	next uint64 // number of the next directory, of any kind
}

const (
	prefixDB  = "db-"
	prefixIn  = "in-"
	prefixOut = "ck-"
	current   = "CURRENT"
	writing   = "CURRENT.tmp"
)

func (l *layout) path(name string) string { return l.fs.PathJoin(l.root, name) }

// fresh returns an unused name.
func (l *layout) fresh(prefix string) string {
	l.next++
	return fmt.Sprintf("%s%016d", prefix, l.next)
}

// open finds the database in use and removes leftovers. Where CURRENT does not
// name one yet, unnamed is true: the caller makes the database if it is not
// there, and then points CURRENT at it.
func (l *layout) open() (name string, unnamed bool, err error) {
	names, err := l.fs.List(l.root)
	if err != nil {
		return "", false, err
	}
	var dbs []string
	for _, n := range names {
		l.note(n)
		if strings.HasPrefix(n, prefixDB) {
			dbs = append(dbs, n)
		}
	}
	name, err = l.current()
	switch {
	case err == nil:
	case !errors.Is(err, os.ErrNotExist):
		return "", false, err
	case len(dbs) == 1:
		// Either the first start was cut off before CURRENT was written, or the
		// file was lost; there is no doubt which database is meant.
		return dbs[0], true, l.reap(names, dbs[0])
	case len(dbs) == 0:
		name = l.fresh(prefixDB)
		return name, true, l.reap(names, name)
	default:
		return "", false, fmt.Errorf("disk: %s is missing and there are %d databases in %s: %s",
			current, len(dbs), l.root, strings.Join(dbs, ", "))
	}
	if _, err := l.fs.Stat(l.path(name)); err != nil {
		return "", false, fmt.Errorf("disk: %s names %s: %w", current, name, err)
	}
	return name, false, l.reap(names, name)
}

func (l *layout) note(name string) {
	if i := strings.IndexByte(name, '-'); i > 0 {
		if n, err := strconv.ParseUint(name[i+1:], 10, 64); err == nil {
			l.next = max(l.next, n)
		}
	}
}

// reap removes what a crash or a stop has left behind.
func (l *layout) reap(names []string, keep string) error {
	for _, n := range names {
		mine := strings.HasPrefix(n, prefixDB) || strings.HasPrefix(n, prefixIn) ||
			strings.HasPrefix(n, prefixOut) || n == writing
		if !mine || n == keep {
			continue
		}
		if err := l.fs.RemoveAll(l.path(n)); err != nil {
			return fmt.Errorf("disk: remove leftover: %w", err)
		}
	}
	return nil
}

// current reads CURRENT.
func (l *layout) current() (string, error) {
	f, err := l.fs.Open(l.path(current))
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 256))
	if err != nil {
		return "", err
	}
	return parseCurrent(b)
}

func parseCurrent(b []byte) (string, error) {
	var name string
	var sum uint32
	if _, err := fmt.Sscanf(string(b), "%s %08x\n", &name, &sum); err != nil ||
		!strings.HasPrefix(name, prefixDB) || strings.ContainsAny(name, `/\`) ||
		sum != crc32.ChecksumIEEE([]byte(name)) {
		return "", fmt.Errorf("disk: damaged %s: %q", current, b)
	}
	return name, nil
}

func formatCurrent(name string) []byte {
	return fmt.Appendf(nil, "%s %08x\n", name, crc32.ChecksumIEEE([]byte(name)))
}

// point makes CURRENT name a database. When it returns nil the switch is on
// disk; where it fails it may or may not be.
func (l *layout) point(name string) error {
	f, err := l.fs.Create(l.path(writing), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(formatCurrent(name))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := l.fs.Rename(l.path(writing), l.path(current)); err != nil {
		return err
	}
	return l.sync()
}

// sync makes names in the directory durable.
func (l *layout) sync() error { return syncDir(l.fs, l.root) }

func syncDir(fs vfs.FS, path string) error {
	d, err := fs.OpenDir(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
