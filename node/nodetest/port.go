package nodetest

import (
	"testing"

	"relay/cluster/porttest"
)

// freeAddr finds a loopback port that stays the test's while its node is down.
func freeAddr(t testing.TB) string { return porttest.Addr(t, "127.0.0.1") }
