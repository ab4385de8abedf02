package records

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/wording"
	"relay/smtp/printable"
)

// Domains implements admin.Domains.
func (rs *Records) Domains(context.Context) ([]admin.Domain, error) {
	all := []admin.Domain{}
	err := rs.replica.View(func(v spool.View) error {
		domains, err := v.Domains()
		if err != nil {
			return err
		}
		users, err := usersOf(v)
		for _, d := range domains {
			one := admin.Domain{
				Name: d.Name, CatchAll: d.CatchAll, AuthPolicy: authPolicyName(d.AuthPolicy), Created: admin.AtMs(d.CreatedMs),
				Users: uint64(len(users[d.Name])), Suppress: d.SuppressMs / 1000,
			}
			if d.GreylistMs != nil {
				one.Greylist = new(*d.GreylistMs / 1000)
			}
			all = append(all, one)
		}
		return err
	})
	return all, err
}

// usersOf lists the accounts of each domain.
func usersOf(v spool.View) (map[string][]string, error) {
	accounts, err := v.Accounts()
	users := map[string][]string{}
	for _, a := range accounts {
		domain := spool.DomainOf(a.Address)
		users[domain] = append(users[domain], a.Address)
	}
	return users, err
}

// AddDomain implements admin.Domains.
func (rs *Records) AddDomain(ctx context.Context, by admin.By, d admin.Domain) error {
	name, err := domainName(d.Name)
	if err != nil {
		return err
	}
	rec := &pb.Domain{Name: name}
	if err := changeDomain(rec,
		admin.DomainSet{CatchAll: &d.CatchAll, AuthPolicy: &d.AuthPolicy, Greylist: d.Greylist, Suppress: &d.Suppress},
	); err != nil {
		return err
	}
	_, err = rs.edit.Do(ctx, by, spool.KindPutDomain, func(adm *pb.Admin) proto.Message {
		return &pb.PutDomain{Admin: adm, Create: true, Domain: rec}
	})
	return err
}

// setGreylist changes a domain's delay; less than 0 takes it away.
func setGreylist(d *pb.Domain, seconds *int64) error {
	if seconds == nil {
		return nil
	}
	if *seconds < 0 {
		d.GreylistMs = nil
		return nil
	}
	ms, err := greyMillis(*seconds)
	d.GreylistMs = &ms
	return err
}

// greyMillis checks a delay: senders wait half an hour and more before they come
// again, but after a day none does.
func greyMillis(seconds int64) (int64, error) {
	if seconds < 0 || seconds > 24*3600 {
		return 0, admin.Invalid("greylist_seconds is %d: give 0 to %d", seconds, 24*3600)
	}
	return seconds * 1000, nil
}

// changeDomain makes the changes to a record.
func changeDomain(d *pb.Domain, s admin.DomainSet) (err error) {
	if s.CatchAll != nil {
		if d.CatchAll = ""; *s.CatchAll != "" {
			if d.CatchAll, err = mailAddress(*s.CatchAll, d.Name); err != nil {
				return err
			}
		}
	}
	if s.AuthPolicy != nil {
		if d.AuthPolicy, err = authPolicyOf(*s.AuthPolicy); err != nil {
			return err
		}
	}
	if s.Suppress != nil {
		if d.SuppressMs, err = millis("suppress_seconds", *s.Suppress); err != nil {
			return err
		}
	}
	return setGreylist(d, s.Greylist)
}

func authPolicyOf(name string) (pb.AuthPolicy, error) {
	switch name {
	case "", admin.AuthTag:
		return pb.AuthPolicy_AUTH_TAG, nil
	case admin.AuthRefuse:
		return pb.AuthPolicy_AUTH_REFUSE, nil
	case admin.AuthNone:
		return pb.AuthPolicy_AUTH_NONE, nil
	}
	return 0, admin.Invalid("the policy %s is none of tag, refuse and none", printable.Text(name, MaxName))
}

func authPolicyName(p pb.AuthPolicy) string {
	switch p {
	case pb.AuthPolicy_AUTH_REFUSE:
		return admin.AuthRefuse
	case pb.AuthPolicy_AUTH_NONE:
		return admin.AuthNone
	}
	return admin.AuthTag
}

// SetDomain implements admin.Domains.
func (rs *Records) SetDomain(ctx context.Context, by admin.By, name string, s admin.DomainSet) error {
	name, err := domainName(name)
	if err != nil {
		return err
	}
	var d *pb.Domain
	return rs.edit.Update(ctx, by, spool.KindPutDomain, func(v spool.View) error {
		var there bool
		if d, there, err = v.Domain(name); err == nil && !there {
			err = admin.NotFound("domain", name)
		}
		if err != nil {
			return err
		}
		return changeDomain(d, s)
	}, func(adm *pb.Admin) proto.Message {
		return &pb.PutDomain{Admin: adm, Update: true, Domain: d, ExpectChanged: d.Changed}
	})
}

// RemoveDomain implements admin.Domains. Aliases of the domain stay, without
// effect, so that a domain that was removed by mistake can be added again.
func (rs *Records) RemoveDomain(ctx context.Context, by admin.By, name string,
	opts admin.DropOptions) (*admin.Removed, error) {
	name, err := domainName(name)
	if err != nil {
		return nil, err
	}
	removed := &admin.Removed{DryRun: opts.DryRun, Name: name}
	if err := rs.replica.View(func(v spool.View) error { return domainRemoval(v, name, removed) }); err != nil {
		// A request that comes a second time finds the domain gone and is
		// answered as the first time, by the spool.
		if opts.DryRun || by.Request == "" || !errors.Is(err, admin.ErrNotFound) {
			return nil, err
		}
	}
	if opts.DryRun {
		return removed, nil
	}
	_, err = rs.edit.Do(ctx, by, spool.KindDropDomain, func(adm *pb.Admin) proto.Message {
		return &pb.DropDomain{Admin: adm, Name: name}
	})
	if errors.Is(err, admin.ErrInvalid) { // a user was added meanwhile
		p := &admin.Error{}
		errors.As(err, &p)
		err = admin.Conflict(p.Detail, p.Next)
	}
	if err != nil {
		return nil, err
	}
	return removed, nil
}

// domainRemoval says what the removal of a domain does, or why it can't be.
func domainRemoval(v spool.View, name string, r *admin.Removed) error {
	if _, ok, err := v.Domain(name); err != nil {
		return err
	} else if !ok {
		return admin.NotFound("domain", name)
	}
	settings, err := v.Settings()
	if err != nil {
		return err
	}
	if settings.GetSrsDomain() == name {
		return admin.Conflict(fmt.Sprintf("forwarded mail leaves with return addresses (SRS) at %s, whose bounces would be "+
			"refused", name), "end that with 'relayctl settings set --srs off' first, or name another domain there")
	}
	users, err := usersOf(v)
	if err != nil {
		return err
	}
	if n := len(users[name]); n > 0 {
		return admin.Conflict(fmt.Sprintf("domain %s still has %s (%s)", name, wording.Counted(uint64(n), "user"),
			wording.Some(users[name], 3)),
			"remove them with 'relayctl user rm' first")
	}
	aliases, err := v.Aliases()
	if err != nil {
		return err
	}
	idle := 0
	for _, a := range aliases {
		if spool.DomainOf(a.Address) == name {
			idle++
		}
	}
	r.Effects = append(r.Effects,
		fmt.Sprintf("mail to %s is no longer taken in from strangers, and leaves by its route", name))
	if idle > 0 {
		r.Effects = append(r.Effects, fmt.Sprintf("%s of the domain stay without effect", wording.Counted(uint64(idle),
			"alias")))
	}
	return nil
}
