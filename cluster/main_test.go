package cluster_test

import (
	"os"
	"testing"

	"relay/cluster/timetest"
)

func TestMain(m *testing.M) {
	timetest.SideBySide(8)
	os.Exit(m.Run())
}
