package clustertest_test

import (
	"os"
	"strings"
	"testing"

	"relay/cluster/timetest"
)

// skipUnderRace leaves a test out under a race detector that is not told of a known race
// inside raft 1.7.3 (its issue 681), as .ci/run tells it: where a server's address changes
// while entries are sent to it, startStopReplication writes what updateLastAppended reads
// (the server's id, which does not change).
func skipUnderRace(t *testing.T) {
	t.Helper()
	if timetest.RaceDetector && !strings.Contains(os.Getenv("GORACE"), "suppressions=") {
		t.Skip(`raft 1.7.3 reads a server's record without its lock: run it with GORACE="suppressions=$PWD/.ci/race.supp"`)
	}
}
