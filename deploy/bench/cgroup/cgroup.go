// Package cgroup limits the processor time of processes by control groups of Linux, of
// version 2 or 1, whichever the machine has. It needs root.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Root is where the control groups of a machine are mounted.
const Root = "/sys/fs/cgroup"

// period is how often the kernel gives a group its share anew. With its own 100 ms a
// group that has used its share stands still for so long that a cluster waits for disks
// and links that it does not have.
const period = 10 * time.Millisecond

// Group is a control group of this package's making.
type Group struct{ dir, parent string }

// New makes a group below root, under a name that no other has, whose processes get cpus
// processors' worth of time together, and get it before processes without a group; with 0
// cpus they get what there is, so.
func New(root, name string, cpus float64) (*Group, error) {
	quota := time.Duration(cpus * float64(period))
	if cpus != 0 && quota < time.Millisecond {
		return nil, fmt.Errorf("cgroup: %g processors are less than the %g that the kernel can count", cpus,
			float64(time.Millisecond)/float64(period))
	}
	parent, files := filepath.Join(root, "cpu"), [][2]string{
		{"cpu.shares", "262144"}, {"cpu.cfs_period_us", micros(period)}, {"cpu.cfs_quota_us", micros(quota)},
	}
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		parent, files = root, [][2]string{
			{"cpu.weight", "10000"}, {"cpu.max", micros(quota) + " " + micros(period)},
		}
		if err := write(filepath.Join(root, "cgroup.subtree_control"), "+cpu"); err != nil {
			return nil, err
		}
	}
	if cpus == 0 {
		files = files[:1]
	}
	g := &Group{filepath.Join(parent, name), parent}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	for _, f := range files {
		if err := write(filepath.Join(g.dir, f[0]), f[1]); err != nil {
			return nil, errors.Join(err, g.Close())
		}
	}
	return g, nil
}

// Add takes a process in, with all its threads and the children that it will have.
func (g *Group) Add(pid int) error {
	return write(filepath.Join(g.dir, "cgroup.procs"), strconv.Itoa(pid))
}

// Remove puts a process of the group among those without one.
func (g *Group) Remove(pid int) error {
	return write(filepath.Join(g.parent, "cgroup.procs"), strconv.Itoa(pid))
}

// Close removes the group. Its processes must have ended; it waits a moment for those
// that are about to.
func (g *Group) Close() error {
	var err error
	for range 100 {
		if err = syscall.Rmdir(g.dir); err == nil || errors.Is(err, syscall.ENOENT) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("cgroup: remove %s: %w", g.dir, err)
}

func micros(d time.Duration) string { return strconv.FormatInt(d.Microseconds(), 10) }

func write(path, text string) error {
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	return nil
}
