package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"relay/cluster"
	"relay/node/config"
)

func newRecover() *cobra.Command {
	var path string
	var peers []string
	var yes bool
	cmd := &cobra.Command{
		Use:   "recover --config FILE --peers ID=HOST:PORT,…",
		Short: "rebuild membership after a majority is gone for ever",
		Long: `Rebuilds the membership of a cluster whose majority is gone for ever. It is the
last resort: what only the lost nodes had on disk is lost with them.

  1. Stop relayd on all survivors, and make sure the lost nodes stay off.
  2. Run this on each survivor without --yes. It says how far its log goes.
  3. Run it with --yes on one of them, chosen as below. --peers names who is to go
     on with its data, with cluster addresses, new ones if they changed: best this
     node alone.
  4. Start it, and let the others join anew with empty data directories.

Which survivor:
  - One that has ended with "what is committed does not change", whatever its
    term: the other side has lost mail that this node has. Elections give a side
    from the past a higher term: see "A node from the past" in the guide first.
  - Else the one whose log has the highest term, and of those the highest index.
  - Never one whose state differs from the others', as step 2 says, while there is
    another: its log is right, but what it made of it is not.

With several survivors in --peers, run step 3 on each of them with the same
--peers before any is started. One whose log contradicts the others' ends when it
is started, with nothing changed.

The recovered cluster has another name in its certificates. A lost node that
comes back with its old data is refused, and ends when it meets a recovered one;
until then, lost nodes that come back together and reach no recovered one are a
second cluster.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			want, err := parsePeers(peers)
			if err != nil {
				return err
			}
			return recoverNode(cmd.Context(), cmd.OutOrStdout(), path, want, yes)
		},
	}
	configFlag(cmd, &path)
	cmd.Flags().StringSliceVar(&peers, "peers", nil, "all survivors, ID=HOST:PORT of their cluster ports (required)")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it, instead of saying what would be done")
	_ = cmd.MarkFlagRequired("peers")
	return cmd
}

func parsePeers(texts []string) ([]cluster.Peer, error) {
	var all []cluster.Peer
	seen := map[string]bool{}
	for _, text := range texts {
		id, addr, ok := strings.Cut(strings.TrimSpace(text), "=")
		if _, _, err := net.SplitHostPort(addr); !ok || id == "" || err != nil {
			return nil, usage("--peers %s is not ID=HOST:PORT", text)
		}
		if seen[id] {
			return nil, usage("--peers names %s twice", id)
		}
		seen[id] = true
		all = append(all, cluster.Peer{ID: id, Address: addr})
	}
	return all, nil
}

func recoverNode(ctx context.Context, out io.Writer, path string, peers []cluster.Peer, yes bool) error {
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	o := cluster.RecoverOptions{Dir: cfg.Node.DataDir, ID: cfg.Node.ID, Peers: peers, Log: zap.NewNop()}
	found, err := cluster.Inspect(ctx, o)
	if err != nil {
		return err
	}
	fmt.Fprint(out, survey(found, peers))
	if !yes {
		fmt.Fprint(out, choice)
		return fmt.Errorf("nothing was changed; say --yes to do it")
	}
	done, err := cluster.Recover(ctx, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\nDone, at index %d. Next: %s.\n%s", done.Applied, nextOf(peers), outcome(done))
	return nil
}

// wrongState warns of a replica that has gone wrong.
const wrongState = `
This node's state %s, so it is the
wrong one to go on from: recover another survivor, if there is any, and join this
node anew with an empty directory.
`

// choice says which survivor is the right one.
const choice = `
All mail in this node's log will count as accepted. What only the missing nodes
have on disk is lost, and they must never start again with their old data.

Where a survivor has ended with "what is committed does not change", do this
there, whatever its term: the others have lost mail that it has. Else do it on the
survivor with the highest term, and of those the highest index. 'relayd recover
--help' says what becomes of the others.
`

// survey says what a stopped node is, and whether it is one to go on from.
func survey(found cluster.Recovered, peers []cluster.Peer) string {
	text := fmt.Sprintf("This is node %s; its log goes to index %d, in term %d.\nMembers now:   %s\nMembers then:  %s\n",
		found.Node, found.Applied, found.Term, peerList(found.Before), peerList(peers))
	if found.Diverged != "" {
		text += fmt.Sprintf(wrongState, found.Diverged)
	}
	return text
}

func nextOf(peers []cluster.Peer) string {
	if len(peers) == 1 {
		return "start it with 'relayd run', and let the others join anew"
	}
	return "do the same on the others of --peers, then start them all with 'relayd run'"
}

// outcome says what becomes of the nodes that were left behind.
func outcome(r cluster.Recovered) string {
	if r.Generation == "" {
		return `
The cluster is of version 1, which refuses nobody: a lost node that came back with
its old data would be a second cluster. Keep the lost nodes off for ever.
`
	}
	return fmt.Sprintf(`
The cluster is called %s in its certificates now. A lost node that
comes back with its old data ends as soon as it meets a recovered one. Lost nodes
that come back together and reach none are a second cluster until they do.
`, r.Generation)
}

func peerList(peers []cluster.Peer) string {
	var all []string
	for _, p := range peers {
		all = append(all, p.ID+"="+p.Address)
	}
	return strings.Join(all, ", ")
}
