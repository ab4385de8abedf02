package records

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/dkimkey"
	"relay/smtp/printable"
)

// Signers implements admin.Signers.
func (rs *Records) Signers(context.Context) ([]admin.Signer, error) {
	all := []admin.Signer{}
	err := rs.replica.View(func(v spool.View) error {
		keys, err := v.DkimKeys("")
		if err != nil {
			return err
		}
		for _, k := range keys {
			one, err := signerOf(k)
			if err != nil {
				return err
			}
			one.Waiting = waits(k, keys)
			all = append(all, *one)
		}
		return nil
	})
	return all, err
}

// waits reports whether a key that does not sign is to take the place of one that
// does: it is the newest of its algorithm.
func waits(k *pb.DkimKey, keys []*pb.DkimKey) bool {
	signs := false
	for _, other := range keys {
		if other.Domain != k.Domain || other.Algorithm != k.Algorithm || other == k {
			continue
		}
		if other.CreatedMs > k.CreatedMs {
			return false
		}
		signs = signs || !other.Retired
	}
	return k.Retired && signs
}

// ActivateSigner implements admin.Signers.
func (rs *Records) ActivateSigner(ctx context.Context, by admin.By, domain, selector string) (*admin.Signer, error) {
	domain, err := domainName(domain)
	if err != nil {
		return nil, err
	}
	selector = strings.ToLower(selector)
	_, err = rs.edit.Do(ctx, by, spool.KindPutDkim, func(adm *pb.Admin) proto.Message {
		return &pb.PutDkim{Admin: adm, Key: &pb.DkimKey{Domain: domain, Selector: selector}, Activate: true}
	})
	if err != nil {
		return nil, err
	}
	all, err := rs.Signers(ctx)
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

// rotates says how a new key begins: waiting, where it is to take the place of one
// that signs.
func (rs *Records) rotates(domain string, s *admin.SignerAdd) (waiting bool, err error) {
	if !s.Rotate || !s.Wait {
		return false, nil
	}
	err = rs.replica.View(func(v spool.View) error {
		keys, err := v.DkimKeys(domain)
		for _, k := range keys {
			waiting = waiting || !k.Retired && k.Algorithm == s.Algorithm
		}
		c, _, verr := v.Cluster()
		if waiting && verr == nil && spool.VersionOf(c) < 2 {
			return admin.Conflict("a key can wait for its DNS record from cluster version 2 on, and this cluster has version 1",
				"install this version on all nodes, then run relayctl cluster upgrade")
		}
		return errors.Join(err, verr)
	})
	return waiting, err
}

func signerOf(k *pb.DkimKey) (*admin.Signer, error) {
	record, err := dkimkey.Record(k)
	return &admin.Signer{
		Domain: k.Domain, Selector: k.Selector, Algorithm: k.Algorithm, Created: admin.At(time.UnixMilli(k.CreatedMs)),
		Retired: k.Retired,
		Name:    k.Selector + "._domainkey." + k.Domain, Record: record,
	}, err
}

// AddSigner implements admin.Signers.
func (rs *Records) AddSigner(ctx context.Context, by admin.By, s admin.SignerAdd) (*admin.Signer, error) {
	domain, err := domainName(s.Domain)
	if err != nil {
		return nil, err
	}
	if s.Algorithm == "" {
		s.Algorithm = dkimkey.RSA
	}
	if s.Algorithm != dkimkey.RSA && s.Algorithm != dkimkey.Ed25519 {
		return nil, admin.Invalid("%s is neither rsa nor ed25519", printable.Text(s.Algorithm, MaxName))
	}
	named := s.Selector != ""
	if !named {
		if s.Selector, err = rs.freeSelector(domain, s.Algorithm); err != nil {
			return nil, err
		}
	}
	selector, err := domainName(s.Selector)
	if err != nil || strings.Contains(selector, "_") {
		return nil, admin.Invalid("%s can not be a selector: it is a label in DNS", printable.Text(s.Selector, MaxName))
	}
	key, err := dkimkey.New(domain, selector, s.Algorithm)
	if err != nil {
		return nil, err
	}
	if key.Retired, err = rs.rotates(domain, &s); err != nil {
		return nil, err
	}
	_, err = rs.edit.Do(ctx, by, spool.KindPutDkim, func(adm *pb.Admin) proto.Message {
		return &pb.PutDkim{Admin: adm, Key: key, RetireOthers: s.Rotate && !key.Retired}
	})
	if err != nil {
		return nil, err
	}
	all, err := rs.Signers(ctx)
	var newest *admin.Signer
	for i := range all {
		k := &all[i]
		switch {
		case k.Domain != domain:
		case k.Selector == selector:
			return k, nil
		case !named && k.Algorithm == s.Algorithm && k.Retired == key.Retired &&
			(newest == nil || !k.Created.Before(newest.Created.Time)):
			newest = k
		}
	}
	if newest != nil { // a request sent again, which made the key the first time
		return newest, nil
	}
	if err == nil {
		err = admin.NotFound("signing key", selector)
	}
	return nil, err
}

// freeSelector makes a selector of the date that the domain has no key under.
func (rs *Records) freeSelector(domain, algorithm string) (string, error) {
	date := rs.now().UTC().Format("20060102") + algorithm[:1]
	selector := date
	err := rs.replica.View(func(v spool.View) error {
		keys, err := v.DkimKeys(domain)
		taken := map[string]bool{}
		for _, k := range keys {
			taken[k.Selector] = true
		}
		for n := 2; taken[selector]; n++ {
			selector = date + strconv.Itoa(n)
		}
		return err
	})
	return selector, err
}

// RemoveSigner implements admin.Signers.
func (rs *Records) RemoveSigner(ctx context.Context, by admin.By, domain, selector string) error {
	domain, err := domainName(domain)
	if err != nil {
		return err
	}
	_, err = rs.edit.Do(ctx, by, spool.KindDropDkim, func(adm *pb.Admin) proto.Message {
		return &pb.DropDkim{Admin: adm, Domain: domain, Selector: strings.ToLower(selector)}
	})
	return err
}
