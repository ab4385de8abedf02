package mailfile

import (
	"bytes"
	"compress/gzip"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	fromLine = "From carol@example.test Thu Feb  1 10:00:00 2024\n"
	one      = "Subject: one\n\nbody one\n"
	two      = "Subject: two\n\nbody two\n"
)

// TestFilesOfOtherPrograms reads files that other programs wrote or mended.
func TestFilesOfOtherPrograms(t *testing.T) {
	for name, want := range map[string][]string{
		"m01-noblank.mbox":          {"body one", "body two"},
		"m03-bom.mbox":              {"body one", "body two"},
		"m05-mboxcl2.mbox":          {"this is still the first message", "body"},
		"m07-cr.mbox":               {"body one", "body two"},
		"m09-tbdeleted.mbox":        {"Subject: kept"},
		"m19-fromtime-in-text.mbox": {"From 10:30 until noon we meet.\nBye", "Subject: two"},
		"e5-from.eml":               {"From the start it was bad 10:30 am\nmore"},
		"seed/my_mailbox.txt":       {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			texts, _ := read(t, filepath.Join("testdata/import", name))
			require.Len(t, texts, len(want))
			for i, text := range texts {
				require.Contains(t, text, want[i])
				require.True(t, isField([]byte(text)), text)
			}
		})
	}
	all, _, _ := readWith(t, "testdata/import/m09-tbdeleted.mbox", Options{IncludeDeleted: true})
	require.Len(t, all, 2)
	texts, _, left := readWith(t, "testdata/import", Options{})
	require.Len(t, texts, 1, "an .eml is one message in a folder, too")
	require.True(t, strings.HasPrefix(texts[0], "Subject: eml with from line"))
	require.Len(t, left, 7)
}

func TestLinesThatBeginAMessage(t *testing.T) {
	for _, line := range []string{
		"From a@b Thu Feb  1 10:00:00 2024", "From a@b Thu Feb  1 10:00 2024", "From a@b Thu Feb  1 10:00:00 +0200 2016",
		"From a@b Thu Feb  1 10:00:00 CET 2024", "From a@b Thu Feb  1 10:00:00 2024 +0100",
		"From - Fri, 16 Sep 2016 10:00:00 +0200",
		"From a b c Fri, 16 Sep 2016 10:00:00 GMT", "From MAILER-DAEMON Thu Feb  1 10:00:00 2024\r",
		"From  Thu Feb  1 10:00:00 2024",
		"From a@b thu feb 1 1:00:00 2024", "From uucp Thu Feb  1 10:00:00 2024 remote from host",
		"From a@b Thu Feb  1 10:00:00 96",
	} {
		require.Equal(t, fullFrom, styleOf([]byte(line+"\n")), line)
		require.False(t, fromTime([]byte(line+"\n")).IsZero(), line)
	}
	for line, want := range map[string]style{
		"From ": bareFrom, "From -": bareFrom, "From - ": bareFrom, "From a@b": anyFrom,
		"From 10:30 until noon we meet.":   anyFrom,
		"From a@b Do Feb  1 10:00:00 2024": timeFrom, "From: a@b": notFrom, "From": notFrom,
		">From a@b Thu Feb  1 10:00:00 2024": notFrom,
	} {
		require.Equal(t, want, styleOf([]byte(line+"\n")), line)
	}
	require.Equal(t, longFrom, styleOf([]byte("From a@b Thu Feb  1 10:00:00 2024 by x")))
	at := fromTime([]byte("From a@b Thu Feb  1 10:00:00 MET DST 2024 by x"))
	require.True(t, at.IsZero(), "only the usual forms may have words behind them")
	at = fromTime([]byte("From a@b Thu Feb  1 10:00:00 +0200 2016 by x"))
	require.True(t, at.Equal(time.Date(2016, 2, 1, 8, 0, 0, 0, time.UTC)), at)
	at = fromTime([]byte("From a@b Thu Jul  1 10:00:00 MET  DST 1993"))
	require.True(t, at.Equal(time.Date(1993, 7, 1, 8, 0, 0, 0, time.UTC)), at)
	at = fromTime([]byte("From a@b Thu Feb  1 10:00:00 +0200 2016"))
	require.True(t, at.Equal(time.Date(2016, 2, 1, 8, 0, 0, 0, time.UTC)), at)
}

func TestMboxForms(t *testing.T) {
	mozilla := "X-Mozilla-Status: 0001\n"
	for name, c := range map[string]struct {
		box  string
		want []string
	}{
		"no empty line between": {fromLine + one + fromLine + two, []string{one, two}},
		"empty lines in front":  {"\n\n" + fromLine + one + "\n" + fromLine + two, []string{one, two}},
		"CRLF": {strings.ReplaceAll(fromLine+one+"\n"+fromLine+two, "\n", "\r\n"),
			[]string{crlf(one), crlf(two)}},
		"CR alone":        {strings.ReplaceAll(fromLine+one+"\n"+fromLine+two, "\n", "\r"), []string{one, two}},
		"byte order mark": {"\ufeff" + fromLine + one, []string{one}},
		"bare lines":      {"From \n" + one + "\nFrom \n" + two, []string{one, two}},
		"lines with a dash": {"From - \n" + mozilla + one + "\nFrom - \n" + mozilla + two,
			[]string{mozilla + one, mozilla + two}},
		"bare line among full ones": {fromLine + one + "\nFrom - \n" + two, []string{one, two}},
		"date in the text":          {fromLine + one + fromLine[:30] + "\n", []string{one + fromLine[:30] + "\n"}},
		"no header behind, no gap": {fromLine + one + fromLine + "is what stands there\n",
			[]string{one + fromLine + "is what stands there\n"}},
		"UUCP": {fromLine + ">From a@b Thu Feb  1 10:00:00 2024 remote from x\n" + one, []string{one}},
		"length right, nothing quoted": {fromLine + "Content-Length: 64\n\nx\n\n" + fromLine + "Subject: y\n\n" +
			"\n" + fromLine + two,
			[]string{"Content-Length: 64\n\nx\n\n" + fromLine + "Subject: y\n\n", two}},
		"length right, quoted": {fromLine + "Content-Length: 9\n\n>From me\n\n" + fromLine + two,
			[]string{"Content-Length: 9\n\nFrom me\n", two}},
		"length wrong": {fromLine + "Content-Length: 3\n\nlonger\n\n" + fromLine + two,
			[]string{"Content-Length: 3\n\nlonger\n", two}},
		"length far too large": {fromLine + "Content-Length: 99999999\n\nx\n\n" + fromLine + two,
			[]string{"Content-Length: 99999999\n\nx\n", two}},
		"length of none": {fromLine + "Content-Length: 0\n\n\n" + fromLine + two,
			[]string{"Content-Length: 0\n\n", two}},
		"length less its line end": {fromLine + "Content-Length: 1\n\nx\n\n" + fromLine + two,
			[]string{"Content-Length: 1\n\nx\n", two}},
		"length up to a bare line in the text": {
			fromLine + "Content-Length: 5\n\ntext\n\nFrom \nand so on\nmore\n\n" + fromLine + two,
			[]string{"Content-Length: 5\n\ntext\n\nFrom \nand so on\nmore\n", two}},
		"length up to many empty lines": {fromLine + "Content-Length: 5\n\ntext\n" + strings.Repeat("\n", 1500) + "more\n\n" +
			fromLine + two,
			[]string{"Content-Length: 5\n\ntext\n" + strings.Repeat("\n", 1500) + "more\n", two}},
		"CR CR LF": {strings.ReplaceAll(fromLine+one+"\n"+fromLine+two, "\n", "\r\r\n"), []string{crlf(one), crlf(two)}},
		"more words behind the date": {fromLine + one + "\nFrom a@b Thu Feb  1 10:00:00 2024 by x\n" + two,
			[]string{one, two}},
		"more words and no header": {fromLine + one + "\nFrom a@b Thu Feb  1 10:00:00 2024 by x\ntext\n",
			[]string{one + "\nFrom a@b Thu Feb  1 10:00:00 2024 by x\ntext\n"}},
		"a date without a sender, and no header": {fromLine + one + "\nFrom Thu Feb  1 10:00:00 2024\nwe meet.\n",
			[]string{one + "\nFrom Thu Feb  1 10:00:00 2024\nwe meet.\n"}},
		"a mail without a header": {fromLine + one + "\n" + fromLine + "text\n", []string{one, "text\n"}},
		"summer time of old": {fromLine + one + "\nFrom a@b Thu Jul  1 10:00:00 MET DST 1993\n" + two,
			[]string{one, two}},
		"byte order marks inside": {fromLine + one + "\n\ufeff" + fromLine + "\ufeff" + two + "\ufeffFrom me\n",
			[]string{one, two + "\ufeffFrom me\n"}},
		"no header, and a mark of Thunderbird in the text": {fromLine + "\nX-Mozilla-Status: 0008\n\nx\n\n" + fromLine + two,
			[]string{"\nX-Mozilla-Status: 0008\n\nx\n", two}},
		"length up to the end": {fromLine + "Content-Length: 1\n\nx", []string{"Content-Length: 1\n\nx"}},
		"a quoted sender, padded and tabbed dates": {"From \"a b\"@c Thu Feb 01 10:00:00 2024\n" + one +
			"\nFrom a@b\tThu, 01 Feb 2024 10:00:00 +0000 (UTC) \n" + two, []string{one, two}},
		"no line end at the end": {fromLine + one + "\n" + fromLine + "Subject: two\n\nx",
			[]string{one, "Subject: two\n\nx"}},
		"quoted twice": {fromLine + "Subject: q\n\n>>From a\n> From b\n",
			[]string{"Subject: q\n\n>From a\n> From b\n"}},
		"other lines that look so": {fromLine + one + "\nFrom:x\nFROM a@b\n From c\n",
			[]string{one + "\nFrom:x\nFROM a@b\n From c\n"}},
		"a line between whole mails": {fromLine + one + "\nFrom a@b\n" + two, []string{one + "\nFrom a@b\n" + two}},
		"NUL in the text": {fromLine + "Subject: n\n\n\x00\x00\n\n" + fromLine + two,
			[]string{"Subject: n\n\n\x00\x00\n", two}},
		"a digest of mails": {fromLine + "Subject: d\n\n>" + fromLine + one + "\n" + fromLine + two,
			[]string{"Subject: d\n\n" + fromLine + one, two}},
		"a length with a fold and a sign": {fromLine + "Content-Length:\n 3\nContent-Length: +2\n\nlong\n\n" + fromLine + two,
			[]string{"Content-Length:\n 3\nContent-Length: +2\n\nlong\n", two}},
		"dates in another language": {"From a@b Do Feb  1 10:00:00 2024\n" + one + "\nFrom a@b Fr Feb  2 10:00:00 2024\n" +
			two,
			[]string{one, two}},
	} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir() + "/inbox"
			write(t, path, c.box)
			texts, _ := read(t, path)
			require.Equal(t, c.want, texts)
			var packed bytes.Buffer
			z := gzip.NewWriter(&packed)
			_, _ = z.Write([]byte(c.box))
			require.NoError(t, z.Close())
			write(t, path+".gz", packed.String())
			texts, _ = read(t, path+".gz")
			require.Equal(t, c.want, texts)
		})
	}
}

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

func TestWhatIsNoMailIsRefusedByName(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.eml": "\x00\x05\x16\x07\x00\x02", "b.eml": "\x28\xb5\x2f\xfd....", "c.eml": "\x89PNG\r\n\x1a\n",
		"d.eml": "hello\n",
		"e.eml": "\x1f\x8bbroken", "f.eml": "\xff\xfeF\x00",
	} {
		write(t, filepath.Join(dir, name), text)
		err := Read(t.Context(), filepath.Join(dir, name), Options{},
			func(Message) error { t.Error("a message"); return nil })
		require.ErrorIs(t, err, ErrFormat)
		require.Contains(t, err.Error(), name)
	}
	write(t, filepath.Join(dir, "g.eml"), one)
	write(t, filepath.Join(dir, "._g.eml"), "\x00\x05\x16\x07")
	texts, _, left := readWith(t, dir, Options{})
	require.Equal(t, []string{one}, texts)
	require.Len(t, left, 7)
	require.False(t, left[0].Bad, "a hidden file is only listed")
	require.True(t, left[1].Bad)
	write(t, filepath.Join(dir, "mess"), "this is no mail\n")
	require.ErrorIs(t, Read(t.Context(), filepath.Join(dir, "mess"), Options{}, nil), ErrFormat)
}

func TestMailOfApple(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/INBOX.mbox/mbox", fromLine+one)
	write(t, dir+"/INBOX.mbox/table_of_contents", "\x00")
	texts, _, left := readWith(t, dir+"/INBOX.mbox", Options{})
	require.Equal(t, []string{one}, texts)
	require.Len(t, left, 1, "what lies beside it is named")
	write(t, dir+"/Messages/1.emlx", "23        \n"+one+"<?xml version=\"1.0\"?>\n")
	texts, _ = read(t, dir+"/Messages")
	require.Equal(t, []string{one}, texts)
}

func TestInternalData(t *testing.T) {
	path := t.TempDir() + "/inbox"
	write(t, path, "From MAILER-DAEMON Thu Feb  1 10:00:00 2024\nSubject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL "+
		"DATA\n\nx\n\n"+fromLine+one+"\n"+fromLine+
		"Subject: Re: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\n\nWhat is it?\n")
	texts, _, left := readWith(t, path, Options{})
	require.Len(t, texts, 2, "a question about one is mail")
	require.Equal(t, one, texts[0])
	require.Len(t, left, 1)
}

func TestMaildirInOrderOfArrival(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"cur/999999999.M1P1.host:2,S": "A: 1", "cur/1000000000.M5P1Q10.host:2,S": "A: 4",
		"new/1000000000.M5P1Q9.host":  "A: 3",
		"new/1000000000.M4P1Q99.host": "A: 2", "cur/1000000001.7_10.host:2,": "A: 6", "cur/1000000001.7_9.host:2,": "A: 5",
		"cur/1000000002.x.host:2,ST": "A: deleted", ".Sent/cur/1000000003.x.host:2,S": "A: sent", ".Sent/new/.keep": "",
	} {
		write(t, filepath.Join(dir, name), text)
	}
	texts, _, left := readWith(t, dir, Options{})
	require.Equal(t, []string{"A: 1", "A: 2", "A: 3", "A: 4", "A: 5", "A: 6"}, texts)
	require.Len(t, left, 2, "the folder and the deleted message are listed")
	for _, name := range []string{".Sent", "Sent", "sent"} {
		texts, _, _ = readWith(t, dir, Options{Folders: []string{name}})
		require.Equal(t, []string{"A: sent"}, texts)
	}
	texts, _, _ = readWith(t, dir, Options{Folders: []string{"*"}, IncludeDeleted: true})
	require.Len(t, texts, 8)
	require.ErrorContains(t, Read(t.Context(), dir, Options{Folders: []string{"Drafts"}}, nil), ".Sent")
	texts, _, _ = readWith(t, dir, Options{Folders: []string{"Sent", ".Sent", "INBOX", "inbox"}})
	require.Len(t, texts, 7, "a folder that is named twice is read once")
}

// TestNothingInAMaildirIsPassedBy: folders within folders, half a delivery, and mail that
// lies in the wrong place are named.
func TestNothingInAMaildirIsPassedBy(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"cur/1000000000.M1P1.host:2,S": "A: 1", "Work/cur/1000000000.M1P1.host:2,S": "A: work",
		"Work/2023/new/1000000000.M1P1.host": "A: 2023", "Old/2022/cur/1000000000.M1P1.host:2,S": "A: 2022",
		"tmp/1000000000.M2P1.host": "A: half", "saved.eml": "A: saved", "dovecot-uidlist": "", ".hidden": "",
	} {
		write(t, filepath.Join(dir, name), text)
	}
	texts, _, left := readWith(t, dir, Options{})
	require.Equal(t, []string{"A: 1"}, texts)
	var names []string
	for _, l := range left {
		require.False(t, l.Bad, l.String())
		name, err := filepath.Rel(dir, l.Name)
		require.NoError(t, err)
		names = append(names, name)
	}
	require.Equal(t, []string{"Old/2022", "Work", "Work/2023", "saved.eml", "tmp/1000000000.M2P1.host"}, names)
	texts, _, _ = readWith(t, dir, Options{Folders: []string{"work/2023", "*"}})
	require.Equal(t, []string{"A: 1", "A: 2022", "A: work", "A: 2023"}, texts)
	texts, _, _ = readWith(t, dir, Options{Folders: []string{"work/2023"}})
	require.Equal(t, []string{"A: 2023"}, texts)
}

// TestMaildirNames reads names as they are where a colon may not stand in one, with
// what servers add to them, and with flags of other kinds.
func TestMaildirNames(t *testing.T) {
	for name, trashed := range map[string]bool{
		"1000000000.M1P1.host:2,": false, "1000000000.M1P1.host:2,S": false, "1000000000.M1P1.host:2,ST": true,
		"1000000000.M1P1.host,S=12,W=13:2,RT": true, "1000000000.M1P1.host;2,T": true, "1000000000.M1P1.host!2,ST": true,
		"1000000000.M1P1.host\uf03a2,T": true, "1000000000.M1P1.host\uf0222,T": true, "1000000000.M1P1.host:1,T": false,
		"1000000000.M1P1.host:2,Sat": false, "1000000000.M1P1.hosT": false, "1000000000.M1P1.Test;2,S": false,
		"1000000000.M1P1.a:2,T.host:2,S": false, "1000000000.M1P1.host:2,S:2,T": true, "plainT": false, ":2,T": true,
	} {
		m := parseMaildirName("", name)
		require.Equal(t, trashed, m.trashed, name)
		if strings.HasPrefix(name, "1000000000.M1P1.host") {
			require.True(t, strings.HasPrefix("1000000000.M1P1.host,S=12,W=13:1,T:2,S", m.unique[:20]), name)
			require.EqualValues(t, 1, m.micros, name)
			require.NotContains(t, m.unique, "2,T", name)
		}
	}
}

// TestPipe reads what another program writes, and stops when it is told to.
func TestPipe(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	go func() {
		_, _ = w.WriteString(fromLine + one + "\n" + fromLine + two)
		_ = w.Close()
	}()
	s, err := openStream(t.Context(), "a pipe", r, 0)
	require.NoError(t, err)
	var texts []string
	in := reading{ctx: t.Context(), fn: func(m Message) error { texts = append(texts, string(m.Content)); return nil }}
	require.NoError(t, in.guess(s))
	require.Equal(t, []string{one, two}, texts)

	silent, keep, err := os.Pipe()
	require.NoError(t, err)
	defer keep.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = openStream(ctx, "a pipe", silent, 0)
	require.ErrorIs(t, err, context.Canceled)
}
