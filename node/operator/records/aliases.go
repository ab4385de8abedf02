package records

import (
	"context"

	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
)

// Aliases implements admin.Aliases.
func (rs *Records) Aliases(context.Context) ([]admin.Alias, error) {
	all := []admin.Alias{}
	err := rs.replica.View(func(v spool.View) error {
		aliases, err := v.Aliases()
		for _, a := range aliases {
			all = append(all, admin.Alias{Address: a.Address, Targets: a.Targets, Owner: a.Owner})
		}
		return err
	})
	return all, err
}

// SetAlias implements admin.Aliases.
func (rs *Records) SetAlias(ctx context.Context, by admin.By, a admin.Alias) error {
	fallback, err := rs.defaultDomain()
	if err != nil {
		return err
	}
	rec := &pb.Alias{}
	if rec.Address, err = mailAddress(a.Address, fallback); err != nil {
		return err
	}
	if len(a.Targets) == 0 || len(a.Targets) > maxTargets {
		return admin.Invalid("an alias needs 1 to %d targets", maxTargets)
	}
	if rec.Targets, err = mailAddresses(a.Targets, fallback); err != nil {
		return err
	}
	if a.Owner != "" {
		if rec.Owner, err = mailAddress(a.Owner, fallback); err != nil {
			return err
		}
	}
	_, err = rs.edit.Do(ctx, by, spool.KindPutAlias, func(adm *pb.Admin) proto.Message {
		return &pb.PutAlias{Admin: adm, Alias: rec, Replace: a.Replace}
	})
	return err
}

// mailAddresses is mailAddress for a list; an address that is there twice is taken
// once.
func mailAddresses(list []string, fallback string) ([]string, error) {
	var all []string
	seen := map[string]bool{}
	for _, text := range list {
		address, err := mailAddress(text, fallback)
		if err != nil {
			return nil, err
		}
		if !seen[address] {
			seen[address] = true
			all = append(all, address)
		}
	}
	return all, nil
}

// RemoveAlias implements admin.Aliases.
func (rs *Records) RemoveAlias(ctx context.Context, by admin.By, address string) error {
	address, err := rs.Address(address)
	if err != nil {
		return err
	}
	_, err = rs.edit.Do(ctx, by, spool.KindDropAlias, func(adm *pb.Admin) proto.Message {
		return &pb.DropAlias{Admin: adm, Address: address}
	})
	return err
}
