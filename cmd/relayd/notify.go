package main

import (
	"context"
	"net"
	"os"
	"time"

	"relay/node"
)

// tellManager tells a service manager (systemd, Type=notify) when the node is
// ready, and when it begins to stop. A node that finds no majority is reported
// as started after a while all the same: killing it would not bring the others
// back.
func tellManager(ctx context.Context, n *node.Node) {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	patience := time.After(30 * time.Second)
	for n.Cluster().Ready() != nil { // a node that is drained has started all the same
		select {
		case <-ctx.Done():
			notify(socket, "STOPPING=1")
			return
		case <-tick.C:
			continue
		case <-patience:
			notify(socket, "STATUS=waiting for a majority of the cluster")
		}
		break
	}
	notify(socket, "READY=1")
	<-ctx.Done()
	notify(socket, "STOPPING=1")
}

// notify sends one state as sd_notify(3) does. A manager that does not listen
// is no reason to fail.
func notify(socket, state string) {
	if socket[0] == '@' {
		socket = "\x00" + socket[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state))
}
