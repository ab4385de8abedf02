package wire

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setLinear lets the kernel repeat what a thin connection has lost without
// doubling its timeout each time (TCP_THIN_LINEAR_TIMEOUTS): with under four
// packets under way, no others show the loss, and on a bad link a renewal would
// wait for seconds. The kernel falls back to doubling after six repetitions.
func setLinear(raw syscall.RawConn) error {
	return setInt(raw, unix.TCP_THIN_LINEAR_TIMEOUTS, 1)
}

// setUserTimeout makes the kernel give a connection up when sent data stays
// unacknowledged for that long: a peer that vanished without a word must not
// hold a sender for the quarter of an hour that TCP would.
func setUserTimeout(raw syscall.RawConn, d time.Duration) error {
	return setInt(raw, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
}

func setInt(raw syscall.RawConn, option, value int) error {
	var bad error
	err := raw.Control(func(fd uintptr) { bad = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, option, value) })
	if err != nil {
		return err
	}
	return bad
}
