package node

import (
	"net"
	"syscall"
)

// descriptors keeps file descriptors for the cluster, the store and deliveries.
// The system hands out the lowest number that is free, so the number of a
// connection says how many are in use, at the least.
type descriptors struct{ limit int }

// newDescriptors keeps a quarter of what this process may have open, of a large
// limit 1024.
func newDescriptors() descriptors {
	var have syscall.Rlimit // the runtime has raised it as far as it goes
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &have); err != nil {
		return descriptors{}
	}
	most := int(min(have.Cur, 1<<30))
	return descriptors{most - min(most/4, 1024)}
}

// scarce reports whether a connection that was just accepted has taken one of
// those that are kept.
func (d descriptors) scarce(conn net.Conn) bool {
	for {
		inner, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = inner.NetConn()
	}
	c, ok := conn.(syscall.Conn)
	if !ok || d.limit == 0 {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	number := 0
	return raw.Control(func(fd uintptr) { number = int(fd) }) == nil && number >= d.limit
}
