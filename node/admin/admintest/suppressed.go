package admintest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"relay/node/admin"
)

// Suppressed implements admin.Suppressions.
func (f *Fake) Suppressed(_ context.Context, q admin.SuppressedQuery) ([]admin.Suppressed, error) {
	unlock, err := f.ask("Suppressed")
	if err != nil {
		return nil, err
	}
	defer unlock()
	all := []admin.Suppressed{}
	for _, s := range f.suppressed {
		if (q.Domain == "" || q.Domain == s.Domain) && s.Address >= q.From && len(all) < cmp.Or(q.Limit, 1000) {
			all = append(all, s)
		}
	}
	return all, nil
}

// Suppress implements admin.Suppressions.
func (f *Fake) Suppress(_ context.Context, by admin.By, a admin.SuppressAdd) error {
	unlock, _, err := f.change("Suppress", by, "suppress add %s for senders of %s", a.Address, a.Domain)
	if err != nil {
		return err
	}
	defer unlock()
	if _, ok := f.domains[a.Domain]; !ok {
		return admin.NotFound("domain", a.Domain)
	}
	life := time.Duration(cmp.Or(a.ExpiresSeconds, 30*24*3600)) * time.Second
	f.suppressed = slices.DeleteFunc(f.suppressed, func(s admin.Suppressed) bool {
		return s.Domain == a.Domain && s.Address == a.Address
	})
	f.suppressed = append(f.suppressed, admin.Suppressed{Domain: a.Domain, Address: a.Address, Since: f.at(0),
		Expires: f.at(life), Who: by.Who, Why: by.Why})
	slices.SortFunc(f.suppressed, func(a, b admin.Suppressed) int {
		return cmp.Or(cmp.Compare(a.Domain, b.Domain), cmp.Compare(a.Address, b.Address))
	})
	return nil
}

// Unsuppress implements admin.Suppressions.
func (f *Fake) Unsuppress(_ context.Context, by admin.By, domain, address string) error {
	unlock, _, err := f.change("Unsuppress", by, "suppress rm %s for senders of %s", address, domain)
	if err != nil {
		return err
	}
	defer unlock()
	at := slices.IndexFunc(f.suppressed, func(s admin.Suppressed) bool {
		return s.Domain == domain && s.Address == address
	})
	if at < 0 {
		return admin.Missing(fmt.Sprintf("%s is not on the suppression list of %s", address, domain),
			"'relayctl suppress ls' shows it")
	}
	f.suppressed = slices.Delete(f.suppressed, at, at+1)
	return nil
}
