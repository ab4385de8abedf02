package cluster

import (
	"context"
	"sync"
	"time"

	"relay/cluster/internal/wire"
)

// probeTime is how long one round of Answers waits.
const probeTime = 2 * time.Second

// Answers returns the addresses at which a member of a cluster, whichever it is,
// answers now.
func Answers(ctx context.Context, addrs []string) (found []string) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	there := make([]bool, len(addrs))
	var probes sync.WaitGroup
	for i, addr := range addrs {
		probes.Go(func() { there[i] = wire.Probe(ctx, addr) == nil })
	}
	probes.Wait()
	for i, addr := range addrs {
		if there[i] {
			found = append(found, addr)
		}
	}
	return found
}
