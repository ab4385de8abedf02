package wire

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout makes the kernel give a connection up when sent data stays
// unacknowledged for that long: a peer that vanished without a word must not
// hold a sender for the quarter of an hour that TCP would.
func setUserTimeout(raw syscall.RawConn, d time.Duration) error {
	var bad error
	err := raw.Control(func(fd uintptr) {
		bad = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
	if err != nil {
		return err
	}
	return bad
}
