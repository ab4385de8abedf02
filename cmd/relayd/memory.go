package main

import (
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"go.uber.org/zap"
)

// gcPercent trades memory for processor time, at most; see pacer. Bodies pass through
// short-lived buffers: at 200 the garbage of one large message shows in what a node takes
// from the system, at 100 it does not, and collections stay at one percent of the
// processor under load.
const gcPercent = 100

// tuneMemory sets the garbage collector, unless GOGC or GOMEMLIMIT do. In a
// control group with a limit the collector starts working harder at 85 % of it,
// instead of being killed at 100 %.
func tuneMemory(log *zap.Logger) {
	if os.Getenv("GOGC") == "" {
		paceCollector()
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	if limit, ok := groupLimit("/sys/fs/cgroup/memory.max"); ok {
		debug.SetMemoryLimit(limit / 100 * 85)
		log.Info("memory limit of the control group", zap.Int64("bytes", limit))
	}
}

// autoCache is the memory of the store on a machine with so much memory, of which each of
// two memtables takes a fifth.
func autoCache(memory int64) int64 { return 5 * memTable(memory) }

// Bounds of a memtable's size.
const (
	smallMemTable = 8 << 20
	largeMemTable = 32 << 20
)

// memTable is the size of the store's memtables on a machine with so much memory: two
// are kept, which is one part in 128 of it. Bodies that are deleted while they are in
// memory are not written to the store's files at all: for messages of 64 KiB the store
// takes a quarter less processor time with 32 MiB than with 16.
func memTable(memory int64) int64 {
	if memory <= 0 {
		return 0 // the default
	}
	return max(smallMemTable, min(memory/256, largeMemTable))
}

// machineMemory is how much memory this process may use at most: that of the machine, or
// less by GOMEMLIMIT or the control group's limit; 0: nobody knows. It is called after
// tuneMemory.
func machineMemory() int64 {
	limit := debug.SetMemoryLimit(-1)
	if all := totalMemory(); all > 0 {
		limit = min(limit, all)
	}
	if limit == math.MaxInt64 {
		return 0
	}
	return limit
}

// groupLimit reads the memory limit of a control group (version 2).
func groupLimit(path string) (int64, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return n, err == nil && n > 0 // "max" does not parse: no limit
}
