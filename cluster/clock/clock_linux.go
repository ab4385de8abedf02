package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

// BootNow reads a clock that never jumps and counts while the machine is
// suspended; its zero means nothing. A lease counted on Go's own monotonic
// clock would outlive the other side's patience by the length of a suspend.
func BootNow() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	}
	return time.Duration(ts.Nano())
}
