package folder

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"relay/pop3"
)

// Folder is one folder. Its methods may be called by any number of sessions.
type Folder struct {
	dir string
	now func() time.Time

	mu    sync.Mutex // held while the folder is read: a session that comes meanwhile gains by waiting
	known map[string]known
}

// known is what was found out about a file, for as long as it looks the same.
type known struct {
	stamp
	message
}

// stamp is what tells a file that has changed.
type stamp struct {
	octets   int64
	modified time.Time
}

// message is one message: its id, and its size as it is sent.
type message struct {
	id   [idOctets]byte
	size int64
}

const (
	idOctets = 20
	// settled is how old a file's last change must be before its stamp is
	// trusted: within one tick of a file system's clock a file can change twice.
	settled = 2 * time.Second
)

// Open returns the folder at a path. It is read at each List, not before.
func Open(dir string) *Folder {
	return &Folder{dir: dir, now: time.Now, known: map[string]known{}}
}

// List reads the folder: regular files, no links, whose names end in .eml, by
// name. Only files that are new or have changed are read themselves.
func (f *Folder) List(ctx context.Context) (*List, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	root, err := os.OpenRoot(f.dir)
	if err != nil {
		return nil, fmt.Errorf("open the folder: %w", err)
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("read the folder: %w", err)
	}
	l := &List{dir: f.dir}
	seen := make(map[string]known, len(entries))
	stop := func(err error) (*List, error) {
		// The next one to come goes on from here, or a folder that takes longer
		// to read than a login may last would never be read.
		maps.Copy(f.known, seen)
		return nil, err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return stop(err)
		}
		if !e.Type().IsRegular() || !strings.EqualFold(filepath.Ext(e.Name()), ".eml") {
			continue
		}
		one, err := f.look(root, e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has gone just now
		}
		if err != nil {
			return stop(err)
		}
		seen[e.Name()] = one
		l.files = append(l.files, file{e.Name(), one})
	}
	f.known = seen
	return l, nil
}

// look finds out about one file, from memory where it is unchanged.
func (f *Folder) look(root *os.Root, name string) (known, error) {
	r, s, err := open(root, name)
	if err != nil {
		return known{}, err
	}
	defer r.Close()
	if one, ok := f.known[name]; ok && one.stamp == s && f.now().Sub(s.modified) > settled {
		return one, nil
	}
	sum := sha256.New()
	sum.Write(append([]byte(name), 0))
	one := known{stamp: s}
	if one.size, err = newLines(r).WriteTo(sum); err != nil {
		return known{}, fmt.Errorf("read %s: %w", name, err)
	}
	copy(one.id[:], sum.Sum(nil))
	return one, nil
}

// open opens a regular file of the folder. The root keeps it inside, whatever the
// name.
func open(root *os.Root, name string) (*os.File, stamp, error) {
	r, err := root.Open(name)
	if err != nil {
		return nil, stamp{}, err
	}
	st, err := r.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		_ = r.Close()
		return nil, stamp{}, err
	}
	return r, stamp{st.Size(), st.ModTime()}, nil
}

// List is a folder as it was at one time. It never changes; it meets pop3.List.
type List struct {
	dir   string
	files []file
}

type file struct {
	name string
	known
}

// Len returns the number of messages.
func (l *List) Len() int { return len(l.files) }

// Size returns the octets of message i as Open hands them out.
func (l *List) Size(i int) int64 { return l.files[i].size }

// AppendUID appends the unique id of message i.
func (l *List) AppendUID(dst []byte, i int) []byte {
	return base32.StdEncoding.AppendEncode(dst, l.files[i].id[:])
}

// Open returns the octets of message i, with CRLF line ends, the last one
// included. A file that has gone or changed since the list was made is
// pop3.ErrNoMessage: its size and its id would not be those that were told.
func (l *List) Open(i int) (io.ReadCloser, error) {
	root, err := os.OpenRoot(l.dir)
	if err != nil {
		return nil, fmt.Errorf("open the folder: %w", err)
	}
	defer root.Close() // what was opened in it stays open
	one := l.files[i]
	r, s, err := open(root, one.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s has gone: %w", one.name, pop3.ErrNoMessage)
	case err != nil:
		return nil, err
	case s != one.stamp:
		_ = r.Close()
		return nil, fmt.Errorf("%s has changed: %w", one.name, pop3.ErrNoMessage)
	}
	return &body{lines: newLines(r), file: r}, nil
}

// body is a message being read.
type body struct {
	*lines
	file *os.File
}

// Close closes the file.
func (b *body) Close() error { return b.file.Close() }
