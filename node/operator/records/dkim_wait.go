package records

import (
	"context"
	"time"

	"go.uber.org/zap"

	"relay/node/admin"
	"relay/node/dkimkey"
)

// dkimLook is how often the leader looks for the records of keys that wait.
const dkimLook = time.Minute

// DKIMWaits has new keys sign as soon as DNS has their records.
//
// 2026-11-29, rotated keys wait: a key that waits is a retired one that is the newest of its algorithm
// beside one that signs: no state of its own. The leader asks DNS every minute; activating is one
// command (version 2).
type DKIMWaits struct {
	signers admin.Signers
	leads   func() bool
	txt     func(ctx context.Context, name string) ([]string, error)
	log     *zap.Logger
	every   time.Duration
}

// NewDKIMWaits looks for the DNS records of keys while leads reports true; txt asks DNS.
func NewDKIMWaits(s admin.Signers, leads func() bool, txt func(ctx context.Context, name string) ([]string, error),
	log *zap.Logger) *DKIMWaits {
	return &DKIMWaits{s, leads, txt, log, dkimLook}
}

// Run looks until ctx ends.
func (d *DKIMWaits) Run(ctx context.Context) error {
	t := time.NewTicker(d.every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if d.leads() {
			d.look(ctx)
		}
	}
}

// look asks for the record of each key that waits.
func (d *DKIMWaits) look(ctx context.Context) {
	keys, err := d.signers.Signers(ctx)
	if err != nil {
		d.log.Error("cannot read the signing keys", zap.Error(err))
		return
	}
	for _, k := range keys {
		if !k.Waiting || !d.published(ctx, &k) {
			continue
		}
		by := admin.By{Who: "cluster", Why: "its record is in DNS"}
		if _, err := d.signers.ActivateSigner(ctx, by, k.Domain, k.Selector); err != nil && ctx.Err() == nil {
			d.log.Warn("a key whose record is in DNS does not sign yet", zap.String("name", k.Name), zap.Error(err))
		}
	}
}

// published reports whether DNS has the public key of a key. Blanks and the order
// of tags do not matter.
func (d *DKIMWaits) published(ctx context.Context, k *admin.Signer) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	all, _ := d.txt(ctx, k.Name) // an error is a no, for now
	for _, text := range all {
		if dkimkey.PublicKey(text) != "" && dkimkey.PublicKey(text) == dkimkey.PublicKey(k.Record) {
			return true
		}
	}
	return false
}
