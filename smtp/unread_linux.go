package smtp

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// unread returns how many octets have arrived on a connection that nobody has
// read yet. ok is false where that can not be told.
func unread(c net.Conn) (octets int, ok bool) { return queued(c, unix.SIOCINQ) }

// unacked returns how many octets that were sent the other side's system has not
// acknowledged.
func unacked(c net.Conn) (octets int, ok bool) { return queued(c, unix.SIOCOUTQ) }

func queued(c net.Conn, question uint) (octets int, ok bool) {
	s, is := c.(syscall.Conn)
	if !is {
		return 0, false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return 0, false
	}
	var failed error
	err = raw.Control(func(fd uintptr) { octets, failed = unix.IoctlGetInt(int(fd), question) })
	return octets, err == nil && failed == nil
}
