// Package stage divides a node's CPU profile among the stages of a message.
package stage

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"
)

// A Stage is a part of the work for a message, or of the runtime's.
type Stage string

// The stages, in the order in which a message meets them.
const (
	Session    Stage = "session, parse, policy"
	Data       Stage = "DATA, plan, Received"
	Propose    Stage = "propose, forward, batcher"
	Raft       Stage = "raft's main goroutine"
	Log        Stage = "log: write and sync"
	Replicate  Stage = "replication: send, receive"
	Apply      Stage = "apply"
	Compaction Stage = "flush, compaction"
	Delivery   Stage = "queue, delivery"
	Settle     Stage = "settle"
	Collector  Stage = "garbage collector"
	Scheduler  Stage = "scheduler, timers"
	Rest       Stage = "rest"
)

// All are the stages, in order.
func All() []Stage {
	return []Stage{Session, Data, Propose, Raft, Log, Replicate, Apply, Compaction, Delivery, Settle, Collector,
		Scheduler, Rest}
}

// rules name functions by a part of their name. A stack belongs to the first rule that
// knows one of its functions: so the goroutines that do one thing come first, and those
// of sessions, which call the others, last.
func rules() []rule {
	return []rule{
		{Log, []string{"disk/log.(*Log).StoreLog", "transport.tellingLog"}},
		{Apply, []string{"raft.(*Raft).runFSM"}},
		{Compaction, []string{"pebble/v2.(*DB).flush", "pebble/v2.(*DB).compact", "pebble/v2.(*DB).runCompaction",
			"pebble/v2.(*DB).collectTableStats", "pebble/v2.(*cleanupManager)", "pebble/v2.(*deletePacer)",
			"pebble/v2/sstable/colblk", "pebble/v2/sstable/block.(*", "pebble/v2/valsep",
			"pebble/v2/sstable/blob.(*FileWriter)"}},
		{Replicate, []string{"raft.(*Raft).replicate", "raft.(*NetworkTransport)", "raft.(*Raft).heartbeat",
			"cluster/transport."}},
		{Raft, []string{"raft.(*Raft).run", "raft.(*Raft).leaderLoop"}},
		{Settle, []string{"queue.(*Manager).settler"}},
		{Delivery, []string{"relay/queue", "relay/node/outbound"}},
		{Propose, []string{"cluster/propose.", "google.golang.org/grpc", "golang.org/x/net/http2", "spool.Encode",
			"cluster.(*Cluster).Propose", "cluster/session."}},
		{Data, []string{"inbound.(*intake)", "smtp.(*dotReader)", "smtp.(*message)"}},
		{Session, []string{"relay/smtp", "relay/node/inbound"}},
		{Collector, []string{"runtime.gcBgMarkWorker", "runtime.bgsweep", "runtime.bgscavenge", "runtime.gcStart",
			"runtime.gcMarkTermination"}},
	}
}

type rule struct {
	stage Stage
	of    []string
}

// Of returns the stage of a stack of functions.
func Of(stack []string) Stage {
	for _, r := range rules() {
		for _, function := range stack {
			for _, part := range r.of {
				if strings.Contains(function, part) {
					return r.stage
				}
			}
		}
	}
	for _, function := range stack {
		if !strings.HasPrefix(function, "runtime.") && !strings.HasPrefix(function, "internal/runtime/") {
			return Rest
		}
	}
	return Scheduler
}

// A Sample is a stack and the time that was spent in it.
type Sample struct {
	Stack []string // innermost first
	CPU   time.Duration
}

// Read reads what `go tool pprof -traces` prints of a CPU profile.
func Read(traces io.Reader) (all []Sample, err error) {
	lines := bufio.NewScanner(traces)
	lines.Buffer(nil, 1<<20)
	head, begins := true, false
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "-----------+") {
			head, begins = false, true
			continue
		}
		line = strings.TrimSuffix(strings.TrimSpace(line), " (inline)")
		value, function, _ := strings.Cut(line, " ")                       // functions with type parameters have blanks
		if head || line == "" || begins && strings.HasSuffix(value, ":") { // a label of the sample
			continue
		}
		if !begins {
			last := &all[len(all)-1]
			last.Stack = append(last.Stack, line)
			continue
		}
		begins = false
		cpu, err := time.ParseDuration(value)
		if err != nil {
			return nil, fmt.Errorf("stage: %q is no begin of a stack", line)
		}
		all = append(all, Sample{CPU: cpu, Stack: []string{strings.TrimSpace(function)}})
	}
	return all, lines.Err()
}

// Shares is which part of the time each stage took, of 1 in all; 0 for those without.
func Shares(all []Sample) map[Stage]float64 {
	shares, sum := map[Stage]float64{}, time.Duration(0)
	for _, s := range all {
		sum += s.CPU
	}
	for _, s := range all {
		shares[Of(s.Stack)] += float64(s.CPU) / float64(sum)
	}
	return shares
}
