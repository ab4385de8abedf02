package memory_test

import (
	"testing"

	"relay/cluster/spool/memory"
	"relay/cluster/spool/spooltest"
)

func TestConformance(t *testing.T) {
	spooltest.Run(t, func(*testing.T) spooltest.Store { return memory.New() })
}
