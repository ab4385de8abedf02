package cluster

import (
	"context"

	"relay/cluster/secret"
	"relay/cluster/spool"
)

// ErrSealed is secret.ErrSealed.
var ErrSealed = secret.ErrSealed

// newKeeper makes the keeper of this node's keys for secrets.
func (c *Cluster) newKeeper() *secret.Keeper {
	return &secret.Keeper{Ports: secret.Ports{
		Identity: c.id, Dir: c.o.Dir, Servers: c.book.Servers, Ask: c.Ask, Go: c.goRun, Now: c.Now, Log: c.log,
		Sealed: func() (all [][]byte, err error) {
			err = c.store.View(func(v spool.View) error { all, err = v.Sealed(); return err })
			return all, err
		},
	}}
}

// Seal encrypts a secret for all members; see secret.Keeper.
func (c *Cluster) Seal(ctx context.Context, plain []byte, about string) ([]byte, error) {
	return c.secrets.Seal(ctx, plain, about)
}

// Unseal decrypts what Seal made; see secret.Keeper.
func (c *Cluster) Unseal(ctx context.Context, sealed []byte, about string) ([]byte, error) {
	return c.secrets.Unseal(ctx, sealed, about)
}

// NewSealKey makes a key that Seal uses from now on; see secret.Keeper.
func (c *Cluster) NewSealKey(ctx context.Context) error { return c.secrets.NewKey(ctx) }
