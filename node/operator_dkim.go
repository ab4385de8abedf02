package node

import (
	"context"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
)

var _ admin.Signers = (*operator)(nil)

// Signers implements admin.Signers.
func (o *operator) Signers(context.Context) ([]admin.Signer, error) {
	all := []admin.Signer{}
	err := o.replica.View(func(v spool.View) error {
		keys, err := v.DkimKeys("")
		if err != nil {
			return err
		}
		for _, k := range keys {
			one, err := signerOf(k)
			if err != nil {
				return err
			}
			all = append(all, *one)
		}
		return nil
	})
	return all, err
}

func signerOf(k *pb.DkimKey) (*admin.Signer, error) {
	record, err := dkimRecord(k)
	return &admin.Signer{
		Domain: k.Domain, Selector: k.Selector, Algorithm: k.Algorithm, Created: admin.At(time.UnixMilli(k.CreatedMs)), Retired: k.Retired,
		Name: k.Selector + "._domainkey." + k.Domain, Record: record,
	}, err
}

// AddSigner implements admin.Signers.
func (o *operator) AddSigner(ctx context.Context, by admin.By, s admin.SignerAdd) (*admin.Signer, error) {
	domain, err := domainName(s.Domain)
	if err != nil {
		return nil, err
	}
	if s.Algorithm == "" {
		s.Algorithm = dkimRSA
	}
	if s.Algorithm != dkimRSA && s.Algorithm != dkimEd25519 {
		return nil, admin.Invalid("%s is neither rsa nor ed25519", clean(s.Algorithm, maxName))
	}
	if s.Selector == "" {
		s.Selector = time.Now().UTC().Format("20060102") + s.Algorithm[:1]
	}
	selector, err := domainName(s.Selector)
	if err != nil || strings.Contains(selector, "_") {
		return nil, admin.Invalid("%s can not be a selector: it is a label in DNS", clean(s.Selector, maxName))
	}
	key, err := newDkimKey(domain, selector, s.Algorithm)
	if err != nil {
		return nil, err
	}
	_, err = o.do(ctx, by, spool.KindPutDkim, func(adm *pb.Admin) proto.Message {
		return &pb.PutDkim{Admin: adm, Key: key, RetireOthers: s.Rotate}
	})
	if err != nil {
		return nil, err
	}
	all, err := o.Signers(ctx) // a request sent again made the key the first time
	for i := range all {
		if all[i].Domain == domain && all[i].Selector == selector {
			return &all[i], nil
		}
	}
	if err == nil {
		err = admin.NotFound("signing key", selector)
	}
	return nil, err
}

// RemoveSigner implements admin.Signers.
func (o *operator) RemoveSigner(ctx context.Context, by admin.By, domain, selector string) error {
	domain, err := domainName(domain)
	if err != nil {
		return err
	}
	_, err = o.do(ctx, by, spool.KindDropDkim, func(adm *pb.Admin) proto.Message {
		return &pb.DropDkim{Admin: adm, Domain: domain, Selector: strings.ToLower(selector)}
	})
	return err
}
