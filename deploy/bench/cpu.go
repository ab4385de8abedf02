package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of CPU times in /proc. Linux fixes it at 100 a second
// for user space on every architecture that Go supports.
const clockTick = 10 * time.Millisecond

// process is what /proc tells of one process.
type process struct {
	parent int
	cpu    time.Duration // its own, and that of children it has waited for
}

// treeCPU returns the CPU time that a process and all its descendants have used,
// user and system. It includes descendants that have ended, as long as their
// parent has waited for them.
func treeCPU(root int) (time.Duration, error) {
	all, err := processes()
	if err != nil {
		return 0, err
	}
	if _, ok := all[root]; !ok {
		return 0, fmt.Errorf("process %d is gone; look for the reason in its log", root)
	}
	var sum time.Duration
	for pid, p := range all {
		if descends(all, pid, root) {
			sum += p.cpu
		}
	}
	return sum, nil
}

// treeMemory returns the memory that a process and all its descendants hold; what several
// share counts once.
func treeMemory(root int) (int64, error) {
	all, err := processes()
	if err != nil {
		return 0, err
	}
	var sum int64
	for pid := range all {
		if !descends(all, pid, root) {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue // it has ended
		}
		var kb int64
		if _, err := scanAfter(string(text), "Pss:", "%d", &kb); err == nil {
			sum += kb << 10
		}
	}
	return sum, nil
}

func descends(all map[int]process, pid, root int) bool {
	for range len(all) { // parents read at different moments could form a circle
		if pid == root {
			return true
		}
		p, ok := all[pid]
		if !ok {
			return false
		}
		pid = p.parent
	}
	return false
}

// processes reads all processes of the machine. It leaves out those that end
// meanwhile.
func processes() (map[int]process, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("/proc lists no processes, CPU times need Linux: %w", err)
	}
	all := make(map[int]process, len(files))
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		pid, p, err := parseStat(string(line))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all[pid] = p
	}
	return all, nil
}

// parseStat reads a line of /proc/PID/stat. The second field, the name in
// parentheses, may contain anything; the others are counted from its end.
func parseStat(line string) (pid int, p process, err error) {
	head, tail := strings.IndexByte(line, ' '), strings.LastIndexByte(line, ')')
	if head < 0 || tail < 0 {
		return 0, p, fmt.Errorf("%q has no name in parentheses", line)
	}
	fields := strings.Fields(line[tail+1:]) // from field 3 on, the state
	if len(fields) < 15 {
		return 0, p, fmt.Errorf("%q has too few fields", line)
	}
	number := func(s string) (n int) {
		if err == nil {
			n, err = strconv.Atoi(s)
		}
		return n
	}
	pid, p.parent = number(line[:head]), number(fields[1])
	for _, ticks := range fields[11:15] { // utime, stime, cutime, cstime
		p.cpu += time.Duration(number(ticks)) * clockTick
	}
	return pid, p, err
}

// pidFile reads a process ID from a file.
func pidFile(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}
