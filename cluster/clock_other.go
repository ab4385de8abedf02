//go:build !linux

package cluster

import "time"

var processStart = time.Now()

// bootNow counts from the start of the process, on Go's monotonic clock. It must
// not follow the wall clock: a step of that would end leases, or prolong them.
func bootNow() time.Duration { return time.Since(processStart) + time.Nanosecond }
