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

// latencyMessages is how many messages the row of latencies sends, crowdMessages how many
// each session where there are several.
const (
	latencyMessages = 300
	crowdMessages   = 60
)

// rows are the loads of the table.
func (b *bench) rows() []row {
	rows := b.fillerRows()
	if b.real {
		rows = b.realRows()
	}
	for i := range rows {
		rows[i].calm = true
	}
	return rows
}

func (b *bench) fillerRows() []row {
	rows := []row{
		b.smtpRow("accept 4 KiB, 20 sessions", load{sessions: 20, size: 4096}),
		b.smtpRow("accept 4 KiB, 100 sessions", load{sessions: 100, size: 4096}),
		b.smtpRow("accept 4 KiB, one session", load{sessions: 1, size: 4096}),
		b.smtpRow("accept 4 KiB, 20 at once, a connection per message", load{sessions: 20, size: 4096, reconnect: true}),
		b.smtpRow("accept and relay 4 KiB, 20 sessions", load{sessions: 20, size: 4096, drain: true}),
		b.smtpRow("accept and relay 64 KiB, 20 sessions", load{sessions: 20, size: 65536, drain: true}),
		b.latencyRow("one session, 4 KiB, time to 250", 1, 0.5),
		b.latencyRow("one session, 4 KiB, time to 250, p99", 1, 0.99),
		b.latencyRow("20 sessions, 4 KiB, time to 250", 20, 0.5),
		b.latencyRow("20 sessions, 4 KiB, time to 250, p99", 20, 0.99),
		b.manyDomainsRow(),
	}
	rows = append(rows, b.pop3Rows()...)
	return append(rows, b.idleRows()...)
}

// relays makes a row's sides: this build in each size, and the former one where there is one.
func (b *bench) relays(on func(c *cluster) side) (sides []side) {
	for _, c := range b.clusters() {
		one := on(c)
		one.name, one.rival = c.label(), c == b.former
		sides = append(sides, one)
	}
	return sides
}

// peers makes the sides of the mail servers that are compared with.
func (b *bench) peers(on func(m mailServer) side) (sides []side) {
	if b.postfix != nil {
		one := on(b.postfix)
		one.name, one.rival = "Postfix", true
		sides = append(sides, one)
	}
	if b.exim != nil {
		one := on(b.exim)
		one.name, one.rival = "Exim", true
		sides = append(sides, one)
	}
	return sides
}

// load is what an SMTP row sends.
type load struct {
	messages  int
	sessions  int // at once, over all addresses
	size      int
	to        string // the recipient; empty: one whose mail is relayed
	reconnect bool   // a connection for each message
	drain     bool   // the time ends when the queue is empty, not when all is accepted

	mail func() [][]byte // what is sent in turns, dots doubled, made in the round that does not count; nil: filler
}

// mailServer is a side of an SMTP row.
type mailServer interface {
	addresses() ([]string, error) // where sessions go, from the best one on
	empty() bool                  // nothing is queued
	root() (int, error)
}

func (b *bench) smtpRow(name string, l load) row {
	l.messages = b.n
	return b.loadRow(name, l)
}

func (b *bench) loadRow(name string, l load) row {
	on := func(m mailServer) side {
		return side{root: m.root, load: func(ctx context.Context) (float64, error) { return send(ctx, m, l) }}
	}
	return b.mailRow(row{name: name, unit: "msg/s", work: l.messages}, on)
}

func (b *bench) latencyRow(name string, sessions int, q float64) row {
	messages := latencyMessages
	if sessions > 1 {
		messages = crowdMessages
	}
	on := func(m mailServer) side {
		return side{root: m.root, load: func(ctx context.Context) (float64, error) {
			addrs, err := m.addresses()
			if err != nil {
				return 0, err
			}
			times, err := latencies(ctx, addrs, sessions, messages)
			if err != nil {
				return 0, err
			}
			return quantile(times, q), drained(ctx, m)
		}}
	}
	return b.mailRow(row{name: name, unit: "ms", less: true, work: sessions * messages}, on)
}

// Each message of the row of many domains goes to so many recipients, each in a domain
// of its own.
const manyDomains = 50

func (b *bench) manyDomainsRow() row {
	messages := max(b.n/10, 20)
	on := func(m mailServer) side {
		return side{root: m.root, load: func(ctx context.Context) (float64, error) {
			addrs, err := m.addresses()
			if err != nil {
				return 0, err
			}
			begin := time.Now()
			if err := sendToMany(ctx, addrs, 20, messages); err != nil {
				return 0, err
			}
			err = drained(ctx, m)
			return float64(messages*manyDomains) / time.Since(begin).Seconds(), err
		}}
	}
	name := fmt.Sprintf("%d recipients in %d domains, 4 KiB, 20 sessions, until empty", manyDomains, manyDomains)
	return b.mailRow(row{name: name, unit: "rcpt/s", work: messages * manyDomains}, on)
}

func (b *bench) mailRow(r row, on func(mailServer) side) row {
	r.sides = b.relays(func(c *cluster) side { return on(c) })
	r.sides = append(r.sides, b.peers(on)...)
	return r
}

// idleTime is how long a round of the idle rows looks.
const idleTime = 5 * time.Second

// idleRows say what the sides cost while nothing happens.
func (b *bench) idleRows() []row {
	cpu := b.mailRow(row{name: "idle: CPU", unit: "ms/s", less: true, cold: true}, func(m mailServer) side {
		return side{root: m.root, load: func(ctx context.Context) (float64, error) {
			root, err := m.root()
			if err != nil {
				return 0, err
			}
			before, err := treeCPU(root)
			if err != nil {
				return 0, err
			}
			if err := sleep(ctx, idleTime); err != nil {
				return 0, err
			}
			after, err := treeCPU(root)
			return float64((after - before).Milliseconds()) / idleTime.Seconds(), err
		}}
	})
	memory := b.mailRow(row{name: "idle: memory", unit: "MiB", less: true, cold: true}, func(m mailServer) side {
		return side{root: m.root, load: func(context.Context) (float64, error) {
			root, err := m.root()
			if err != nil {
				return 0, err
			}
			octets, err := treeMemory(root)
			return float64(octets) / (1 << 20), err
		}}
	})
	return []row{cpu, memory}
}

// send returns messages a second. It ends with an empty queue.
func send(ctx context.Context, m mailServer, l load) (float64, error) {
	addrs, err := m.addresses()
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	hand := source
	if l.mail != nil {
		hand = handIn
	}
	took, err := hand(ctx, addrs, l)
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
