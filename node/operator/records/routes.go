package records

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/smtp/printable"
)

// Routes implements admin.Routes.
func (rs *Records) Routes(context.Context) ([]admin.Route, error) {
	all := []admin.Route{}
	err := rs.replica.View(func(v spool.View) error {
		routes, err := v.Routes()
		for _, r := range routes {
			all = append(all, admin.Route{Domain: r.Domain, Target: r.Target, NoEHLO: r.NoEhlo, RouteTLS: tlsOf(r),
				RouteHops: admin.RouteHops{More: r.More, Weights: r.Weights, Fallback: r.Fallback, Sources: r.Sources,
					Callout: r.Callout, Recipients: r.Recipients},
				RouteSenders: admin.RouteSenders{From: r.From, Login: r.Login},
				RouteLogin:   admin.RouteLogin{User: r.User, OAuth: r.Oauth, PasswordSet: len(r.Password) > 0},
				RouteCert:    admin.RouteCert{ClientCert: r.ClientCert, ClientKeySet: len(r.ClientKey) > 0}})
		}
		return err
	})
	return all, err
}

// SetRoute implements admin.Routes.
func (rs *Records) SetRoute(ctx context.Context, by admin.By, r admin.Route) error {
	domain, err := routeDomain(r.Domain)
	if err != nil {
		return err
	}
	target, err := RouteTarget(r.Target)
	if err != nil {
		return err
	}
	route := &pb.Route{Domain: domain, Target: target}
	if route.From, route.Login, err = rs.senders(r.RouteSenders); err != nil {
		return err
	}
	if route.NoEhlo, err = noEHLO(r.NoEHLO); err != nil {
		return err
	}
	if err = setHops(route, r.RouteHops); err != nil {
		return err
	}
	if err = setTLS(route, r.RouteTLS); err != nil {
		return err
	}
	if err = setLogin(route, r.RouteLogin); err != nil {
		return err
	}
	if err = setCert(route, r.RouteCert); err != nil {
		return err
	}
	if err = rs.canKeep(route); err != nil {
		return err
	}
	if err = rs.sealPassword(ctx, route, r.Password); err != nil {
		return err
	}
	if err = rs.sealKey(ctx, route, r.ClientKey); err != nil {
		return err
	}
	_, err = rs.edit.Do(ctx, by, spool.KindPutRoute, func(adm *pb.Admin) proto.Message {
		return &pb.PutRoute{Admin: adm, Route: route}
	})
	return err
}

// canKeep refuses what a cluster of version 1 can't keep.
func (rs *Records) canKeep(r *pb.Route) error {
	option := "--tls"
	switch {
	case len(r.NoEhlo) > 0:
		option = "--no-ehlo"
	case r.User != "":
		option = "--user"
	case r.From != "":
		option = "--from"
	case r.Login != "":
		option = "--login"
	case r.Recipients != "":
		option = "--recipients"
	case len(r.More) > 0:
		option = "several targets"
	case r.Fallback != "":
		option = "--fallback"
	case r.Callout:
		option = "--callout"
	case len(r.Sources) > 0:
		option = "--source"
	case r.ClientCert != "":
		option = "--client-cert"
	case r.Tls == "" && !r.ImplicitTls:
		return nil
	}
	return rs.needs2("a route with " + option)
}

// needs2 refuses what a cluster of version 1 can't keep.
func (rs *Records) needs2(what string) error {
	return rs.replica.View(func(v spool.View) error {
		c, _, err := v.Cluster()
		if err == nil && spool.VersionOf(c) < 2 {
			return admin.Conflict(what+" needs cluster version 2, and this cluster has version 1",
				"install this version on all nodes, then run relayctl cluster upgrade")
		}
		return err
	})
}

// noEHLO checks a list of EHLO keywords.
func noEHLO(words []string) ([]string, error) {
	if len(words) > maxNoEHLO {
		return nil, admin.Invalid("at most %d EHLO keywords", maxNoEHLO)
	}
	var all []string
	for _, word := range words {
		word = strings.ToUpper(strings.TrimSpace(word))
		if !ehloKeyword(word) {
			return nil, admin.Invalid("%q is not an EHLO keyword such as PIPELINING", printable.Text(word, MaxName))
		}
		all = append(all, word)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
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
		return "", admin.Invalid("a route holds for the domains below its own too: give %s", printable.Text(under, MaxName))
	}
	return domainName(text)
}

// senders checks whose mail a route is for.
func (rs *Records) senders(of admin.RouteSenders) (from, login string, err error) {
	if strings.HasPrefix(of.From, "@*") || strings.HasPrefix(of.From, "@.") || strings.HasPrefix(of.From, "*") {
		return "", "", admin.Invalid("%s: a sender's domain is that domain alone: set a route for each, as in --from %s",
			printable.Text(of.From, MaxName), "@"+printable.Text(strings.TrimLeft(of.From, "@*."), MaxName))
	}
	if from, err = ruleAddress(of.From, true); err != nil {
		return "", "", err
	}
	if of.Login != "" {
		login, err = rs.Address(of.Login)
	}
	return from, login, err
}

// RemoveRoute implements admin.Routes.
func (rs *Records) RemoveRoute(ctx context.Context, by admin.By, domain string, of admin.RouteSenders) error {
	domain, err := routeDomain(domain)
	if err != nil {
		return err
	}
	from, login, err := rs.senders(of)
	if err != nil {
		return err
	}
	_, err = rs.edit.Do(ctx, by, spool.KindDropRoute, func(adm *pb.Admin) proto.Message {
		return &pb.DropRoute{Admin: adm, Domain: domain, From: from, Login: login}
	})
	return err
}
