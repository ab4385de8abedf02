package operator

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"relay/cluster"
	"relay/node/admin"
)

// Upgrade implements admin.Cluster.
func (o *Operator) Upgrade(ctx context.Context, by admin.By, opts admin.UpgradeOptions) (*admin.NodeChange, error) {
	u, err := o.Members.Upgrade()
	if err != nil {
		return nil, err
	}
	adm, err := o.edit.Admin(by)
	if err != nil {
		return nil, err
	}
	change := &admin.NodeChange{DryRun: opts.DryRun, Effects: []string{}}
	var do func() error
	switch {
	case opts.Hold && opts.Release:
		return nil, admin.Invalid("hold and release exclude each other")
	case opts.Hold:
		change.Effects = []string{
			fmt.Sprintf("the cluster version stays %d until 'relayctl cluster upgrade --release'", u.Version),
		}
		do = func() error { return o.Members.Hold(ctx, true, adm) }
	case opts.Release:
		change.Effects = []string{"the cluster version rises again when all nodes can follow"}
		do = func() error { return o.Members.Hold(ctx, false, adm) }
	default:
		if change.Effects, err = upgradeEffects(u); err != nil {
			return nil, err
		}
		do = func() error { return o.Members.Raise(ctx, adm) }
	}
	if opts.DryRun {
		return change, nil
	}
	if err := do(); err != nil {
		return nil, upgradeError(err)
	}
	return change, o.shown(ctx)
}

// upgradeEffects says what a raise does, or why there is none.
func upgradeEffects(u cluster.Upgrade) ([]string, error) {
	switch {
	case u.Held:
		return nil, admin.Conflict("the cluster version is held",
			"release it first with 'relayctl cluster upgrade --release'")
	case u.Next <= u.Version && len(u.Old) > 0:
		return nil, admin.Conflict(fmt.Sprintf("the cluster version stays %d: %s", u.Version, strings.Join(u.Old, "; ")), "")
	case u.Next <= u.Version:
		return nil, admin.Conflict(fmt.Sprintf("the cluster version is %d already, the newest that these builds know",
			u.Version), "")
	}
	effects := []string{
		fmt.Sprintf("the cluster version rises from %d to %d; there is no way back to builds that do not know it",
			u.Version, u.Next),
	}
	for _, node := range u.Missing {
		effects = append(effects, fmt.Sprintf("node %s is down: an older relayd can't be started there any more", node))
	}
	return effects, nil
}

func upgradeError(err error) error {
	if errors.Is(err, cluster.ErrUpgrade) {
		return admin.Conflict(strings.TrimPrefix(plain(err), "cluster: "), "")
	}
	return memberError(err)
}
