package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"relay/node/admin"
)

// whole completes bare local parts with the cluster's default domain, as a node does
// with what it is sent, so that what is said of a change names the address it is made
// to. Nothing is asked where all addresses have a domain.
func whole(ctx context.Context, client *admin.Client, list ...string) ([]string, error) {
	list = slices.Clone(list)
	domain := ""
	for i, one := range list {
		if one == "" || strings.Contains(one, "@") {
			continue
		}
		if strings.ContainsAny(one[:1], `|/:"\`) {
			return nil, usagef("%q is not an address: programs, files and :include: are no targets here", one)
		}
		if domain == "" {
			s, err := client.Settings(ctx)
			if err != nil {
				return nil, err
			}
			if domain = s.DefaultDomain; domain == "" {
				return nil, usagef("%s has no domain, and the cluster has no default domain: give the whole address, or "+
					"set one with 'relayctl settings set --default-domain'", clean(one))
			}
		}
		list[i] = strings.ToLower(one) + "@" + domain
	}
	return list, nil
}

// changeAddress is change where an address is changed; the words on it begin and end
// as given, with the completed address between.
func (a *app) changeAddress(
	c *cobra.Command, before, address, after string,
	f func(ctx context.Context, client *admin.Client, address string) error,
) error {
	return a.do(c, func(ctx context.Context, client *admin.Client) error {
		full, err := whole(ctx, client, address)
		if err == nil {
			err = f(ctx, client, full[0])
		}
		if err != nil {
			return err
		}
		return a.done(before + full[0] + after)
	})
}

// warnOfNobody tells of the targets of an alias in local domains that lead nowhere. The
// alias itself as a target is the account of its name.
func (a *app) warnOfNobody(ctx context.Context, client *admin.Client, alias string, targets []string) error {
	domains, err := client.Domains(ctx)
	if err != nil {
		return err
	}
	aliases, err := client.Aliases(ctx)
	if err != nil {
		return err
	}
	for _, target := range targets {
		ours := slices.ContainsFunc(domains, func(d admin.Domain) bool {
			return d.CatchAll == "" && strings.HasSuffix(strings.ToLower(target), "@"+d.Name)
		})
		if !ours || slices.ContainsFunc(aliases, func(one admin.Alias) bool {
			return strings.EqualFold(one.Address, target) && !strings.EqualFold(alias, target)
		}) {
			continue
		}
		local, domain, _ := strings.Cut(target, "@")
		if user, _, tagged := strings.Cut(local, "+"); tagged && user != "" {
			target = user + "@" + domain // RFC 5233
		}
		switch _, err := client.User(ctx, target); {
		case errors.Is(err, admin.ErrNotFound):
			a.note("warning: there is no user and no alias %s: mail to the alias does not reach it", clean(target))
		case err != nil:
			return err
		}
	}
	return nil
}
