//go:build !linux

package cluster

import "time"

// bootNow counts from the wall clock here: unlike Go's monotonic clock it goes
// on while the machine is suspended.
func bootNow() time.Duration { return time.Duration(time.Now().Round(0).UnixNano()) }
