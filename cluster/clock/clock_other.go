//go:build !linux

package clock

import "time"

var processStart = time.Now()

// BootNow counts from the start of the process, on Go's monotonic clock. It must
// not follow the wall clock: a step of that would end leases, or prolong them.
func BootNow() time.Duration { return time.Since(processStart) + time.Nanosecond }
