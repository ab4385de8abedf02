package mailfile

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func gzipped(t *testing.T, data []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(data)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return b.Bytes()
}

// TestArchivesAreNoMail: a file that holds mail in another form is refused by name,
// packed or not, whatever it is called.
func TestArchivesAreNoMail(t *testing.T) {
	var tarred, zipped bytes.Buffer
	a := tar.NewWriter(&tarred)
	require.NoError(t, a.WriteHeader(&tar.Header{Name: "1000000000.M1P1.host:2,S", Mode: 0o600, Size: int64(len(one))}))
	_, err := a.Write([]byte(one))
	require.NoError(t, err)
	require.NoError(t, a.Close())
	z := zip.NewWriter(&zipped)
	f, err := z.Create("inbox")
	require.NoError(t, err)
	_, err = f.Write([]byte(fromLine + one))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	whole := gzipped(t, []byte(strings.Repeat(fromLine+one+"\n", 1000)))
	for name, c := range map[string]struct {
		data []byte
		why  string
	}{
		"mail.tar":       {tarred.Bytes(), "tar archive"},
		"mail.tgz":       {gzipped(t, tarred.Bytes()), "tar archive"},
		"zip.mbox":       {zipped.Bytes(), "zip archive"},
		"cut.mbox.gz":    {whole[:len(whole)-9], "unpacked"},
		"json":           {[]byte(`{"from":"a@b"}` + "\n"), "header field"},
		"link":           {[]byte("https://example.com/a\n"), "header field"},
		"card":           {[]byte("BEGIN:VCARD\nFN:x\nEND:VCARD\n"), "vCard"},
		"utf16":          {[]byte("F\x00r\x00o\x00m\x00 \x00"), "no text"},
		"utf16bom.eml":   {[]byte("\xff\xfeS\x00u\x00b\x00"), "UTF-16"},
		"mmdf":           {[]byte("\x01\x01\x01\x01\n" + one + "\x01\x01\x01\x01\n"), "MMDF"},
		"my_mailbox.txt": {[]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00"), "no text"},
		"bomb.gz":        {gzipped(t, gzipped(t, gzipped(t, gzipped(t, gzipped(t, []byte(one)))))), "packed"},
		"9.partial.emlx": {[]byte("23        \n" + one), "Apple"},
	} {
		path := filepath.Join(t.TempDir(), name)
		write(t, path, string(c.data))
		err := Read(t.Context(), path, Options{}, func(m Message) error {
			t.Errorf("%s is a message of %d octets", name, len(m.Content))
			return nil
		})
		require.ErrorContains(t, err, c.why, name)
		require.ErrorContains(t, err, name)
	}
	path := filepath.Join(t.TempDir(), "twice.gz")
	write(t, path, string(gzipped(t, gzipped(t, []byte(fromLine+one)))))
	texts, _ := read(t, path)
	require.Equal(t, []string{one}, texts)
}

// TestOddFolders: links, pipes, folders that are named as messages, and files that
// can not be opened end no import, and are listed.
func TestOddFolders(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "z.eml"), one)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "folder.eml"), 0o700))
	require.NoError(t, os.Symlink("loop.eml", filepath.Join(dir, "loop.eml")))
	require.NoError(t, os.Symlink(".", filepath.Join(dir, "again")))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "pipe.eml"), 0o600))
	texts, _, left := readWith(t, dir, Options{})
	require.Equal(t, []string{one}, texts)
	require.Len(t, left, 4)
	require.ErrorIs(t, Read(t.Context(), filepath.Join(dir, "loop.eml"), Options{}, nil), syscall.ELOOP)

	md := t.TempDir()
	write(t, filepath.Join(md, "cur/1.M1P1.x:2,S"), one)
	require.NoError(t, os.Symlink("../..", filepath.Join(md, "cur/2.M1P1.x:2,S")))
	require.NoError(t, syscall.Mkfifo(filepath.Join(md, "cur/3.M1P1.x:2,S"), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(md, "cur/4.M1P1.x:2,S"), 0o700))
	require.NoError(t, os.Symlink("cur", filepath.Join(md, "new")))
	texts, _, left = readWith(t, md, Options{})
	require.Equal(t, []string{one}, texts, "what a link leads to is not read twice")
	require.Len(t, left, 4)

	r := reading{ctx: t.Context(), o: Options{Left: func(l Left) { left = append(left, l) }}}
	require.NoError(t, r.tolerate("a.eml", &fs.PathError{Op: "open", Path: "a.eml", Err: syscall.EACCES}))
	require.Equal(t, Left{Name: "a.eml", Why: "can't be read: permission denied", Bad: true}, left[4])
	full := &fs.PathError{Op: "write", Path: "/tmp/x", Err: syscall.ENOSPC}
	require.ErrorIs(t, r.tolerate("a.eml", full), syscall.ENOSPC, "no fault of the file")
}

// TestPipeWithoutAWriter: a named pipe that nobody writes to is waited for until the
// reading is to end.
func TestPipeWithoutAWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(20*time.Millisecond, func() { cancel(errors.New("enough")) })
	require.ErrorIs(t, Read(ctx, path, Options{}, nil), context.Canceled)
	w, err := os.OpenFile(path, os.O_RDWR, 0) // lets the one that opens it go on
	require.NoError(t, err)
	require.NoError(t, w.Close())
}

// TestTextThatLooksLikeMail: lines of a body that look like separators stay there.
func TestTextThatLooksLikeMail(t *testing.T) {
	for name, c := range map[string]struct{ box, want string }{
		"a word and a field":  {fromLine + one + "\nFrom here on\nNote: x\n", one + "\nFrom here on\nNote: x\n"},
		"a time and a field":  {fromLine + one + "\nFrom 10:30 2024\nNote: x\n", one + "\nFrom 10:30 2024\nNote: x\n"},
		"a quoted separator":  {fromLine + one + "\n> " + fromLine + "Note: x\n", one + "\n> " + fromLine + "Note: x\n"},
		"a forwarded message": {fromLine + one + "\n>" + fromLine + "Note: x\n", one + "\n" + fromLine + "Note: x\n"},
	} {
		path := filepath.Join(t.TempDir(), "inbox")
		write(t, path, c.box)
		texts, _ := read(t, path)
		require.Equal(t, []string{c.want}, texts, name)
	}
	for name, text := range map[string]string{
		"empty lines in front": "\r\n\n" + one, "uucp": ">From a@b Thu Feb  1 10:00:00 2024 remote from x\n" + one,
		"two of them": fromLine + ">From a@b Thu Feb  1 10:00:00 2024 remote from x\n" + one,
	} {
		path := filepath.Join(t.TempDir(), "a.eml")
		write(t, path, text)
		texts, _ := read(t, path)
		require.Equal(t, []string{one}, texts, name)
	}
}

// TestALineOf100MB is read as it is, and soon.
func TestALineOf100MB(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a while")
	}
	path := filepath.Join(t.TempDir(), "inbox")
	line := strings.Repeat("x", 100<<20)
	write(t, path, fromLine+"Subject: "+line+"\n"+fromLine+one)
	began := time.Now()
	n := 0
	add := func(m Message) error { n += len(m.Content); return nil }
	require.NoError(t, Read(t.Context(), path, Options{UIDLs: &UIDLs{}}, add))
	require.Equal(t, len("Subject: ")+len(line)+1+len(one), n)
	require.Less(t, time.Since(began), 20*time.Second)
}

// TestFoldersAreOfMaildirs: what --folder can not mean is told.
func TestFoldersAreOfMaildirs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inbox")
	write(t, path, fromLine+one)
	require.ErrorContains(t, Read(t.Context(), path, Options{Folders: []string{"Sent"}}, nil), "is no Maildir")
}

// An mbox of two messages, and one message, both packed with bzip2.
const (
	bzippedMbox = "QlpoOTFBWSZTWd+2gvwAAB3fgAAQQABwsGEQBAAyQ5aAIABQoNGjQZAaBVVPaTTUek09TNTaS+KTUaxhoqlply/N3t" +
		"VBYtNEkRusumYUNXjlwvhwql3l56Sy7/i7kinChIb9tBfg"
	bzippedMail = "QlpoOTFBWSZTWfntSxIAAALdgAAQQAAAECAAIgYMQCAAIg0yAIBpporQUMKvc6+8XckU4UJD57UsSA=="
)

// TestCompressedMail: an mbox packed with bzip2, and messages of a Maildir that are
// packed with gzip or bzip2 as Dovecot's zlib plugin does, are read as they were.
func TestCompressedMail(t *testing.T) {
	unpack := func(text string) string {
		b, err := base64.StdEncoding.DecodeString(text)
		require.NoError(t, err)
		return string(b)
	}
	dir := t.TempDir()
	write(t, dir+"/inbox.bz2", unpack(bzippedMbox))
	texts, _ := read(t, dir+"/inbox.bz2")
	require.Equal(t, []string{"A: one\n\n1\n", "A: two\n\n2\n"}, texts)

	write(t, dir+"/f/a.eml.gz", string(gzipped(t, []byte(fromLine+one+"\n"+fromLine+two))))
	write(t, dir+"/f/b.EML.BZ2", unpack(bzippedMail))
	texts, _ = read(t, dir+"/f")
	require.Equal(t, []string{one + "\n" + fromLine + two, "A: small\n\ntext\n"}, texts, "packed, too, it is one message")
	texts, _ = read(t, dir+"/f/a.eml.gz")
	require.Len(t, texts, 1)
	write(t, dir+"/my_mailbox.txt.gz", string(gzipped(t, []byte("From: a\nhello\n.\nFrom: b\n.\n"))))
	texts, _ = read(t, dir+"/my_mailbox.txt.gz")
	require.Len(t, texts, 2)

	write(t, dir+"/m/cur/1000000001.M1.host,S=20:2,S", "A: plain\n\ntext\n")
	write(t, dir+"/m/cur/1000000002.M2.host,S=20:2,SZ", string(gzipped(t, []byte("A: packed\n\ntext\n"))))
	write(t, dir+"/m/new/1000000003.M3.host,S=20", unpack(bzippedMail))
	texts, times := read(t, dir+"/m")
	require.Equal(t, []string{"A: plain\n\ntext\n", "A: packed\n\ntext\n", "A: small\n\ntext\n"}, texts)
	require.EqualValues(t, 1000000002, times[1].Unix())
}
