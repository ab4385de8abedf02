package operator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/wording"
	"relay/smtp/printable"
)

// Domains implements admin.Domains.
func (o *Operator) Domains(context.Context) ([]admin.Domain, error) {
	all := []admin.Domain{}
	err := o.Replica.View(func(v spool.View) error {
		domains, err := v.Domains()
		if err != nil {
			return err
		}
		users, err := usersOf(v)
		for _, d := range domains {
			one := admin.Domain{
				Name: d.Name, CatchAll: d.CatchAll, AuthPolicy: authPolicyName(d.AuthPolicy), Created: admin.AtMs(d.CreatedMs),
				Users: uint64(len(users[d.Name])),
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
func (o *Operator) AddDomain(ctx context.Context, by admin.By, d admin.Domain) error {
	name, err := domainName(d.Name)
	if err != nil {
		return err
	}
	rec := &pb.Domain{Name: name}
	if err := changeDomain(rec,
		admin.DomainSet{CatchAll: &d.CatchAll, AuthPolicy: &d.AuthPolicy, Greylist: d.Greylist}); err != nil {
		return err
	}
	_, err = o.do(ctx, by, spool.KindPutDomain, func(adm *pb.Admin) proto.Message {
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
	return 0, admin.Invalid("the policy %s is none of tag, refuse and none", printable.Text(name, maxName))
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

// SetDomain implements admin.Domains. The record is read, changed and written
// back whole, unless somebody else has written it in between: then once more.
func (o *Operator) SetDomain(ctx context.Context, by admin.By, name string, s admin.DomainSet) error {
	name, err := domainName(name)
	if err != nil {
		return err
	}
	o.edit.Lock()
	defer o.edit.Unlock()
	for try := 1; ; try++ {
		res, err := o.editDomain(ctx, by, name, s)
		if res.GetCode() != pb.Code_STALE || try == editTries {
			return err
		}
	}
}

func (o *Operator) editDomain(ctx context.Context, by admin.By, name string, s admin.DomainSet) (*pb.Result, error) {
	if err := o.current(ctx); err != nil {
		return nil, err
	}
	var d *pb.Domain
	err := o.Replica.View(func(v spool.View) error {
		one, ok, err := v.Domain(name)
		if err == nil && !ok {
			err = admin.NotFound("domain", name)
		}
		d = one
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := changeDomain(d, s); err != nil {
		return nil, err
	}
	return o.do(ctx, by, spool.KindPutDomain, func(adm *pb.Admin) proto.Message {
		return &pb.PutDomain{Admin: adm, Update: true, Domain: d, ExpectChanged: d.Changed}
	})
}

// RemoveDomain implements admin.Domains. Aliases of the domain stay, without
// effect, so that a domain that was removed by mistake can be added again.
func (o *Operator) RemoveDomain(ctx context.Context, by admin.By, name string,
	opts admin.DropOptions) (*admin.Removed, error) {
	name, err := domainName(name)
	if err != nil {
		return nil, err
	}
	removed := &admin.Removed{DryRun: opts.DryRun, Name: name}
	if err := o.Replica.View(func(v spool.View) error { return domainRemoval(v, name, removed) }); err != nil {
		// A request that comes a second time finds the domain gone and is
		// answered as the first time, by the spool.
		if opts.DryRun || by.Request == "" || !errors.Is(err, admin.ErrNotFound) {
			return nil, err
		}
	}
	if opts.DryRun {
		return removed, nil
	}
	_, err = o.do(ctx, by, spool.KindDropDomain, func(adm *pb.Admin) proto.Message {
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

// Aliases implements admin.Aliases.
func (o *Operator) Aliases(context.Context) ([]admin.Alias, error) {
	all := []admin.Alias{}
	err := o.Replica.View(func(v spool.View) error {
		aliases, err := v.Aliases()
		for _, a := range aliases {
			all = append(all, admin.Alias{Address: a.Address, Targets: a.Targets, Owner: a.Owner})
		}
		return err
	})
	return all, err
}

// SetAlias implements admin.Aliases.
func (o *Operator) SetAlias(ctx context.Context, by admin.By, a admin.Alias) error {
	fallback, err := o.defaultDomain()
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
	_, err = o.do(ctx, by, spool.KindPutAlias, func(adm *pb.Admin) proto.Message {
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
func (o *Operator) RemoveAlias(ctx context.Context, by admin.By, address string) error {
	address, err := o.address(address)
	if err != nil {
		return err
	}
	_, err = o.do(ctx, by, spool.KindDropAlias, func(adm *pb.Admin) proto.Message {
		return &pb.DropAlias{Admin: adm, Address: address}
	})
	return err
}

// Routes implements admin.Routes.
func (o *Operator) Routes(context.Context) ([]admin.Route, error) {
	all := []admin.Route{}
	err := o.Replica.View(func(v spool.View) error {
		routes, err := v.Routes()
		for _, r := range routes {
			all = append(all, admin.Route{Domain: r.Domain, Target: r.Target, NoEHLO: r.NoEhlo})
		}
		return err
	})
	return all, err
}

// SetRoute implements admin.Routes.
func (o *Operator) SetRoute(ctx context.Context, by admin.By, r admin.Route) error {
	domain, err := routeDomain(r.Domain)
	if err != nil {
		return err
	}
	target, err := routeTarget(r.Target)
	if err != nil {
		return err
	}
	without, err := o.noEHLO(r.NoEHLO)
	if err != nil {
		return err
	}
	_, err = o.do(ctx, by, spool.KindPutRoute, func(adm *pb.Admin) proto.Message {
		return &pb.PutRoute{Admin: adm, Route: &pb.Route{Domain: domain, Target: target, NoEhlo: without}}
	})
	return err
}

// noEHLO checks a list of EHLO keywords, which a cluster of version 1 cannot
// keep.
func (o *Operator) noEHLO(words []string) ([]string, error) {
	if len(words) > maxNoEHLO {
		return nil, admin.Invalid("at most %d EHLO keywords", maxNoEHLO)
	}
	var all []string
	for _, word := range words {
		word = strings.ToUpper(strings.TrimSpace(word))
		if !ehloKeyword(word) {
			return nil, admin.Invalid("%q is not an EHLO keyword such as PIPELINING", printable.Text(word, maxName))
		}
		all = append(all, word)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	if len(all) == 0 {
		return nil, nil
	}
	return all, o.Replica.View(func(v spool.View) error {
		c, _, err := v.Cluster()
		if err == nil && spool.VersionOf(c) < 2 {
			return admin.Conflict("a route with --no-ehlo needs cluster version 2, and this cluster has version 1",
				"install this version on all nodes, then run relayctl cluster upgrade")
		}
		return err
	})
}

const maxNoEHLO = 32

// ehloKeyword: RFC 5321 §4.1.1.1.
func ehloKeyword(s string) bool {
	for i, c := range []byte(s) {
		if !(c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' && i > 0) {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

func routeDomain(text string) (string, error) {
	text = strings.TrimSpace(text)
	if text == "*" {
		return text, nil
	}
	if under, ok := strings.CutPrefix(text, "*."); ok {
		return "", admin.Invalid("a route holds for the domains below its own too: give %s", printable.Text(under, maxName))
	}
	return domainName(text)
}

// RemoveRoute implements admin.Routes.
func (o *Operator) RemoveRoute(ctx context.Context, by admin.By, domain string) error {
	domain, err := routeDomain(domain)
	if err != nil {
		return err
	}
	_, err = o.do(ctx, by, spool.KindDropRoute, func(adm *pb.Admin) proto.Message {
		return &pb.DropRoute{Admin: adm, Domain: domain}
	})
	return err
}

// Settings implements admin.Policy.
func (o *Operator) Settings(context.Context) (*admin.Settings, error) {
	var s *pb.Settings
	err := o.Replica.View(func(v spool.View) (err error) { s, err = v.Settings(); return err })
	if err != nil {
		return nil, err
	}
	return &admin.Settings{
		HistorySeconds: s.HistoryMs / 1000, HistoryBytes: s.HistoryBytes, ExpireSeconds: s.ExpireMs / 1000,
		RetryFirstSeconds: s.RetryFirstMs / 1000, RetryMaxSeconds: s.RetryMaxMs / 1000, DefaultDomain: s.DefaultDomain,
		Greylist: s.GreylistMs / 1000, GreylistWindow: s.GreylistWindowMs / 1000, GreylistLife: s.GreylistLifeMs / 1000,
		GreylistTrust: s.GreylistTrust, GreylistExempt: s.GreylistExempt, GreylistRecords: s.GreylistRecords,
		AuditSeconds: s.AuditMs / 1000, AuditBytes: s.AuditBytes, FromCheck: FromCheckWord(s.FromCheck),
	}, nil
}

// FromCheckWord is a setting in the API; empty where none was made.
func FromCheckWord(c pb.FromCheck) string {
	if c == pb.FromCheck_FROM_DEFAULT {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(c.String(), "FROM_"))
}

// fromCheckOf reads the setting. Programs of former versions do not name it;
// then it stays as it is.
func (o *Operator) fromCheckOf(word string) (pb.FromCheck, error) {
	if word == "" {
		var now pb.FromCheck
		err := o.Replica.View(func(v spool.View) error {
			s, err := v.Settings()
			now = s.GetFromCheck()
			return err
		})
		return now, err
	}
	n, ok := pb.FromCheck_value["FROM_"+strings.ToUpper(word)]
	if c := pb.FromCheck(n); ok && FromCheckWord(c) == word {
		return c, nil
	}
	return 0, admin.Invalid("from_check is refuse, unsigned or off, not %s", word)
}

// SetSettings implements admin.Policy. It replaces all of them, but a from_check
// that is not named.
func (o *Operator) SetSettings(ctx context.Context, by admin.By, s admin.Settings) error {
	rec := &pb.Settings{HistoryBytes: s.HistoryBytes, AuditBytes: s.AuditBytes, GreylistTrust: s.GreylistTrust,
		GreylistRecords: s.GreylistRecords}
	for _, one := range []struct {
		name    string
		seconds int64
		into    *int64
	}{
		{"history_seconds", s.HistorySeconds, &rec.HistoryMs},
		{"audit_seconds", s.AuditSeconds, &rec.AuditMs},
		{"expire_seconds", s.ExpireSeconds, &rec.ExpireMs},
		{"retry_first_seconds", s.RetryFirstSeconds, &rec.RetryFirstMs},
		{"retry_max_seconds", s.RetryMaxSeconds, &rec.RetryMaxMs},
		{"greylist_window_seconds", s.GreylistWindow, &rec.GreylistWindowMs},
		{"greylist_life_seconds", s.GreylistLife, &rec.GreylistLifeMs},
	} {
		ms, err := millis(one.name, one.seconds)
		if err != nil {
			return err
		}
		*one.into = ms
	}
	var err error
	if rec.FromCheck, err = o.fromCheckOf(s.FromCheck); err != nil {
		return err
	}
	if rec.GreylistMs, err = greyMillis(s.Greylist); err != nil {
		return err
	}
	if rec.GreylistExempt, err = networks(s.GreylistExempt); err != nil {
		return err
	}
	if rec.RetryFirstMs > 0 && rec.RetryMaxMs > 0 && rec.RetryFirstMs > rec.RetryMaxMs {
		return admin.Invalid("the first wait (%d s) is longer than the longest (%d s)", s.RetryFirstSeconds,
			s.RetryMaxSeconds)
	}
	if s.DefaultDomain != "" {
		name, err := domainName(s.DefaultDomain)
		if err != nil {
			return err
		}
		if err := o.localDomain(name); err != nil {
			return err
		}
		rec.DefaultDomain = name
	}
	_, err = o.do(ctx, by, spool.KindPutSettings, func(adm *pb.Admin) proto.Message {
		return &pb.PutSettings{Admin: adm, Settings: rec}
	})
	return err
}

const maxNetworkList = 1000

// networks checks a list of addresses and networks, and brings it in one form.
func networks(list []string) ([]string, error) {
	if len(list) > maxNetworkList {
		return nil, admin.Invalid("at most %d networks can be named", maxNetworkList)
	}
	var all []string
	for _, text := range list {
		text = strings.TrimSpace(text)
		p, err := netip.ParsePrefix(text)
		if a, e := netip.ParseAddr(text); e == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return nil, admin.Invalid("%s is not a network such as 192.0.2.0/24", printable.Text(text, 64))
		}
		all = append(all, p.Masked().String())
	}
	return all, nil
}

// millis checks a duration of the API; ten years are for ever.
func millis(name string, seconds int64) (int64, error) {
	if seconds < 0 || seconds > 10*365*24*3600 {
		return 0, admin.Invalid("%s is %d: give 0 to %d", name, seconds, 10*365*24*3600)
	}
	return seconds * 1000, nil
}

func (o *Operator) localDomain(name string) error {
	return o.Replica.View(func(v spool.View) error {
		_, ok, err := v.Domain(name)
		if err == nil && !ok {
			err = inThisState(fmt.Sprintf("domain %s is not local", name),
				fmt.Sprintf("add it with 'relayctl domain add %s' first", name))
		}
		return err
	})
}

func (o *Operator) defaultDomain() (name string, err error) {
	err = o.Replica.View(func(v spool.View) error {
		s, err := v.Settings()
		name = s.GetDefaultDomain()
		return err
	})
	return name, err
}

// address is mailAddress with the cluster's default domain.
func (o *Operator) address(text string) (string, error) {
	fallback, err := o.defaultDomain()
	if err != nil {
		return "", err
	}
	return mailAddress(text, fallback)
}
