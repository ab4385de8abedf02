package clustertest

import (
	"bytes"
	"os"
	"runtime"
	"strings"
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// diary keeps the newest lines of all nodes' logs. A test that fails prints them.
type diary struct {
	mu    sync.Mutex
	lines [][]byte
}

const diaryLines = 400

// Write implements zapcore.WriteSyncer. It is called with one line.
func (d *diary) Write(line []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.lines) == diaryLines {
		d.lines = d.lines[1:]
	}
	d.lines = append(d.lines, bytes.Clone(line))
	return len(line), nil
}

// Sync implements zapcore.WriteSyncer.
func (d *diary) Sync() error { return nil }

func (d *diary) logger(node string) *zap.Logger {
	enc := zap.NewDevelopmentEncoderConfig()
	return zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(enc), d, zapcore.DebugLevel)).With(zap.String("at", node))
}

// explain prints what a person needs who looks for the fault behind a test that
// failed: the nodes' last lines and what raft says of itself on each. With
// RELAY_TEST_STACKS it prints all goroutines, too.
func (g *Group) explain() {
	if !g.t.Failed() {
		return
	}
	g.diary.mu.Lock()
	g.t.Logf("the nodes' last lines:\n%s", bytes.Join(g.diary.lines, nil))
	g.diary.mu.Unlock()
	for _, n := range g.Up() {
		g.t.Logf("%s at %s: ready: %v, fatal: %v, applied: %d, raft: %v", n.ID, n.Addr, n.C().Ready(), n.Fatal(),
			n.C().Applied(), n.C().RaftStats())
	}
	if os.Getenv("RELAY_TEST_STACKS") != "" {
		b := make([]byte, 8<<20)
		g.t.Log(strings.TrimSpace(string(b[:runtime.Stack(b, true)])))
	}
}
