package folder

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"relay/pop3"
)

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
}

func list(t *testing.T, f *Folder) *List {
	t.Helper()
	l, err := f.List(t.Context())
	require.NoError(t, err)
	return l
}

func read(t *testing.T, l *List, i int) string {
	t.Helper()
	r, err := l.Open(i)
	require.NoError(t, err)
	defer r.Close()
	text, err := io.ReadAll(r)
	require.NoError(t, err)
	require.EqualValues(t, len(text), l.Size(i))
	return string(text)
}

func TestList(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "b.eml", "A: 2\n\ntwo\n.\n")
	write(t, dir, "a.EML", "A: 1\r\n\r\none")
	write(t, dir, "notes.txt", "no mail")
	write(t, dir, "empty.eml", "")
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub.eml"), 0o700))
	require.NoError(t, os.Symlink("/etc/passwd", filepath.Join(dir, "link.eml")))
	l := list(t, Open(dir))
	require.Equal(t, 3, l.Len())
	require.Equal(t, "A: 1\r\n\r\none\r\n", read(t, l, 0))
	require.Equal(t, "A: 2\r\n\r\ntwo\r\n.\r\n", read(t, l, 1))
	require.Empty(t, read(t, l, 2))
	for i := range l.Len() {
		require.Regexp(t, `^[!-~]{1,70}$`, pop3.UID(l, i))
	}
}

// TestUIDs: the same for the same file, on any machine and with any line ends,
// and another for any other.
func TestUIDs(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	write(t, one, "a.eml", "A: 1\n\none\n")
	write(t, two, "a.eml", "A: 1\r\n\r\none\r\n")
	f := Open(one)
	uid := pop3.UID(list(t, f), 0)
	require.Equal(t, uid, pop3.UID(list(t, Open(two)), 0))
	seen := map[string]bool{uid: true}
	for _, c := range [][2]string{{"a.eml", "A: 1\n\ntwo\n"}, {"b.eml", "A: 1\n\none\n"}, {"a.eml", "A: 1\n\nsix\n"}} {
		require.NoError(t, os.RemoveAll(filepath.Join(one, "a.eml")))
		write(t, one, c[0], c[1])
		l := list(t, f)
		got := pop3.UID(l, l.Len()-1)
		if c[0] == "a.eml" {
			got = pop3.UID(l, 0)
		}
		require.False(t, seen[got], "%v has a UID that was another's", c)
		seen[got] = true
	}
	require.NoError(t, os.RemoveAll(filepath.Join(one, "b.eml")))
	write(t, one, "a.eml", "A: 1\n\none\n")
	require.Equal(t, uid, pop3.UID(list(t, f), 0))
}

// TestFrozen: a file that changes or goes after the list was made is gone for
// that list, and the next list has what is there.
func TestFrozen(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.eml", "A: 1\n\none\n")
	write(t, dir, "b.eml", "A: 2\n\ntwo\n")
	f := Open(dir)
	l := list(t, f)
	write(t, dir, "a.eml", "A: 1\n\nanother, and longer\n")
	require.NoError(t, os.Remove(filepath.Join(dir, "b.eml")))
	write(t, dir, "c.eml", "A: 3\n\n")
	require.Equal(t, 2, l.Len())
	for i := range 2 {
		_, err := l.Open(i)
		require.ErrorIs(t, err, pop3.ErrNoMessage)
	}
	l = list(t, f)
	require.Equal(t, 2, l.Len())
	require.Contains(t, read(t, l, 0), "another")
	require.NoError(t, os.RemoveAll(dir))
	_, err := f.List(t.Context())
	require.Error(t, err)
	_, err = l.Open(0)
	require.Error(t, err)
}

// TestKnown: a file is read again only where it may have changed.
func TestKnown(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.eml", "A: 1\n\none\n")
	old := time.Now().Add(-time.Hour)
	path := filepath.Join(dir, "a.eml")
	require.NoError(t, os.Chtimes(path, old, old))
	f := Open(dir)
	uid := pop3.UID(list(t, f), 0)
	// The same stamp with other content, which does not happen by itself.
	write(t, dir, "a.eml", "A: 1\n\nsix\n")
	require.NoError(t, os.Chtimes(path, old, old))
	require.Equal(t, uid, pop3.UID(list(t, f), 0), "it was not read again")
	f.now = func() time.Time { return old.Add(time.Second) }
	require.NotEqual(t, uid, pop3.UID(list(t, f), 0), "a file that is just being written is")
}

// brief is a context that ends after a number of looks at it.
type brief struct {
	context.Context
	left int
}

func (b *brief) Err() error {
	if b.left--; b.left < 0 {
		return context.DeadlineExceeded
	}
	return nil
}

// TestALargeFolderIsReadInTheEnd: a login lasts only so long, and the next one
// goes on where it stopped.
func TestALargeFolderIsReadInTheEnd(t *testing.T) {
	dir := t.TempDir()
	f := Open(dir)
	old := time.Now().Add(-time.Hour)
	for i := range 5 {
		name := fmt.Sprintf("%d.eml", i)
		write(t, dir, name, "A: 1\n")
		require.NoError(t, os.Chtimes(filepath.Join(dir, name), old, old))
	}
	_, err := f.List(&brief{t.Context(), 3})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Len(t, f.known, 3)
	require.Equal(t, 5, list(t, f).Len())
}

func TestLines(t *testing.T) {
	long := strings.Repeat("x", 40<<10)
	for in, want := range map[string]string{
		"": "", "a": "a\r\n", "a\n": "a\r\n", "a\r\n": "a\r\n", "a\r": "a\r\n", "\n": "\r\n", "\r\n": "\r\n",
		"\n\n":   "\r\n\r\n",
		"a\rb\n": "a\rb\r\n", "\r\r\n": "\r\r\n", "a\x00": "a\x00\r\n", "a\n\x00": "a\r\n\x00\r\n", "\x00": "\x00\r\n",
		"a\n\r\nb": "a\r\n\r\nb\r\n", long: long + "\r\n", long + "\r\n": long + "\r\n",
		strings.Repeat("y", 32<<10-1) + "\r\nz\n": strings.Repeat("y", 32<<10-1) + "\r\nz\r\n",
	} {
		var out bytes.Buffer
		n, err := newLines(strings.NewReader(in)).WriteTo(&out)
		require.NoError(t, err)
		require.Equal(t, want, out.String())
		require.EqualValues(t, len(want), n)
		got, err := io.ReadAll(newLines(iotest.OneByteReader(strings.NewReader(in))))
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
	_, err := io.ReadAll(newLines(iotest.ErrReader(io.ErrUnexpectedEOF)))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}
