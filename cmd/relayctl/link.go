package main

import (
	"errors"
	"net"
	"strings"

	"relay/cmd/relayctl/link"
	"relay/node/admin"
)

// client connects as the flags say.
func (a *app) client() (*admin.Client, error) {
	c, err := a.link.Client(a.getenv)
	if misuse, ok := errors.AsType[*link.Misuse](err); ok {
		return nil, usageError{misuse.Unwrap()}
	}
	return c, err
}

// hostPort completes HOST with a port.
func hostPort(addr, port string) string {
	if _, _, err := net.SplitHostPort(addr); err == nil {
		return addr
	}
	return net.JoinHostPort(strings.Trim(addr, "[]"), port)
}
