package main

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster"
	"relay/node"
	"relay/node/config"
)

func TestSignals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done, signals, reload := make(chan struct{}), make(chan os.Signal), make(chan struct{}, 1)
		var stopped, killed int
		go watchSignals(done, signals, func(os.Signal) { stopped++ }, reload, func() { killed++ })
		for range 3 {
			signals <- syscall.SIGHUP // never blocks, however slow a reload is
		}
		signals <- syscall.SIGTERM
		signals <- syscall.SIGHUP
		synctest.Wait()
		require.Equal(t, 1, stopped)
		require.Zero(t, killed)
		require.Len(t, reload, 1)
		signals <- syscall.SIGINT
		synctest.Wait()
		require.Equal(t, 1, killed)
		close(done)
	})
}

func TestLoggerHoldsBackInfoAndNotWarnings(t *testing.T) {
	var out bytes.Buffer
	log, flush, err := newLogger("info", "json", &out)
	require.NoError(t, err)
	log.Debug("unseen")
	log.With(zap.String("id", "X")).Info("first")
	require.Empty(t, out.String())
	log.Warn("second")
	require.Contains(t, out.String(), `"msg":"first","id":"X"`)
	require.Contains(t, out.String(), `"msg":"second"`)
	require.NotContains(t, out.String(), "unseen")
	log.Info("third")
	flush()
	require.Contains(t, out.String(), "third")
	_, _, err = newLogger("loud", "json", &out)
	require.ErrorContains(t, err, "log.level")
}

// The last line of a process that ends is what ended it, in one line.
func TestLastLineIsTheCause(t *testing.T) {
	var out bytes.Buffer
	last := &lastWord{to: &out}
	log, flush, err := newLogger("info", "json", last)
	require.NoError(t, err)
	log.Error("what came before")
	last.say(errors.Join(errors.New("the store is damaged\n"+pebbleNoise), errors.New("the store is damaged"),
		errors.New("close: late")))
	log.Error("what comes behind")
	flush()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 2)
	require.Equal(t, "relayd: the store is damaged; close: late", lines[1])
}

type reloads int

func (r *reloads) Reload() error { *r++; return nil }

// SIGHUP takes over what it can, and names the keys that wait for a restart.
func TestReloadSaysWhatItLeaves(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relay.toml")
	text := "[node]\nid = \"n1\"\nhostname = \"n1\"\ndata_dir = \"" + filepath.Dir(path) +
		"\"\n[cluster]\nlisten = \"127.0.0.1:7170\"\n"
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	cfg, err := config.Load(path)
	require.NoError(t, err)
	var out bytes.Buffer
	log, flush, err := newLogger("info", "json", &out)
	require.NoError(t, err)
	var n reloads
	r := reloader{&n, cfg, path}
	r.reload(log)
	flush()
	require.NotContains(t, out.String(), "restart")
	require.NoError(t, os.WriteFile(path, []byte(text+"[limits]\nrecipients = 500\n"), 0o600))
	r.reload(log)
	require.Contains(t, out.String(), `"keys":["limits.recipients"]`)
	require.NoError(t, os.WriteFile(path, []byte(text+"[limits]\nrecipient = 500\n"), 0o600))
	r.reload(log)
	require.Contains(t, out.String(), "did you mean recipients?")
	require.EqualValues(t, 3, n)
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer l.Close()
	notify(path, "READY=1")
	require.NoError(t, l.SetReadDeadline(time.Now().Add(5*time.Second)))
	b := make([]byte, 100)
	n, err := l.Read(b)
	require.NoError(t, err)
	require.Equal(t, "READY=1", string(b[:n]))
	notify(path+"-nobody", "READY=1")
}

func TestGroupLimit(t *testing.T) {
	file := filepath.Join(t.TempDir(), "memory.max")
	for text, want := range map[string]int64{"max\n": 0, "1073741824\n": 1 << 30, "": 0} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		got, ok := groupLimit(file)
		require.Equal(t, want, got)
		require.Equal(t, want > 0, ok)
	}
	_, ok := groupLimit(file + "-absent")
	require.False(t, ok)
}

// Memtables grow with the memory of the machine, within bounds.
func TestMemTable(t *testing.T) {
	for memory, want := range map[int64]int64{
		0: 0, 512 << 20: 8 << 20, 4 << 30: 16 << 20, 8 << 30: 24 << 20, 1 << 40: 24 << 20,
	} {
		require.Equal(t, want, memTable(memory), memory)
	}
	for memory, want := range map[int64]cluster.Tuning{
		0:        {},
		2 << 30:  {MemTable: 8 << 20, LogCache: 5 << 20, BlockCache: 16 << 20},
		24 << 30: {MemTable: 24 << 20, LogCache: 8 << 20, BlockCache: 24 << 20},
	} {
		var got cluster.Tuning
		autoCache(&got, memory)
		require.Equal(t, want, got, memory)
	}
	before := debug.SetMemoryLimit(1 << 30)
	defer debug.SetMemoryLimit(before)
	require.LessOrEqual(t, machineMemory(), int64(1<<30))
}

func TestWriteFileLeavesNoHalves(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	require.NoError(t, writeFile(path, []byte("one"), 0o600))
	require.NoError(t, writeFile(path, []byte("two"), 0o644))
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "two", string(data))
	require.Error(t, writeFile(filepath.Join(dir, "no", "such"), nil, 0o600))
	all, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, all, 1)
}

// A caller that stops a node must wait for as long as a stop may take.
func TestStopsAreWaitedFor(t *testing.T) {
	for file, key := range map[string]string{
		"../../deploy/systemd/relay.service": "TimeoutStopSec=", "../../deploy/compose/compose.yaml": "stop_grace_period: ",
	} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		_, after, ok := strings.Cut(string(text), key)
		require.True(t, ok, file)
		value, _, _ := strings.Cut(after, "\n")
		given, err := time.ParseDuration(value)
		require.NoError(t, err, file)
		require.GreaterOrEqual(t, given, node.StopWithin(node.DefaultNotice), file)
	}
}

// TestStandardErrorStaysOpen: a node that has ended takes the process's standard error
// with it for nobody, and for no file that has its number by then.
func TestStandardErrorStaysOpen(t *testing.T) {
	before, err := os.Stderr.Stat()
	require.NoError(t, err)
	for range 20 {
		code, _, _ := relayd(t, "run", "--config", "/nowhere/relay.toml")
		require.Equal(t, exitFailed, code)
		runtime.GC()
		after, err := os.Stderr.Stat()
		require.NoError(t, err)
		require.True(t, os.SameFile(before, after))
	}
}
