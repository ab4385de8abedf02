//go:build !linux

package smtp

import "net"

// unread and unacked can not tell here.
func unread(net.Conn) (octets int, ok bool)  { return 0, false }
func unacked(net.Conn) (octets int, ok bool) { return 0, false }
