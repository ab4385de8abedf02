package main

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"go.uber.org/zap"
)

// gcPercent trades memory for processor time. Bodies pass through short-lived
// buffers: at 200 the garbage of one large message shows in what a node takes
// from the system, at 100 it does not, and collections stay at one percent of
// the processor under load.
const gcPercent = 100

// tuneMemory sets the garbage collector, unless GOGC or GOMEMLIMIT do. In a
// control group with a limit the collector starts working harder at 85 % of it,
// instead of being killed at 100 %.
func tuneMemory(log *zap.Logger) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	if limit, ok := groupLimit("/sys/fs/cgroup/memory.max"); ok {
		debug.SetMemoryLimit(limit / 100 * 85)
		log.Info("memory limit of the control group", zap.Int64("bytes", limit))
	}
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
