//go:build !linux

package wire

import (
	"syscall"
	"time"
)

// setUserTimeout has no equivalent here; keepalive alone finds dead peers.
func setUserTimeout(syscall.RawConn, time.Duration) error { return nil }

// setLinear has no equivalent here.
func setLinear(syscall.RawConn) error { return nil }
