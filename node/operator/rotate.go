package operator

import (
	"context"
	"fmt"
	"strings"

	"relay/cluster"
	"relay/node/admin"
	"relay/node/operator/edit"
)

// RotateCA implements admin.Cluster.
func (o *Operator) RotateCA(ctx context.Context, by admin.By, opts admin.RotateOptions) (*admin.NodeChange, error) {
	change := &admin.NodeChange{DryRun: opts.DryRun}
	err := o.decide(ctx, func() error {
		change.Effects = []string{}
		for _, id := range opts.Without {
			raft, m, err := o.member(ctx, id)
			if err == nil {
				err = o.removal(ctx, raft, m, false, change)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	r, err := o.Members.Rotation()
	if err != nil {
		return nil, edit.ProposalError(err)
	}
	if r.Step == 0 {
		change.Effects = append(change.Effects,
			"the cluster gets a new CA and every node a new certificate by itself; nothing that the former CA "+
				"signed counts then", "the secrets of routes are sealed with a new key")
	} else {
		change.Effects = append(change.Effects, "the rotation that is under way goes on")
	}
	if opts.DryRun {
		return change, nil
	}
	adm, err := o.edit.Admin(by)
	if err != nil {
		return nil, err
	}
	if err := o.Members.RotateCA(ctx, opts.Without, adm); err != nil {
		return nil, memberError(err)
	}
	if err := o.renewSecrets(ctx, by, r.Step == 0); err != nil {
		return nil, err
	}
	return change, o.shown(ctx)
}

// renewSecrets seals with the newest key what was sealed with others, and makes a newer one before if it begins.
func (o *Operator) renewSecrets(ctx context.Context, by admin.By, begins bool) error {
	if begins {
		if err := o.Members.NewSealKey(ctx); err != nil {
			return memberError(err)
		}
	}
	return o.Reseal(ctx, by)
}

// rotation says how far a rotation of the CA is, and which nodes that are off
// hold it up.
func (o *Operator) rotation(raft *cluster.Status) (words string, problems []string) {
	r, err := o.Members.Rotation()
	if err != nil || r.Step == 0 {
		return "", nil
	}
	words = fmt.Sprintf("the CA changes, step %d of 2", r.Step)
	if len(r.Waits) > 0 {
		words += ": waits for " + strings.Join(r.Waits, ", ")
	}
	for _, id := range r.Waits {
		for i := range raft.Members {
			if m := &raft.Members[i]; m.ID == id && !m.Live {
				problems = append(problems, fmt.Sprintf("the rotation of the CA waits for node %s: start it, "+
					"or go on without it by 'relayctl cluster rotate-ca --without %s'", id, id))
			}
		}
	}
	return words, problems
}
