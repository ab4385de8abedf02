package disk

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"relay/cluster/disk/log"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// raftConfig keeps a lone node from standing for election, so that a test can
// play the leader.
func raftConfig(id string) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(id)
	c.Logger = hclog.NewNullLogger()
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = time.Hour, time.Hour, time.Hour
	c.NoSnapshotRestoreOnStart = true
	c.SnapshotInterval, c.SnapshotThreshold, c.TrailingLogs = time.Hour, 1<<40, 100
	return c
}

// follower is one real raft node over store and log, with a leader in the hand
// of the test.
type follower struct {
	t     *testing.T
	store *Store
	log   *log.Log
	lead  *raft.InmemTransport
	addr  raft.ServerAddress
	raft  *raft.Raft
}

func openLog(t testing.TB, dir string) *log.Log {
	l, err := log.Open(dir, log.Options{
		GrowTo: -1, MmapBytes: 64 << 20,
		Fatal: func(err error) { t.Errorf("fatal: %v", err) },
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func startFollower(t *testing.T, fs vfs.FS, logDir string, guarded bool) *follower {
	f := &follower{t: t, log: openLog(t, logDir)}
	f.store = openStore(t, fs, "s", func(o *Options) {
		if guarded {
			o.OnInstall = f.log.Guard
		}
	})
	var tr *raft.InmemTransport
	f.addr, tr = raft.NewInmemTransport("a:1")
	_, f.lead = raft.NewInmemTransport("b:1")
	f.lead.Connect(f.addr, tr)
	r, err := raft.NewRaft(raftConfig("a"), f.store, f.log, f.log, f.store.Snapshots(), tr)
	require.NoError(t, err)
	f.raft = r
	return f
}

func (f *follower) stop() {
	require.NoError(f.t, f.raft.Shutdown().Error())
	require.NoError(f.t, f.store.Close())
	require.NoError(f.t, f.log.Close())
}

func (f *follower) append(term, prev, prevTerm, commit uint64, logs ...*raft.Log) bool {
	req := &raft.AppendEntriesRequest{
		RPCHeader: header("b"), Term: term, PrevLogEntry: prev, PrevLogTerm: prevTerm,
		Entries: logs, LeaderCommitIndex: commit,
	}
	var resp raft.AppendEntriesResponse
	require.NoError(f.t, f.lead.AppendEntries("a", f.addr, req, &resp))
	return resp.Success
}

func (f *follower) install(term uint64, m *raft.SnapshotMeta, b []byte) bool {
	req := &raft.InstallSnapshotRequest{
		RPCHeader: header("b"), SnapshotVersion: m.Version, Term: term, LastLogIndex: m.Index, LastLogTerm: m.Term,
		Configuration: raft.EncodeConfiguration(m.Configuration), ConfigurationIndex: m.ConfigurationIndex,
		Size: int64(len(b)),
	}
	var resp raft.InstallSnapshotResponse
	err := f.lead.InstallSnapshot("a", f.addr, req, &resp, bytes.NewReader(b))
	return err == nil && resp.Success
}

func header(id string) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: 3, ID: []byte(id), Addr: []byte(id + ":1")}
}

func command(term, index uint64, text string) *raft.Log {
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: []byte(text)}
}

// history is what the majority has agreed on: entry 1 of term 1, and after it
// the entries of term 3.
func history(upTo uint64) []*raft.Log {
	c := configOf(1, "a", "b", "c")
	c.Term = 1
	all := []*raft.Log{c}
	for i := uint64(2); i <= upTo; i++ {
		all = append(all, command(3, i, fmt.Sprintf("set k/%d agreed", i)))
	}
	return all
}

// A follower holds entries 2 to n of a leader that never had a majority, and
// is sent a snapshot up to 9. Raft does not look at its entry 9, and refuses
// everything that follows for ever (raft#697), unless the guard steps in.
func TestDivergentLogAfterInstall(t *testing.T) {
	from := openStore(t, vfs.NewMem(), "leader")
	from.ApplyBatch(history(9))
	_, sum := hashOf(t, from)
	m, b := stream(t, from)
	rest := history(12)[9:]
	for _, c := range []struct {
		name    string
		suffix  uint64 // the follower's last entry
		guarded bool
		works   bool
	}{
		{"ends before the snapshot", 6, true, true},
		{"one entry past the snapshot", 10, true, true},
		{"as far as the leader", 12, true, true},
		{"further than the leader", 40, true, true},
		{"without the guard", 12, false, false},
		// Raft answers from memory there, until the next snapshot.
		{"ends with the snapshot", 9, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs, dir := vfs.NewCrashableMem(), t.TempDir()
			f := startFollower(t, fs, dir, c.guarded)
			require.True(t, f.append(1, 0, 0, 1, history(1)...))
			for i := uint64(2); i <= c.suffix; i++ {
				require.True(t, f.append(2, i-1, min(i-1, 2), 1, command(2, i, "set lost 1")))
			}
			require.True(t, f.install(4, m, b))
			_, have := hashOf(t, f.store)
			require.Equal(t, sum, have)
			require.Equal(t, c.works, f.append(4, 9, 3, 12, rest...))
			if !c.works {
				f.stop()
				if c.guarded { // a restart helps where memory was in the way
					f = startFollower(t, fs, dir, true)
					require.True(t, f.append(4, 9, 3, 12, rest...))
					f.caughtUp(12)
					f.stop()
				}
				return
			}
			f.caughtUp(12)
			for i := uint64(1); i <= 8; i++ {
				require.ErrorIs(t, f.log.GetLog(i, &raft.Log{}), raft.ErrLogNotFound,
					"a leader must not find stale entries here to send")
			}
			f.stop()
			f = startFollower(t, fs, dir, c.guarded)
			f.caughtUp(12)
			f.stop()
		})
	}
}

func (f *follower) caughtUp(index uint64) {
	require.NoError(f.t, f.store.WaitApplied(f.t.Context(), index))
	require.Equal(f.t, "agreed", value(f.t, f.store, fmt.Sprintf("k/%d", index)))
	require.Equal(f.t, "(none)", value(f.t, f.store, "lost"))
}

// Power fails between the switch to the snapshot and the guard's work.
func TestGuardIsRepeatedAtStart(t *testing.T) {
	from := openStore(t, vfs.NewMem(), "leader")
	from.ApplyBatch(history(9))
	m, b := stream(t, from)
	fs, dir := vfs.NewCrashableMem(), t.TempDir()
	f := startFollower(t, fs, dir, false) // the guard does not get to it
	require.True(t, f.append(1, 0, 0, 1, history(1)...))
	require.True(t, f.append(2, 1, 1, 1, entries(2, 2, 12)...))
	require.True(t, f.install(4, m, b))
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	f.stop()
	f = startFollower(t, crashed, dir, true)
	require.True(t, f.append(4, 9, 3, 12, history(12)[9:]...))
	f.caughtUp(12)
	f.stop()
}

// A single node: a whole life with snapshots, truncation, power losses and a
// recovery by hand.
func TestRaftOverStoreAndLog(t *testing.T) {
	fs, dir := vfs.NewCrashableMem(), t.TempDir()
	start := func(fs vfs.FS) (*Store, *log.Log, *raft.Raft) {
		l := openLog(t, dir)
		s := openStore(t, fs, "s", func(o *Options) { o.OnInstall = l.Guard })
		c := raftConfig("a")
		c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = 50*time.Millisecond, 50*time.Millisecond,
			50*time.Millisecond
		c.TrailingLogs = 5
		_, tr := raft.NewInmemTransport("a:1")
		had, err := raft.HasExistingState(l, l, s.Snapshots())
		require.NoError(t, err)
		if !had {
			require.NoError(t, raft.BootstrapCluster(c, l, l, s.Snapshots(), tr, members("a")))
		}
		r, err := raft.NewRaft(c, s, l, l, s.Snapshots(), tr)
		require.NoError(t, err)
		<-r.LeaderCh()
		require.NoError(t, r.Barrier(time.Second).Error())
		return s, l, r
	}
	var written int
	for round := range 4 {
		s, l, r := start(fs)
		require.Equal(t, written, countKeys(t, s), "round %d", round)
		for range 40 {
			f := r.Apply(fmt.Appendf(nil, "set k/%03d 1;body b/%d 3000", written, written), time.Second)
			require.NoError(t, f.Error())
			require.Equal(t, f.Index(), f.Response().(*pb.Result).Index)
			written++
		}
		if round != 1 {
			require.NoError(t, r.Snapshot().Error())
			require.LessOrEqual(t, l.Metrics().Entries, 6)
		}
		for range 3 {
			require.NoError(t, r.Apply(fmt.Appendf(nil, "set k/%03d 1", written), time.Second).Error())
			written++
		}
		require.Equal(t, members("a"), r.GetConfiguration().Configuration())
		lost := fs.CrashClone(vfs.CrashCloneCfg{})
		require.NoError(t, r.Shutdown().Error())
		require.NoError(t, s.Close())
		require.NoError(t, l.Close())
		fs = lost
	}

	l := openLog(t, dir)
	s := openStore(t, fs, "s")
	_, tr := raft.NewInmemTransport("a:9")
	want := members("a")
	want.Servers[0].Address = "a:9"
	require.NoError(t, raft.RecoverCluster(raftConfig("a"), s, l, l, s.Snapshots(), tr, want))
	require.NoError(t, s.Close())
	require.NoError(t, l.Close())
	l = openLog(t, dir)
	s = openStore(t, fs, "s", func(o *Options) { o.OnInstall = l.Guard })
	require.Equal(t, written, countKeys(t, s))
	r, err := raft.NewRaft(raftConfig("a"), s, l, l, s.Snapshots(), tr)
	require.NoError(t, err)
	require.Equal(t, want, r.GetConfiguration().Configuration())
	require.NoError(t, r.Shutdown().Error())
}

func countKeys(t *testing.T, s *Store) int {
	n := 0
	require.NoError(t, s.Frozen(func(v spool.View, _ uint64) error {
		return v.R.Scan([]byte("k/"), []byte("k0"), func(_, _ []byte) bool { n++; return true })
	}))
	return n
}

// entries are entries lo..hi of a term.
func entries(term, lo, hi uint64) []*raft.Log {
	var all []*raft.Log
	for i := lo; i <= hi; i++ {
		data := fmt.Appendf(nil, "data %d/%d", i, term)
		all = append(all, &raft.Log{Index: i, Term: term, Type: raft.LogCommand, Data: data})
	}
	return all
}
