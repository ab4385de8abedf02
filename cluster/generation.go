package cluster

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"relay/cluster/fault"
	"relay/cluster/internal/wire"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
)

// A recovery begins a generation: the survivors give themselves certificates with
// another name of the cluster, so that neither side talks to the other any more,
// and a node of the former generation that meets one of the new one ends. Nodes
// that were lost and come back together would go on as the old cluster otherwise.

// The other name is ULID.gN-HEX, where HEX is a hash over ULID, N and the peers:
// survivors that were told the same peers fit together without talking. The log is
// written first and the identity last, and the same peers again are the same N, so that
// a crash in between is mended by doing it again. A node that meets a certificate of
// its own CA with a higher N ends (wire.ErrLater); every recovered node shows its own
// to those left behind, every ten seconds. Generation, the new leader's first command,
// takes the former certificates off the record. Limit: lost nodes that come up together
// and reach nobody are the old cluster until they do. Survivors whose logs contradict
// each other are told apart by the snapshot that one sends the other: terms never fall
// along a log (disk, contradicts).

// outlived ends this node: it has met a node of a later generation.
func (c *Cluster) outlived(met error) {
	c.outcast.Do(func() {
		c.fatal(fmt.Errorf("%w (%w): where this node is one of the survivors, run 'relayd recover' here with the --peers "+
			"of the others; "+
			"else move the data directory %s away and join it anew with 'relayd join' and a token of 'relayctl node token'",
			fault.ErrOutlived, met, c.o.Dir))
	})
}

// proclaimEvery is how often a recovered node asks the join servers of those that
// were left behind.
const proclaimEvery = 10 * time.Second

// proclaim shows this node's certificate to the nodes that were left behind, which
// may have come back where nobody else tells them.
func (c *Cluster) proclaim(ctx context.Context) {
	tick := time.NewTicker(min(proclaimEvery, 10*c.t.Renew))
	defer tick.Stop()
	for {
		var asked sync.WaitGroup
		for node, addr := range c.id.Outcasts {
			if c.book.Member(node) {
				continue // it has joined anew
			}
			asked.Go(func() {
				if err := c.port.Herald(ctx, addr); err == nil {
					c.log.Info("cluster: a node that was left behind hears of the recovery", zap.String("node", node),
						zap.String("address", addr))
				}
			})
		}
		asked.Wait()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// beginGeneration writes down, as the leader, that the cluster was recovered: the
// certificates on record are of the generation before.
func (c *Cluster) beginGeneration(ctx context.Context, record *pb.Cluster) {
	_, n := wire.GenerationOf(c.id.CertName())
	if n <= record.Generation || !c.At(2) {
		return
	}
	var outcasts []string
	for node := range c.id.Outcasts {
		outcasts = append(outcasts, node)
	}
	slices.Sort(outcasts)
	c.command(ctx, spool.KindGeneration, &pb.Generation{
		Number: n, Name: c.id.CertName(), Peers: c.id.Recovered, Outcasts: outcasts,
	})
}
