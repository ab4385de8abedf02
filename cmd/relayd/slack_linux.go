package main

import (
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// defaultSlack is the kernel's; another value is somebody's choice (TimerSlackNSec= of a
	// systemd unit), or inherited from 'relayd dev', and stays.
	defaultSlack = 50 * time.Microsecond
	timerSlack   = 250 * time.Microsecond

	// slackSet is in the environment of a process that was executed anew for its slack: it
	// does not try again, whatever its kernel says.
	slackSet = "RELAYD_TIMER_SLACK_SET"
)

// widenTimerSlack lets the kernel be up to timerSlack late with the sleeps of this process.
// The runtime's monitor thread sleeps 20 µs at a time for some milliseconds after each moment
// in which the process had nothing to do, and a node under load has thousands of those a
// second: by the default slack it wakes every 75 µs, which is a seventh of the node's
// processor time and in no profile of Go's. Threads inherit the slack from the one that made
// them, and the monitor is the first, so the process is executed anew, under the same id and
// before it has done anything. If that fails it goes on as it is.
func widenTimerSlack() {
	if os.Getenv(slackSet) != "" {
		_ = os.Unsetenv(slackSet)
		return
	}
	runtime.LockOSThread() // the slack is this thread's
	defer runtime.UnlockOSThread()
	now, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || time.Duration(now) != defaultSlack {
		return
	}
	self, err := os.Executable()
	if err != nil || unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(timerSlack), 0, 0, 0) != nil {
		return
	}
	_ = syscall.Exec(self, os.Args, append(os.Environ(), slackSet+"=1"))
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) // back to what it was
}
