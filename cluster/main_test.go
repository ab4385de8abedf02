package cluster_test

import (
	"os"
	"testing"

	"relay/cluster/clustertest"
)

func TestMain(m *testing.M) {
	clustertest.SideBySide()
	os.Exit(m.Run())
}
