package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"relay/cluster"
	"relay/node/config"
)

// askBefore is how long init --once asks the other nodes that a configuration names
// whether there is a cluster: they may be starting beside it.
const askBefore = 10 * time.Second

// errJoins says that a node without data has a cluster to join.
var errJoins = errors.New("there is a cluster already")

// others are the cluster addresses of other nodes in a configuration.
func others(c config.Cluster) []string {
	all := slices.Clone(c.Join)
	for _, addr := range c.PeerAddresses() {
		all = append(all, addr)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	return slices.DeleteFunc(all, func(addr string) bool { return addr == c.Advertise })
}

// askOthers returns nil where nobody whom the configuration names is a member of a
// cluster: then a node without data may begin one. A node whose disk was emptied
// must not become a cluster of its own beside the one that it belongs to. errJoins:
// 'relayd run' joins that cluster by itself.
func askOthers(ctx context.Context, out io.Writer, c *config.Config, limit time.Duration) error {
	addrs := others(c.Cluster)
	if len(addrs) == 0 {
		return nil
	}
	fmt.Fprintf(out, "asking %s whether there is a cluster already\n", strings.Join(addrs, ", "))
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		found := cluster.Answers(ctx, addrs)
		switch {
		case len(found) > 0 && len(c.Cluster.Join) > 0:
			return fmt.Errorf("%w, at %s: 'relayd run' joins it with the token in %s", errJoins, found[0],
				c.Cluster.JoinTokenFile)
		case len(found) > 0:
			return fmt.Errorf("a cluster answers at %s, and %s holds no node: join it with 'relayd join' and a token of "+
				"'relayctl node token', "+
				"or take the address out of [cluster] peers to make another cluster", found[0], c.Node.DataDir)
		}
		t := time.NewTimer(time.Second)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}
