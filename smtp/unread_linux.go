package smtp

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// unread returns how many octets have arrived on a connection that nobody has
// read yet, and how many have been sent that the other side's system has not
// acknowledged. ok is false where that can not be told.
func unread(c net.Conn) (arrived, unacked int, ok bool) {
	s, is := c.(syscall.Conn)
	if !is {
		return 0, 0, false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return 0, 0, false
	}
	var err1, err2 error
	err = raw.Control(func(fd uintptr) {
		arrived, err1 = unix.IoctlGetInt(int(fd), unix.SIOCINQ)
		unacked, err2 = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	})
	return arrived, unacked, err == nil && err1 == nil && err2 == nil
}
