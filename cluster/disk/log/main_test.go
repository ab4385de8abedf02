package log

import (
	"testing"

	"go.uber.org/goleak"

	"relay/cluster/timetest"
)

func TestMain(m *testing.M) {
	timetest.SideBySide(6) // they wait for syncs
	goleak.VerifyTestMain(m)
}
