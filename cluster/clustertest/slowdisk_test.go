package clustertest_test

import (
	"sync/atomic"
	"time"
)

// slowDisk makes each write take at least some time.
type slowDisk struct{ least atomic.Int64 }

func (d *slowDisk) set(least time.Duration) { d.least.Store(int64(least)) }

func (d *slowDisk) write(write func() error) error {
	least := time.Duration(d.least.Load())
	err := write()
	if least > 0 {
		<-time.After(least) // the disk's time, not the test's
	}
	return err
}
