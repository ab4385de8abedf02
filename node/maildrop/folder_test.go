package maildrop

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/config"
	"relay/pop3"
	"relay/pop3/pop3test"
)

// folderWorld is a world in which alice's maildrop is a folder.
func folderWorld(t *testing.T) (*dropWorld, string) {
	w, dir := newDropWorld(t), t.TempDir()
	w.drops.folders = folders([]config.Folder{{User: "alice@example.test", Dir: dir}})
	return w, dir
}

// TestFoldersConform runs the suite of all maildrops on a folder.
func TestFoldersConform(t *testing.T) {
	pop3test.Conform(t, func(t *testing.T) pop3test.Fixture {
		w, dir := folderWorld(t)
		n := 0
		return pop3test.Fixture{Backend: w.drops, User: "alice", Secret: "secret", ReadOnly: true,
			Deliver: func(t *testing.T, body string) {
				n++
				require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%04d.eml", n)), []byte(body), 0o600))
			}}
	})
}

// TestFolderInPlaceOfAMailbox: the account's own mail is out of sight and stays;
// a folder that can not be read is a passing fault and leaves no lock.
func TestFolderInPlaceOfAMailbox(t *testing.T) {
	w, dir := folderWorld(t)
	w.deliver("a: own\r\n\r\n")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "x.eml"), []byte("a: 1\n\nbare line ends"), 0o600))
	m := w.mustLogin()
	require.Equal(t, 1, m.List().Len())
	r, err := m.Open(t.Context(), 0)
	require.NoError(t, err)
	text, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.Equal(t, "a: 1\r\n\r\nbare line ends\r\n", string(text))
	require.EqualValues(t, len(text), m.List().Size(0))
	require.Equal(t, pop3.Retention{Announce: true, Never: true}, *m.Info().Retention)
	require.Equal(t, "alice@example.test", m.Info().Owner)
	require.NoError(t, m.Commit(t.Context(), nil, true))
	w.Change(func(a *pb.Account) { a.LoginDelayMs = 1 })
	m = w.mustLogin()
	require.Equal(t, time.Millisecond, m.Info().LoginDelay)
	require.NoError(t, m.Close())
	w.Change(func(a *pb.Account) { a.LoginDelayMs = 0 })

	require.NoError(t, os.RemoveAll(dir))
	_, err = w.login()
	require.ErrorContains(t, err, "folder of alice@example.test")
	w.drops.folders = nil
	m = w.mustLogin()
	require.Equal(t, 1, m.List().Len(), "the lock was given back, and the mail is there")
	w.Must(spool.KindBreakLock, &pb.BreakLock{Mailbox: "alice@example.test"})
	<-lostOf(m)
}

// TestBrokenLockOfAFolder: an operator's unlock cuts a folder's session, too.
func TestBrokenLockOfAFolder(t *testing.T) {
	w, _ := folderWorld(t)
	m := w.mustLogin()
	w.Must(spool.KindBreakLock, &pb.BreakLock{Mailbox: "alice@example.test"})
	require.Equal(t, pop3.LostToOperator, <-lostOf(m))
	require.NoError(t, w.mustLogin().Close())
}
