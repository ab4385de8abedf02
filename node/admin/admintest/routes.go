package admintest

import (
	"context"
	"maps"
	"slices"
	"strings"

	"relay/node/admin"
)

// Routes implements admin.Routes.
func (f *Fake) Routes(context.Context) ([]admin.Route, error) {
	unlock, err := f.ask("Routes")
	if err != nil {
		return nil, err
	}
	defer unlock()
	return values(f.routes), nil
}

func routeName(domain string, of admin.RouteSenders) string {
	return strings.TrimRight(domain+" "+of.From+" "+of.Login, " ")
}

// SetRoute implements admin.Routes.
func (f *Fake) SetRoute(_ context.Context, by admin.By, r admin.Route) error {
	unlock, _, err := f.change("SetRoute", by, "route set %s %s", r.Domain, r.Target)
	if err != nil {
		return err
	}
	defer unlock()
	r.PasswordSet, r.Password = r.Password != "", ""
	r.ClientKeySet, r.ClientKey = r.ClientKey != "", ""
	f.routes[routeName(r.Domain, r.RouteSenders)] = r
	return nil
}

// RemoveRoute implements admin.Routes.
func (f *Fake) RemoveRoute(_ context.Context, by admin.By, domain string, of admin.RouteSenders) error {
	name := routeName(domain, of)
	unlock, _, err := f.change("RemoveRoute", by, "route rm %s", name)
	if err != nil {
		return err
	}
	defer unlock()
	if _, ok := f.routes[name]; !ok {
		return admin.NotFound("route", name)
	}
	delete(f.routes, name)
	return nil
}

// Recipients implements admin.Recipients.
func (f *Fake) Recipients(_ context.Context, domain, after string, limit int) ([]string, error) {
	unlock, err := f.ask("Recipients")
	if err != nil {
		return nil, err
	}
	defer unlock()
	all := slices.Sorted(maps.Keys(f.listed[domain]))
	all = slices.DeleteFunc(all, func(a string) bool { return a <= after })
	if limit == 0 {
		limit = admin.MaxRecipients
	}
	return all[:min(len(all), limit)], nil
}

// ChangeRecipients implements admin.Recipients.
func (f *Fake) ChangeRecipients(_ context.Context, by admin.By, domain string,
	c admin.RecipientChange) (changed uint64, err error) {
	unlock, _, err := f.change("ChangeRecipients", by, "route recipients %s", domain)
	if err != nil {
		return 0, err
	}
	defer unlock()
	if f.listed == nil {
		f.listed = map[string]map[string]bool{}
	}
	had := maps.Clone(f.listed[domain])
	now := map[string]bool{}
	maps.Copy(now, had)
	whole := func(a string) string {
		if strings.Contains(a, "@") {
			return a
		}
		return a + "@" + domain
	}
	for _, a := range c.Remove {
		if delete(now, whole(a)); had[whole(a)] {
			changed++
		}
	}
	for _, a := range c.Add {
		if now[whole(a)] = true; !had[whole(a)] {
			changed++
		}
	}
	f.listed[domain] = now
	return changed, nil
}
