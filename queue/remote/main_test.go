package remote

import (
	"testing"

	"go.uber.org/goleak"

	"relay/cluster/timetest"
)

func TestMain(m *testing.M) {
	timetest.SideBySide(8)
	goleak.VerifyTestMain(m)
}
