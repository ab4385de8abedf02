package main

import (
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"relay/cluster"
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

// autoCache divides the memory of the store on a machine with so much memory: two
// memtables of a size that pays, the log's newest entries, and blocks. Of blocks it needs
// what long queues and histories are read by; bodies pass through once, so that with more
// a crowd of large messages fills more, and nobody reads it again.
func autoCache(t *cluster.Tuning, memory int64) {
	size := memTable(memory)
	if size == 0 {
		return
	}
	t.MemTable, t.LogCache, t.BlockCache = size, min(5*size/8, 8<<20), max(16<<20, size)
}

// Bounds of a memtable's size.
const (
	smallMemTable = 8 << 20
	largeMemTable = 24 << 20
)

// memTable is the size of the store's memtables on a machine with so much memory: two
// are kept, which is one part in 128 of it, and a third while a reader holds one. Bodies
// that are deleted while they are in memory are not written to the store's files at all,
// so small ones cost processor time at 64 KiB (cluster/disk/DESIGN.md).
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
