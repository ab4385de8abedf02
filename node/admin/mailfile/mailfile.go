package mailfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Message is one message that was found.
type Message struct {
	Name     string    // the file, and for mailboxes the number in it
	Received time.Time // zero: unknown
	Content  []byte    // with the line ends of the file
}

// MaxMessage bounds one message, because it is held in memory.
const MaxMessage = 2 << 30

// mailboxName is what teaching servers call a user's mailbox file.
const mailboxName = "my_mailbox.txt"

// ErrFormat says that a path holds nothing this package reads.
var ErrFormat = errors.New("no mail that can be read: give an .eml file, a folder of them, a Maildir, an mbox file or a my_mailbox.txt")

// Read calls fn for each message at a path, and returns the first error of
// either. What kind of mail lies there it finds out by itself:
//
//   - a folder with cur or new in it is a Maildir;
//   - a folder with my_mailbox.txt, and that file, are in the plain-text layout;
//   - of any other folder all files that end in .eml are read, by name;
//   - a file that begins with "From " is an mbox, any other one message.
//
// Links are not followed, and folders within folders are not read.
func Read(path string, fn func(Message) error) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return readFile(path, st, fn)
	}
	switch {
	case isDir(path, "cur"), isDir(path, "new"):
		return readMaildir(path, fn)
	case isFile(path, mailboxName):
		return Read(filepath.Join(path, mailboxName), fn)
	}
	names, err := list(path, func(name string) bool { return strings.EqualFold(filepath.Ext(name), ".eml") })
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return fmt.Errorf("%s: %w", path, ErrFormat)
	}
	return each(path, names, fn, func(string) time.Time { return time.Time{} })
}

func isDir(dir, name string) bool {
	st, err := os.Lstat(filepath.Join(dir, name))
	return err == nil && st.IsDir()
}

func isFile(dir, name string) bool {
	st, err := os.Lstat(filepath.Join(dir, name))
	return err == nil && st.Mode().IsRegular()
}

// list names the regular files of a folder that want wants, in order.
func list(dir string, want func(name string) bool) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() && want(e.Name()) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// each reads files of one message.
func each(dir string, names []string, fn func(Message) error, received func(name string) time.Time) error {
	for _, name := range names {
		m, err := one(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if at := received(name); !at.IsZero() {
			m.Received = at
		}
		if err := fn(m); err != nil {
			return err
		}
	}
	return nil
}

func one(path string) (Message, error) {
	f, err := os.Open(path)
	if err != nil {
		return Message{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Message{}, err
	}
	if st.Size() > MaxMessage {
		return Message{}, fmt.Errorf("%s: a message of %d octets is too large", path, st.Size())
	}
	content, err := io.ReadAll(f)
	return Message{Name: path, Received: st.ModTime(), Content: content}, err
}

// readMaildir reads what was seen and what is new, in order of arrival: names
// begin with the second of it.
func readMaildir(dir string, fn func(Message) error) error {
	type file struct{ dir, name string }
	var all []file
	for _, sub := range []string{"cur", "new"} {
		names, err := list(filepath.Join(dir, sub), func(name string) bool { return !strings.HasPrefix(name, ".") })
		if err != nil {
			return err
		}
		for _, name := range names {
			all = append(all, file{filepath.Join(dir, sub), name})
		}
	}
	slices.SortStableFunc(all, func(a, b file) int { return strings.Compare(a.name, b.name) })
	for _, f := range all {
		if err := each(f.dir, []string{f.name}, fn, maildirTime); err != nil {
			return err
		}
	}
	return nil
}

// maildirTime is the time that a Maildir name begins with.
func maildirTime(name string) time.Time {
	digits, _, _ := strings.Cut(name, ".")
	seconds, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || seconds <= 0 || seconds > 1<<33 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

func readFile(path string, st fs.FileInfo, fn func(Message) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	numbered := func(n int, received time.Time, content []byte) error {
		if received.IsZero() {
			received = st.ModTime()
		}
		return fn(Message{Name: fmt.Sprintf("%s, message %d", path, n), Received: received, Content: content})
	}
	if filepath.Base(path) == mailboxName {
		return Plain(f, numbered)
	}
	head := make([]byte, 5)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return err
	}
	if n == 0 {
		return nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if string(head[:n]) == "From " {
		return Mbox(f, numbered)
	}
	return each(filepath.Dir(path), []string{filepath.Base(path)}, fn, func(string) time.Time { return time.Time{} })
}

// Write makes one .eml file in a folder. It never writes over another file.
func Write(dir string, uid uint64, received time.Time, content io.Reader) (path string, err error) {
	path = filepath.Join(dir, fmt.Sprintf("%08d.eml", uid))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, content)
	err = errors.Join(err, f.Close())
	if err == nil && !received.IsZero() {
		err = os.Chtimes(path, received, received)
	}
	if err != nil {
		_ = os.Remove(path)
		return "", err
	}
	return path, nil
}

// trimEnd takes the line end off a line.
func trimEnd(line []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
}
