package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"time"
)

// latencyMessages is how many messages the row of latencies sends.
const latencyMessages = 300

// rows are the loads of the table.
func (b *bench) rows() []row {
	rows := []row{
		b.smtpRow("accept 4 KiB, 20 sessions", load{sessions: 20, size: 4096}),
		b.smtpRow("accept 4 KiB, 100 sessions", load{sessions: 100, size: 4096}),
		b.smtpRow("accept 4 KiB, one session", load{sessions: 1, size: 4096}),
		b.smtpRow("accept 4 KiB, 20 at once, a connection per message", load{sessions: 20, size: 4096, reconnect: true}),
		b.smtpRow("accept and relay 4 KiB, 20 sessions", load{sessions: 20, size: 4096, drain: true}),
		b.smtpRow("accept and relay 64 KiB, 20 sessions", load{sessions: 20, size: 65536, drain: true}),
		b.latencyRow(),
	}
	rows = append(rows, b.pop3Rows()...)
	for i := range rows {
		rows[i].calm = true
	}
	return rows
}

// relays makes a row's sides: this build, and the former one where there is one.
func (b *bench) relays(on func(c *cluster) side) []side {
	sides := []side{on(b.cluster)}
	if b.former != nil {
		sides = append(sides, on(b.former))
	}
	return sides
}

// load is what an SMTP row sends.
type load struct {
	messages  int
	sessions  int // at once, over all addresses
	size      int
	reconnect bool // a connection for each message
	drain     bool // the time ends when the queue is empty, not when all is accepted
}

// mailServer is a side of an SMTP row.
type mailServer interface {
	addresses() ([]string, error) // where sessions go, from the best one on
	empty() bool                  // nothing is queued
	root() (int, error)
}

func (b *bench) smtpRow(name string, l load) row {
	l.messages = b.n
	on := func(m mailServer) side {
		return side{root: m.root, load: func(ctx context.Context) (float64, error) { return send(ctx, m, l) }}
	}
	return b.mailRow(row{name: name, unit: "msg/s", work: l.messages}, on)
}

func (b *bench) latencyRow() row {
	on := func(m mailServer) side {
		return side{root: m.root, load: func(ctx context.Context) (float64, error) {
			addrs, err := m.addresses()
			if err != nil {
				return 0, err
			}
			ms, err := latency(ctx, addrs[0], latencyMessages)
			if err != nil {
				return 0, err
			}
			return ms, drained(ctx, m)
		}}
	}
	return b.mailRow(row{name: "one session, 4 KiB, time to 250", unit: "ms", less: true, work: latencyMessages}, on)
}

func (b *bench) mailRow(r row, on func(mailServer) side) row {
	r.sides = b.relays(func(c *cluster) side { return on(c) })
	if b.postfix != nil {
		r.sides = append(r.sides, on(b.postfix))
	}
	return r
}

// send returns messages a second. It ends with an empty queue.
func send(ctx context.Context, m mailServer, l load) (float64, error) {
	addrs, err := m.addresses()
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	took, err := source(ctx, addrs, l)
	if err != nil {
		return 0, err
	}
	if err := drained(ctx, m); err != nil {
		return 0, err
	}
	if l.drain {
		took = time.Since(begin)
	}
	return float64(l.messages) / took.Seconds(), nil
}

func drained(ctx context.Context, m mailServer) error {
	if err := waitFor(ctx, 5*time.Minute, m.empty); err != nil {
		return fmt.Errorf("the queue does not empty: %w", err)
	}
	return nil
}

// formerBinary checks the build that -with names.
func formerBinary(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("-with wants a relayd of a former build: %w", err)
	}
	if info.IsDir() || info.Mode()&0o111 == 0 {
		return "", fmt.Errorf("-with wants a relayd of a former build; %s is no program", path)
	}
	if built, err := buildinfo.ReadFile(path); err == nil && usesCgo(built) {
		return "", fmt.Errorf("%s was built with cgo; this build is not, and memory of C makes a few percent: "+
			"build it again with CGO_ENABLED=0", path)
	}
	return path, nil
}

func usesCgo(built *buildinfo.BuildInfo) bool {
	return slices.Contains(built.Settings, debug.BuildSetting{Key: "CGO_ENABLED", Value: "1"})
}

// share is part i of n as smtp-source takes it.
func share(n, parts, i int) string {
	part := n / parts
	if i < n%parts {
		part++
	}
	return strconv.Itoa(max(part, 1))
}
