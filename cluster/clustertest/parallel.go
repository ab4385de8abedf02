package clustertest

import (
	"flag"
	"runtime"
	"strconv"
)

// sideBySide is how many tests of clusters run at a time on a machine of few processors.
const sideBySide = 3

// SideBySide sets how many of a package's parallel tests run at a time where the command
// line does not say it (-parallel): more than there are processors, because tests of
// clusters spend most of their time on timers. A test that floods its cluster
// (Ledger.Flood) is not parallel, because its syncs keep the disk busy. With the race
// detector, under which tests compute all the time and leases would end meanwhile, it is
// one at a time. TestMain calls it before the tests run.
func SideBySide() {
	flag.Parse()
	f := flag.Lookup("test.parallel")
	if f == nil || f.Value.String() != f.DefValue {
		return
	}
	n := max(sideBySide, runtime.GOMAXPROCS(0))
	if RaceDetector {
		n = 1
	}
	_ = flag.Set(f.Name, strconv.Itoa(n)) // fails only for what is no number
}
