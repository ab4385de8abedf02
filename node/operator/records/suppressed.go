package records

import (
	"cmp"
	"context"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
)

// Bounds of the suppression list.
const (
	suppressedShown = 1000
	suppressedMost  = 10000 // in one answer
	suppressMs      = int64(30 * 24 * time.Hour / time.Millisecond)
)

// Suppressed implements admin.Suppressions.
func (rs *Records) Suppressed(_ context.Context, q admin.SuppressedQuery) ([]admin.Suppressed, error) {
	all := []admin.Suppressed{}
	if q.Domain != "" {
		name, err := domainName(q.Domain)
		if err != nil {
			return nil, err
		}
		q.Domain = name
	} else if q.From != "" {
		return nil, admin.Invalid("from is an address on the list of a domain: give the domain, too")
	}
	most, now := min(cmp.Or(q.Limit, suppressedShown), suppressedMost), rs.now().UnixMilli()
	err := rs.replica.View(func(v spool.View) error {
		return v.AllSuppressed(q.Domain, q.From, func(s *pb.Suppressed) bool {
			if s.ExpiresMs > now {
				all = append(all, shownSuppressed(s))
			}
			return len(all) < most
		})
	})
	return all, err
}

func shownSuppressed(s *pb.Suppressed) admin.Suppressed {
	one := admin.Suppressed{Domain: s.Domain, Address: s.Address, Since: admin.AtMs(s.SinceMs),
		Expires: admin.AtMs(s.ExpiresMs), Reply: s.Reply, Who: s.Who, Why: s.Why}
	if len(s.Id) == len(ulid.ULID{}) {
		one.ID = ulid.ULID(s.Id).String()
	}
	return one
}

// Suppress implements admin.Suppressions.
func (rs *Records) Suppress(ctx context.Context, by admin.By, a admin.SuppressAdd) error {
	domain, address, err := suppressionOf(a.Domain, a.Address)
	if err != nil {
		return err
	}
	life, err := millis("expires_seconds", a.ExpiresSeconds)
	if err != nil {
		return err
	}
	if err := rs.atVersion2("suppressions"); err != nil {
		return err
	}
	if err := rs.localDomain(domain); err != nil {
		return err
	}
	if life == 0 {
		err := rs.replica.View(func(v spool.View) error {
			d, _, err := v.Domain(domain)
			life = cmp.Or(d.GetSuppressMs(), suppressMs)
			return err
		})
		if err != nil {
			return err
		}
	}
	_, err = rs.edit.Do(ctx, by, spool.KindPutSuppressed, func(adm *pb.Admin) proto.Message {
		return &pb.PutSuppressed{Admin: adm, Suppressed: &pb.Suppressed{Domain: domain, Address: address, LifeMs: life}}
	})
	return err
}

// Unsuppress implements admin.Suppressions.
func (rs *Records) Unsuppress(ctx context.Context, by admin.By, domain, address string) error {
	domain, address, err := suppressionOf(domain, address)
	if err != nil {
		return err
	}
	_, err = rs.edit.Do(ctx, by, spool.KindDropSuppressed, func(adm *pb.Admin) proto.Message {
		return &pb.DropSuppressed{Admin: adm, Domain: domain, Address: address}
	})
	return err
}

// suppressionOf brings names into the form they are kept in.
func suppressionOf(domain, address string) (string, string, error) {
	domain, err := domainName(domain)
	if err == nil {
		address, err = mailAddress(address, "")
	}
	return domain, address, err
}
