//go:build !linux

package smtp

import "net"

// unread can not tell here.
func unread(net.Conn) (arrived, unacked int, ok bool) { return 0, 0, false }
