// Package timetest says how much time tests may take, and how many may run at a time.
package timetest

import (
	"flag"
	"os"
	"runtime"
	"strconv"
)

// SideBySide sets how many of a package's parallel tests run at a time where the command
// line does not say it (-parallel), on a machine of few processors: so many, but no more
// than four for each processor, because tests of clusters and of slow peers spend most of
// their time on timers. A test that floods its cluster without a pause
// (clustertest.Ledger.Pause) is not parallel: its syncs keep the disk busy. With the race
// detector, under which tests compute all the time and leases would end meanwhile, it is
// one at a time. TestMain calls it before the tests run.
func SideBySide(most int) {
	flag.Parse()
	f := flag.Lookup("test.parallel")
	if f == nil || f.Value.String() != f.DefValue {
		return
	}
	n := max(runtime.GOMAXPROCS(0), min(most, 4*runtime.GOMAXPROCS(0)))
	if RaceDetector {
		n = 1
	}
	_ = flag.Set(f.Name, strconv.Itoa(n)) // fails only for what is no number
}

// Long reports whether tests take the time that they take in .ci/run (RELAY_E2E_LONG=1).
// Without it those that wait for tens of seconds show less.
func Long() bool { return os.Getenv("RELAY_E2E_LONG") != "" }
