package records

import (
	"context"
	"fmt"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/directory"
	"relay/node/operator/edit"
	"relay/node/routing"
)

// Reseal seals all secrets of routes with the newest key. It leaves those that can not be opened, and returns the last
// error of one then.
func (rs *Records) Reseal(ctx context.Context, by admin.By) error {
	if err := rs.edit.Current(ctx); err != nil {
		return err
	}
	var routes []*pb.Route
	err := rs.replica.View(func(v spool.View) (err error) { routes, err = v.Routes(); return err })
	if err != nil {
		return err
	}
	var items []*pb.Reseal_Item
	var lost error
	for _, r := range routes {
		for _, one := range []struct {
			sealed []byte
			about  string
		}{{r.Password, directory.RouteSecret(r)}, {r.ClientKey, directory.RouteKeySecret(r)}} {
			if len(one.sealed) == 0 {
				continue
			}
			item, err := rs.resealed(ctx, one.sealed, one.about)
			if err != nil {
				lost = fmt.Errorf("route %s: its secret can not be sealed anew: %w", routing.KeyOf(r), err)
				continue
			}
			item.Domain, item.From, item.Login = r.Domain, r.From, r.Login
			items = append(items, item)
		}
	}
	if len(items) > 0 {
		adm, err := rs.edit.Admin(by, []byte("reseal")) // the request may have made another change
		if err != nil {
			return err
		}
		if _, err = rs.edit.Change(ctx, spool.KindReseal, &pb.Reseal{Admin: adm, Items: items}); err != nil {
			return err
		}
	}
	return edit.ProposalError(lost)
}

func (rs *Records) resealed(ctx context.Context, sealed []byte, about string) (*pb.Reseal_Item, error) {
	secret, err := rs.replica.Unseal(ctx, sealed, about)
	if err != nil {
		return nil, err
	}
	again, err := rs.replica.Seal(ctx, secret, about)
	return &pb.Reseal_Item{Old: sealed, Sealed: again}, err
}
