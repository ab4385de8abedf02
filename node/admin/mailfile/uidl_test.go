package mailfile

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// uidls reads a path with its unique ids.
func uidls(t *testing.T, path, list string) (ids []string) {
	t.Helper()
	ask, err := ReadUIDLs(list)
	require.NoError(t, err)
	require.NoError(t, Read(t.Context(), path, Options{UIDLs: ask}, func(m Message) error {
		ids = append(ids, m.UIDL)
		return nil
	}))
	return ids
}

// TestUniqueIDsOfTheHeader: X-UIDL in any case, folded or not, and in the header only.
func TestUniqueIDsOfTheHeader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inbox")
	write(t, path, fromLine+"X-UIDL: plain\n"+one+"\n"+fromLine+"A: 1\nx-uidl:\tlower \nX-UIDL: second\n\n\n"+
		fromLine+"X-UIDL:\n folded\n"+one+"\n"+fromLine+"X-UIDL:\nA: 1\n\n\n"+fromLine+"A: 1\n\nX-UIDL: text\n\n"+
		fromLine+"\nX-UIDL: text\n")
	want := []string{"plain", "lower", "folded", "", "", ""}
	require.Equal(t, want, uidls(t, path, ""))
	write(t, path+".crlf", crlf(fromLine+"X-UIDL:\n folded\n"+one))
	require.Equal(t, want[2:3], uidls(t, path+".crlf", ""))
}

// TestUniqueIDsOfAList: by number or file, of either kind of list, which comes before what
// the source says itself.
func TestUniqueIDsOfAList(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/inbox", fromLine+"X-UIDL: own\n"+one+"\n"+fromLine+"X-UIDL: own2\n"+two)
	write(t, dir+"/numbers", "\ufeff1 first\r\n\r\n9 none\r\n")
	require.Equal(t, []string{"first", "own2"}, uidls(t, dir+"/inbox", dir+"/numbers"))

	write(t, dir+"/m/cur/1000000000.M1.h:2,S", "A: 1")
	write(t, dir+"/m/cur/1000000001.M1.h,S=4:2,", "A: 2\nX-UIDL: own")
	write(t, dir+"/m/new/1000000002.M1.h", "A: 3\nX-UIDL: own3")
	write(t, dir+"/m/dovecot-uidlist", "1 1275660208 3\n1 1000000000.M1.h:2,\n2 1000000001.M1.h,S=4\n")
	require.Equal(t, []string{"000000014c0907b0", "000000024c0907b0", "own3"}, uidls(t, dir+"/m", ""))
	write(t, dir+"/names", "1000000000.M1.h:2,ST a\n")
	require.Equal(t, []string{"a", "000000024c0907b0", "own3"}, uidls(t, dir+"/m", dir+"/names"))

	write(t, dir+"/f/a b.eml", "A: 1")
	write(t, dir+"/files", "a b.eml of-a-file")
	require.Equal(t, []string{"of-a-file"}, uidls(t, dir+"/f", dir+"/files"))
	for text, why := range map[string]string{"word": "line 1", "3 V99999999999 N1\n": "line 1", "1 a\nx\n": "line 2"} {
		write(t, dir+"/bad", text)
		_, err := ReadUIDLs(dir + "/bad")
		require.ErrorContains(t, err, why)
	}
}
