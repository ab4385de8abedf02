package cluster_test

import (
	"os"
	"testing"

	"relay/cluster/clustertest"
)

func TestMain(m *testing.M) {
	clustertest.SideBySide(4)
	os.Exit(m.Run())
}
