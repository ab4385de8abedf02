package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// slackVerb has a child widen its timer slack, and tell what came of it.
const slackVerb = "tell-slack"

func tellSlack() {
	before := os.Getenv(slackSet)
	widenTimerSlack()
	threads := map[string]bool{}
	entries, _ := os.ReadDir("/proc/self/task")
	for _, e := range entries {
		text, err := os.ReadFile("/proc/" + e.Name() + "/timerslack_ns")
		if err == nil {
			threads[string(text)] = true
		}
	}
	now, _ := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	fmt.Printf("%s %d %d %q %d", time.Duration(now), os.Getpid(), len(threads), before+os.Getenv(slackSet), len(os.Args))
	os.Exit(0)
}

// TestTimerSlack: a process with the kernel's slack is executed anew once, under its own id
// and arguments, and all its threads have ours; a slack that somebody chose stays.
func TestTimerSlack(t *testing.T) {
	runtime.LockOSThread() // children inherit this thread's
	had, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) != nil {
		runtime.UnlockOSThread()
		t.Skip("this kernel has no timer slack")
	}
	defer func() {
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(had), 0, 0, 0)
		runtime.UnlockOSThread()
	}()
	for inherited, want := range map[time.Duration]time.Duration{
		defaultSlack: timerSlack, time.Millisecond: time.Millisecond,
	} {
		require.NoError(t, unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(inherited), 0, 0, 0))
		child := exec.Command(os.Args[0], slackVerb)
		out, err := child.Output()
		require.NoError(t, err)
		mark := ""
		if inherited == defaultSlack {
			mark = "1"
		}
		require.Equal(t, fmt.Sprintf("%s %d 1 %q 2", want, child.Process.Pid, mark), string(out))
	}
}

// The systemd unit has the slack that relayd would take, which saves its second execution.
func TestUnitHasTheTimerSlack(t *testing.T) {
	unit, err := os.ReadFile("../../deploy/systemd/relay.service")
	require.NoError(t, err)
	_, value, found := strings.Cut(string(unit), "\nTimerSlackNSec=")
	require.True(t, found)
	value, _, _ = strings.Cut(value, "\n")
	slack, err := time.ParseDuration(value)
	require.NoError(t, err)
	require.Equal(t, timerSlack, slack)
}
