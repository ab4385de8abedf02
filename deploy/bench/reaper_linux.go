package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
)

// reaperVerb makes the program a reaper in place of a bench: reap has its arguments.
const reaperVerb = "-reaper"

// ownMounts gives a process a view of the file system of its own.
func ownMounts() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
}

func mountsOf(pid int) string {
	name, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	return name
}

const setChildSubreaper = 36 // PR_SET_CHILD_SUBREAPER

// reap puts files in the place of others (pairs before "--"), runs a daemon, and is the
// parent of those of its descendants whose parent has ended: so their processor time is
// that of its tree. An interrupt ends them all.
func reap(args []string) int {
	at := slices.Index(args, "--")
	if at < 0 || at%2 != 0 || at+1 == len(args) {
		return 2
	}
	// The caller has unshared this process's mounts; in the machine's own nothing is put
	// in the place of anything.
	if own, err := os.Readlink("/proc/self/ns/mnt"); err != nil || own == mountsOf(os.Getppid()) {
		fmt.Fprintln(os.Stderr, "bench: the mounts are not this process's own", err)
		return 1
	}
	for pair := range slices.Chunk(args[:at], 2) {
		if err := syscall.Mount(pair[0], pair[1], "", syscall.MS_BIND, ""); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", pair[1], err)
			return 1
		}
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, setChildSubreaper, 1, 0); errno != 0 {
		fmt.Fprintln(os.Stderr, "bench:", errno)
		return 1
	}
	cmd := exec.Command(args[at+1], args[at+2:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the daemon dies with the thread that started it
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	go func() {
		<-signals
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}()
	for {
		pid, err := syscall.Wait4(-1, nil, 0, nil)
		if errors.Is(err, syscall.ECHILD) || pid == cmd.Process.Pid {
			return 0
		}
	}
}
