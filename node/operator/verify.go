package operator

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"github.com/oklog/ulid/v2"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/operator/edit"
	"relay/node/operator/inspect"
	"relay/node/replica"
)

// Verify implements admin.Cluster: it has every node hash its state as of one
// command and compares the hashes; it checks this node's references and
// counters against its records, which by the hashes stand for everybody's; and
// with Bodies it reads every body that this node holds.
func (o *Operator) Verify(ctx context.Context, opts admin.VerifyOptions) (*admin.Verification, error) {
	id := ulid.Make().String()
	res, err := replica.Propose(ctx, o.Replica, spool.KindMark, &pb.Mark{Id: id})
	if err != nil {
		return nil, edit.ProposalError(err)
	}
	out := &admin.Verification{Index: res.Index, Nodes: []admin.NodeHash{}, Findings: []string{}}
	raft, err := o.Members.Status(ctx)
	if err != nil {
		return nil, err
	}
	var nodes []string
	for i := range raft.Members {
		if raft.Members[i].Role != "removed" {
			nodes = append(nodes, raft.Members[i].ID)
		}
	}
	if !slices.Contains(nodes, o.Node) {
		nodes = append(nodes, o.Node)
	}
	out.Nodes = o.hashes(ctx, id, res.Index, nodes)
	compareHashes(out)
	check := inspect.New(out)
	if err := o.Replica.Frozen(func(v spool.View, _ uint64) error { return check.References(ctx, v) }); err != nil {
		return nil, err
	}
	if opts.Bodies {
		if err := check.Bodies(ctx, o.Replica, o.Node); err != nil {
			return nil, err
		}
	}
	check.Sum()
	out.OK = len(out.Findings) == 0
	return out, nil
}

// hashes asks the nodes, all at once, for their hash as of a Mark.
func (o *Operator) hashes(ctx context.Context, id string, index uint64, nodes []string) []admin.NodeHash {
	all := make([]admin.NodeHash, len(nodes))
	var wg sync.WaitGroup
	for i, node := range nodes {
		wg.Go(func() {
			all[i].ID = node
			hash, err := o.markOf(ctx, node, id)
			switch {
			case err != nil:
				all[i].Error = plain(err)
			case hash.Index != index:
				all[i].Error = fmt.Sprintf("it applied the mark at %d, not at %d", hash.Index, index)
			}
			all[i].Hash = hex.EncodeToString(hash.Hash)
		})
	}
	wg.Wait()
	return all
}

func (o *Operator) markOf(ctx context.Context, node, id string) (m markHash, err error) {
	if node == o.Node {
		m.Index, m.Hash, err = o.Members.MarkHash(ctx, id)
		return m, err
	}
	answer, err := o.Members.Ask(ctx, node, askHash, []byte(id))
	if err == nil {
		err = json.Unmarshal(answer, &m)
	}
	return m, err
}

// compareHashes finds the nodes that differ from what most have.
func compareHashes(out *admin.Verification) {
	votes := map[string]int{}
	for _, n := range out.Nodes {
		if n.Error == "" {
			votes[n.Hash]++
		}
	}
	most := ""
	for hash, n := range votes {
		if n > votes[most] || n == votes[most] && hash < most {
			most = hash
		}
	}
	for _, n := range out.Nodes {
		switch {
		case n.Error != "":
			out.Findings = append(out.Findings, fmt.Sprintf("node %s gave no hash: %s", n.ID, n.Error))
		case n.Hash != most:
			out.Findings = append(out.Findings,
				fmt.Sprintf("node %s holds another state at %d than most: stop it, empty its data directory and let it join again",
					n.ID, out.Index))
		}
	}
}
