package mailfile

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func write(t *testing.T, path, text string) {
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

func read(t *testing.T, path string) (texts []string, times []time.Time) {
	texts, times, left := readWith(t, path, Options{})
	for _, l := range left {
		require.False(t, l.Bad, l.String())
	}
	return texts, times
}

func readWith(t *testing.T, path string, o Options) (texts []string, times []time.Time, left []Left) {
	t.Helper()
	o.Left = func(l Left) { left = append(left, l) }
	require.NoError(t, Read(t.Context(), path, o, func(m Message) error {
		texts, times = append(texts, string(m.Content)), append(times, m.Received)
		return nil
	}))
	return texts, times, left
}

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/b.eml", "A: two")
	write(t, dir+"/a.EML", "A: one")
	write(t, dir+"/notes.txt", "no mail")
	write(t, dir+"/sub/c.eml", "A: not read")
	require.NoError(t, os.Symlink("/etc/passwd", dir+"/c.eml"))
	texts, _, left := readWith(t, dir, Options{})
	require.Equal(t, []string{"A: one", "A: two"}, texts)
	require.Len(t, left, 3, "the link, the notes and the folder are listed")
	texts, _ = read(t, dir+"/b.eml")
	require.Equal(t, []string{"A: two"}, texts)
	require.ErrorIs(t, Read(t.Context(), t.TempDir(), Options{}, nil), ErrFormat)
	require.Error(t, Read(t.Context(), dir+"/none", Options{}, nil))
}

func TestMaildir(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/cur/1000000002.x.host:2,S", "A: two")
	write(t, dir+"/new/1000000001.x.host", "A: one")
	write(t, dir+"/tmp/1000000000.x.host", "A: half")
	write(t, dir+"/cur/.hidden", "no")
	texts, times := read(t, dir)
	require.Equal(t, []string{"A: one", "A: two"}, texts)
	require.EqualValues(t, 1000000001, times[0].Unix())
}

func TestMbox(t *testing.T) {
	path := t.TempDir() + "/inbox"
	write(t, path, "From a@b Thu Jan  1 00:00:01 1970\nA: 1\n\n>From here\n>>From there\nFrom inside\n\n"+
		"From c@d Fri Jan  2 00:00:00 1970\nA: 2\n\nlast\n\n\n")
	texts, times := read(t, path)
	require.Equal(t, []string{"A: 1\n\nFrom here\n>From there\nFrom inside\n", "A: 2\n\nlast\n\n"}, texts)
	require.EqualValues(t, 1, times[0].Unix())
	require.Error(t, Mbox(strings.NewReader("Subject: x\n"), 11, nil))
}

// TestMboxWithTextThatIsNotQuoted: some programs tell messages apart by the time
// in "From " lines, and quote nothing.
func TestMboxWithTextThatIsNotQuoted(t *testing.T) {
	path := t.TempDir() + "/inbox"
	write(t, path, "From a@b Thu Jan  1 00:00:01 1970\nA: 1\n\nHello.\n\nFrom here on it gets worse.\n\n"+
		"From - Fri Jan  2 00:00:00 1970\nA: 2\n\nlast\n")
	texts, _ := read(t, path)
	require.Equal(t, []string{"A: 1\n\nHello.\n\nFrom here on it gets worse.\n", "A: 2\n\nlast\n"}, texts)
	write(t, path, "From a@b\nA: 1\n\nx\n\nFrom c@d\nA: 2\n\ny\n")
	texts, _ = read(t, path)
	require.Equal(t, []string{"A: 1\n\nx\n", "A: 2\n\ny\n"}, texts, "no times at all")
}

func TestPlain(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/my_mailbox.txt",
		"From: a\nTo: b\nSubject: c\nReceived: 2024-05-06 07:08:09\nFrom: body\nReceived: body\n..dot\n...\n.\n"+
			"From: a\nTo: b\nSubject: empty\n.\nSubject: first\nFrom: x\nhello\nTo: body\n")
	texts, times := read(t, dir)
	require.Equal(t, []string{
		"From: a\r\nTo: b\r\nSubject: c\r\nReceived: 2024-05-06 07:08:09\r\n\r\nFrom: body\r\nReceived: body\r\n" +
			".dot\r\n..\r\n",
		"From: a\r\nTo: b\r\nSubject: empty\r\n\r\n",
		"Subject: first\r\nFrom: x\r\n\r\nhello\r\nTo: body\r\n",
	}, texts)
	require.Equal(t, 2024, times[0].Year())
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	at := time.Unix(1700000000, 0)
	path, err := Write(dir, 7, at, strings.NewReader("A: x"))
	require.NoError(t, err)
	_, err = Write(dir, 7, at, strings.NewReader("A: y"))
	require.ErrorIs(t, err, os.ErrExist)
	texts, times := read(t, path)
	require.Equal(t, []string{"A: x"}, texts)
	require.True(t, times[0].Equal(at))
}

// FuzzMbox: mail written as mboxrd is read back.
func FuzzMbox(f *testing.F) {
	f.Add([]byte("A: 1\n\nbody\n"), []byte("A: 2\n\n>From x\nFrom y\n"))
	f.Add([]byte("\n"), []byte("\n\n"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var box bytes.Buffer
		want := [][]byte{ended(a), ended(b)}
		for _, m := range want {
			if bytes.HasPrefix(bytes.TrimLeft(m, ">"), []byte("From ")) ||
				bytes.Contains(bytes.ToLower(m), []byte("content-length")) {
				return // a line of the envelope, or a length
			}
		}
		for _, m := range want {
			fmt.Fprintf(&box, "From x Thu Jan  1 00:00:01 1970\n")
			for _, line := range bytes.SplitAfter(m, []byte("\n")) {
				if bytes.HasPrefix(bytes.TrimLeft(line, ">"), []byte("From ")) {
					box.WriteByte('>')
				}
				box.Write(line)
			}
			box.WriteByte('\n')
		}
		var got [][]byte
		require.NoError(t, Mbox(bytes.NewReader(box.Bytes()), int64(box.Len()),
			func(_ int, _ time.Time, c []byte) error { got = append(got, bytes.Clone(c)); return nil }))
		require.Equal(t, want, got)
	})
}

// ended is a text whose lines all end.
func ended(b []byte) []byte {
	if len(b) == 0 || b[len(b)-1] != '\n' {
		b = append(bytes.Clone(b), '\n')
	}
	return b
}

// FuzzPlain: bodies come through, whatever they say.
func FuzzPlain(f *testing.F) {
	f.Add("From: x\n..\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, body string) {
		body = strings.ReplaceAll(body, "\r", "")
		var box bytes.Buffer
		box.WriteString("From: a\nTo: b\nSubject: c\nReceived: now\n")
		want := "From: a\r\nTo: b\r\nSubject: c\r\nReceived: now\r\n\r\n"
		if body != "" {
			for _, line := range strings.Split(strings.TrimSuffix(body, "\n"), "\n") {
				want += line + "\r\n"
				if strings.HasPrefix(line, ".") {
					line = "." + line
				}
				box.WriteString(line + "\n")
			}
		}
		box.WriteString(".\n")
		n := 0
		require.NoError(t, Plain(&box, func(_ int, _ time.Time, c []byte) error {
			n++
			require.Equal(t, want, string(c))
			return nil
		}))
		require.Equal(t, 1, n)
	})
}
