package main

import (
	"context"

	"github.com/spf13/cobra"

	"relay/node/admin"
)

func (a *app) clusterCmd() *cobra.Command {
	return group("cluster", "The cluster as a whole: its version, its CA", a.clusterUpgrade(), a.clusterRotateCA())
}

func (a *app) clusterRotateCA() *cobra.Command {
	var o admin.RotateOptions
	c := &cobra.Command{
		Use: "rotate-ca", Short: "Change the CA of the cluster port, and with it all nodes' certificates", Args: cobra.NoArgs,
		Long: `Rotate-ca gives the cluster a new CA. The key of the CA is in the store of every
node, so this is the answer to a stolen disk, and a good end of 'node rm'. It
goes by itself, in steps for which every node must be up; 'status' says how far
it is, and which node it waits for. --without goes on without a node: the node
is removed, and must join anew. Join tokens stay good.`,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				n, err := client.RotateCA(ctx, a.by(), o)
				if err != nil {
					return err
				}
				return a.emit(n, func() {
					a.showChange(n)
					if !n.DryRun {
						a.note("it goes on by itself; 'relayctl status' says how far it is")
					}
				})
			})
		},
	}
	c.Flags().StringSliceVar(&o.Without, "without", nil, "remove this node and go on; it must join anew")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "only say what would happen")
	return c
}

func (a *app) clusterUpgrade() *cobra.Command {
	var o admin.UpgradeOptions
	c := &cobra.Command{
		Use: "upgrade", Short: "Raise the cluster version now, hold or release it", Args: cobra.NoArgs,
		Long: `Upgrade raises the cluster version to the newest that all nodes know. The leader
does so by itself when all nodes have been able for an hour; --hold keeps the
version where it is, and --release ends that. Until the version is raised every
node can go back to the former relayd; after that none can.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.Hold && o.Release {
				return usagef("--hold and --release exclude each other")
			}
			return a.do(c, func(ctx context.Context, client *admin.Client) error {
				n, err := client.Upgrade(ctx, a.by(), o)
				if err != nil {
					return err
				}
				return a.emit(n, func() { a.showChange(n) })
			})
		},
	}
	c.Flags().BoolVar(&o.Hold, "hold", false, "keep the cluster version where it is")
	c.Flags().BoolVar(&o.Release, "release", false, "let the cluster version rise again")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "only say what would happen")
	return c
}
