package mailfile

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Message is one message that was found.
type Message struct {
	Name     string    // the file, and for mailboxes the number in it
	Received time.Time // zero: unknown
	Content  []byte    // with the line ends of the file
	UIDL     string    // unique id that POP3 clients know it by; only where Options.UIDLs asks for it
}

// Left is something that was not read, and why.
type Left struct {
	Name string
	Why  string // goes on the sentence that begins with the name
	Bad  bool   // it should hold mail, and can't be read
}

func (l Left) String() string { return l.Name + " " + l.Why }

// Options say what is read.
type Options struct {
	IncludeDeleted bool       // also what Thunderbird or a Maildir marks as deleted
	Folders        []string   // of a Maildir, in place of its inbox: "Sent", ".Sent"; "*" is all of them and the inbox
	UIDLs          *UIDLs     // which unique ids are kept; nil: none
	Left           func(Left) // hears of what is left out; may be nil
}

// MaxMessage bounds one message, because it is held in memory.
const MaxMessage = 2 << 30

// mailboxName is what teaching servers call a user's mailbox file.
const mailboxName = "my_mailbox.txt"

// ErrFormat says that a path holds nothing this package reads.
var ErrFormat = errors.New("no mail that can be read: give an .eml file, a folder of them, a Maildir, an mbox file " +
	"or a my_mailbox.txt")

// Read calls fn for each message at a path, and returns the first error of
// either. It finds out by itself what kind of mail lies there:
//
//   - a folder with cur or new in it is a Maildir;
//   - a folder with my_mailbox.txt, and that file, are in the plain-text layout;
//   - a folder with a file mbox in it is a mailbox that Apple Mail exported;
//   - of any other folder all files that end in .eml or .emlx are read, by name;
//   - a file that ends in .eml or .emlx is one message;
//   - of other files, and of "-", which is the standard input: one that begins
//     with a "From " line is an mbox, one that begins with a header field is one
//     message.
//
// Files compressed with gzip or bzip2 are unpacked, a byte order mark is
// dropped, lines that end with CR alone get LF. In a folder, a file that can not
// be read does not end the reading: Options.Left hears of it, as of all else
// that is left out. Links are not followed. Read returns soon after ctx ends.
func Read(ctx context.Context, path string, o Options, fn func(Message) error) error {
	r := &reading{ctx: ctx, o: o, fn: fn}
	if path == "-" {
		if err := r.noFolders(path); err != nil {
			return err
		}
		s, err := openStream(ctx, "the standard input", os.Stdin, 0)
		if err != nil {
			return err
		}
		return r.guess(s)
	}
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.IsDir() {
		return r.folder(path)
	}
	if err := r.noFolders(path); err != nil {
		return err
	}
	return r.file(path)
}

// noFolders refuses a wish for folders of what has none.
func (r *reading) noFolders(path string) error {
	if len(r.o.Folders) > 0 {
		return fmt.Errorf("%s is no Maildir, so it has no folders to choose from", path)
	}
	return nil
}

// reading is one Read.
type reading struct {
	ctx context.Context
	o   Options
	fn  func(Message) error

	listed map[string]string // unique ids by dovecot-uidlist, of the Maildir folder at hand
}

func (r *reading) left(name, why string, bad bool) {
	if r.o.Left != nil {
		r.o.Left(Left{Name: name, Why: why, Bad: bad})
	}
}

// emit hands a message out unless it is marked as deleted or is none. name is what
// a list of unique ids calls it.
func (r *reading) emit(m Message, name string) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	m.Content = mended(m.Content)
	header := headerOf(m.Content)
	switch {
	case bytes.Contains(header, []byte("FOLDER INTERNAL DATA")) && internal.Match(header):
		r.left(m.Name, "is what a mail program keeps for itself (FOLDER INTERNAL DATA)", false)
		return nil
	case !r.o.IncludeDeleted && mozillaDeleted(header):
		r.left(m.Name, "is marked as deleted (--include-deleted takes it)", false)
		return nil
	}
	if r.o.UIDLs != nil {
		m.UIDL = cmp.Or(r.o.UIDLs.listed[name], r.listed[name], ownUIDL(header))
	}
	return r.fn(m)
}

// internal is the subject of such a message. An answer to one is mail.
var internal = regexp.MustCompile(`(?im)^Subject:[^:\n]*FOLDER INTERNAL DATA[ \t\r]*$`)

// maxHeader is how far marks are looked for in a header.
const maxHeader = 1 << 20

// headerOf returns the header section of a message, whatever its line ends, as far
// as marks are looked for.
func headerOf(content []byte) []byte {
	if bytes.HasPrefix(content, []byte("\n")) || bytes.HasPrefix(content, []byte("\r\n")) {
		return nil // it has none
	}
	end := min(len(content), maxHeader)
	for _, gap := range []string{"\n\n", "\n\r\n"} {
		if i := bytes.Index(content[:end], []byte(gap)); i >= 0 {
			end = i + 1
		}
	}
	return content[:end]
}

var mozillaStatus = regexp.MustCompile(`(?im)^X-Mozilla-Status:[ \t]*([0-9a-f]{1,8})[ \t]*\r?$`)

// mozillaDeleted reports whether Thunderbird marked a message as deleted: it
// stays in the file until the folder is compacted.
func mozillaDeleted(header []byte) bool {
	m := mozillaStatus.FindSubmatch(header)
	if m == nil {
		return false
	}
	flags, err := strconv.ParseUint(string(m[1]), 16, 32)
	return err == nil && flags&0x0008 != 0
}

func (r *reading) folder(path string) error {
	switch {
	case isDir(path, "cur"), isDir(path, "new"):
		return r.maildir(path)
	case len(r.o.Folders) > 0:
		return r.noFolders(path)
	case isFile(path, mailboxName):
		return r.alone(path, mailboxName)
	case isFile(path, "mbox"):
		return r.alone(path, "mbox")
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	read := 0
	for _, e := range entries {
		name := filepath.Join(path, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."):
			r.left(name, "is a hidden file", false)
		case !isMessage(e.Name()):
			r.left(name, "is not named as a message (.eml)", false)
		case e.Type().IsRegular():
			read++
			if err := r.tolerate(name, r.file(name)); err != nil {
				return err
			}
		default:
			r.left(name, "is no regular file", false)
		}
	}
	if read == 0 {
		return fmt.Errorf("%s: %w", path, ErrFormat)
	}
	return nil
}

// alone reads the one file of a folder that holds its mail.
func (r *reading) alone(dir, name string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != name {
			r.left(filepath.Join(dir, e.Name()), "lies beside "+name+", which alone is read", false)
		}
	}
	return r.file(filepath.Join(dir, name))
}

// tolerate notes a file of a folder that can't be read, and lets others be read.
func (r *reading) tolerate(name string, err error) error {
	var bad *refusal
	var failed *fs.PathError
	switch {
	case errors.As(err, &bad):
		r.left(name, bad.why, true)
		return nil
	case errors.As(err, &failed) && failed.Path == name:
		r.left(name, "can't be read: "+failed.Err.Error(), true)
		return nil
	}
	return err
}

func isMessage(name string) bool {
	ext := filepath.Ext(unpackedName(name))
	return ext == ".eml" || ext == ".emlx"
}

// unpackedName is a file's name in lower case, as it was before it was packed.
func unpackedName(name string) string {
	name = strings.ToLower(filepath.Base(name))
	for _, ext := range []string{".gz", ".bz2"} {
		name = strings.TrimSuffix(name, ext)
	}
	return name
}

func isDir(dir, name string) bool {
	st, err := os.Lstat(filepath.Join(dir, name))
	return err == nil && st.IsDir()
}

func isFile(dir, name string) bool {
	st, err := os.Lstat(filepath.Join(dir, name))
	return err == nil && st.Mode().IsRegular()
}

// file reads one file by its name or content.
func (r *reading) file(path string) error {
	s, err := openFile(r.ctx, path)
	if err != nil {
		return err
	}
	switch name := unpackedName(path); {
	case name == mailboxName:
		defer s.Close()
		return Plain(s.reader(), r.numbered(s))
	case strings.HasSuffix(name, ".partial.emlx"):
		return errors.Join(&refusal{
			path, "is a message without its parts, which Apple Mail keeps elsewhere: export the mailbox from Mail",
		}, s.Close())
	case filepath.Ext(name) == ".emlx":
		return r.emlx(s)
	case isMessage(path):
		return r.single(s, time.Time{})
	}
	return r.guess(s)
}

func (r *reading) numbered(s *source) func(n int, received time.Time, content []byte) error {
	return func(n int, received time.Time, content []byte) error {
		if received.IsZero() {
			received = s.changed
		}
		return r.emit(Message{
			Name: fmt.Sprintf("%s, message %d", s.name, n), Received: received, Content: content,
		}, strconv.Itoa(n))
	}
}

// guess reads an mbox or one message, as the first line says. It closes s.
func (r *reading) guess(s *source) error {
	if styleOf(s.firstLine()) == notFrom {
		return r.single(s, time.Time{})
	}
	defer s.Close()
	return Mbox(s, s.size, r.numbered(s))
}

// single reads a file of one message and closes it. "From " lines in front are
// dropped, and the date of the first is the time of receipt where no other is known.
func (r *reading) single(s *source, received time.Time) error {
	defer s.Close()
	s.firstLine() // it drops empty lines
	content, err := s.all()
	if err != nil {
		return err
	}
	for {
		line, rest, _ := bytes.Cut(content, []byte("\n"))
		if styleOf(bytes.TrimPrefix(line, []byte(">"))) == notFrom {
			break
		}
		content = rest
		if received.IsZero() {
			received = fromTime(line)
		}
	}
	if len(content) > 0 && !isMail(content) {
		return &refusal{s.name, "does not begin with a header field, so it is no message"}
	}
	if received.IsZero() {
		received = s.changed
	}
	return r.emit(Message{Name: s.name, Received: received, Content: content}, uniqueName(filepath.Base(s.name)))
}

// emlx reads a file of Apple Mail: a line with the message's length, the
// message, and a property list, which is dropped.
func (r *reading) emlx(s *source) error {
	line := s.firstLine()
	n, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 10, 64)
	begin := int64(len(line))
	if err != nil || n < 0 || begin+n > s.size {
		return errors.Join(&refusal{s.name, "is no .emlx file: it does not begin with the message's length"}, s.Close())
	}
	s.at, s.size = io.NewSectionReader(s.at, begin, n), n
	return r.single(s, time.Time{})
}

// FileOf is the file that Write makes of a message.
func FileOf(dir string, uid uint64) string { return filepath.Join(dir, fmt.Sprintf("%08d.eml", uid)) }

// Write makes one .eml file in a folder. It never writes over another file, and
// where it is interrupted it leaves no part of one under that name.
func Write(dir string, uid uint64, received time.Time, content io.Reader) (path string, err error) {
	path = FileOf(dir, uid)
	f, err := os.CreateTemp(dir, ".relay-export-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	_, err = io.Copy(f, content)
	err = errors.Join(err, f.Close())
	if err == nil && !received.IsZero() {
		err = os.Chtimes(f.Name(), received, received)
	}
	if err == nil {
		err = os.Link(f.Name(), path)
	}
	if err != nil {
		return "", err
	}
	return path, nil
}

// trimEnd takes the line end off a line, whichever it is.
func trimEnd(line []byte) []byte { return bytes.TrimRight(line, "\r\n") }

// mended drops the CR that a message has too many on each line: it was copied twice by
// programs that make CRLF of LF.
func mended(content []byte) []byte {
	const doubled = "\r\r\n"
	first, _, _ := bytes.Cut(content, []byte("\n"))
	if !bytes.HasSuffix(first, []byte("\r\r")) ||
		bytes.Count(content, []byte(doubled)) != bytes.Count(content, []byte("\n")) {
		return content
	}
	return bytes.ReplaceAll(content, []byte(doubled), []byte("\r\n"))
}
