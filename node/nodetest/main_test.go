package nodetest

import (
	"os"
	"testing"

	"relay/cluster/timetest"
)

func TestMain(m *testing.M) {
	timetest.SideBySide(8)
	// Of the ACME server in acme_test.go: it neither dawdles nor refuses every other nonce.
	_ = os.Setenv("PEBBLE_VA_NOSLEEP", "1")
	_ = os.Setenv("PEBBLE_WFE_NONCEREJECT", "0")
	os.Exit(m.Run())
}
