package spool

import (
	"fmt"
	"strings"

	pb "relay/cluster/spool/spoolpb"
)

// MaxListed is how many addresses one PutRecipients names.
const (
	MaxListed        = 1000
	maxRecipientText = 1000 // octets of a local part
)

// keyRoute is the key of a route. No part has a NUL in it.
func keyRoute(domain, from, login string) []byte {
	if from == "" && login == "" {
		return key(kRoute, domain)
	}
	return key(kRoute, domain+"\x00"+from+"\x00"+login)
}

func keyListed(domain, local string) []byte { return key(kListed, domain+"\x00"+local) }

// whose says in the audit log which senders' mail a route is for.
func whose(r interface {
	GetFrom() string
	GetLogin() string
}) (text string) {
	if from := r.GetFrom(); from != "" {
		text = " --from " + from
	}
	if login := r.GetLogin(); login != "" {
		text += " --login " + login
	}
	return text
}

func (t *tx) putRoute(h *pb.PutRoute) *pb.Result {
	r := h.GetRoute()
	switch {
	case r.GetDomain() == "" || r.GetTarget() == "":
		return t.refuse(pb.Code_INVALID, "a route needs a domain and a target")
	case strings.Contains(r.Domain+r.From+r.Login, "\x00") && t.at(2):
		return t.refuse(pb.Code_INVALID, "a route has no NUL")
	}
	t.write(keyRoute(r.Domain, r.From, r.Login), r)
	t.changes.Directory, t.changes.Routes = true, true
	return t.ok()
}

func (t *tx) dropRoute(h *pb.DropRoute) *pb.Result {
	t.changes.Routes = true
	return t.dropRecord(keyRoute(h.Domain, h.From, h.Login), "route", h.Domain+whose(h))
}

// putRecipients changes the list of a domain's recipients. Result.Count is how many addresses came or went.
func (t *tx) putRecipients(h *pb.PutRecipients) *pb.Result {
	switch {
	case !t.at(2):
		return t.refuse(pb.Code_INVALID, "the cluster is of version 1")
	case h.Domain == "" || strings.Contains(h.Domain, "\x00"):
		return t.refuse(pb.Code_INVALID, "a list of recipients needs a domain")
	case len(h.Add)+len(h.Remove) > MaxListed:
		return t.refuse(pb.Code_INVALID, "at most %d addresses at a time", MaxListed)
	}
	count := uint32(0)
	for i, address := range append(h.Remove[:len(h.Remove):len(h.Remove)], h.Add...) {
		local, ok := strings.CutSuffix(address, "@"+h.Domain)
		if !ok || local == "" || len(local) > maxRecipientText || strings.Contains(local, "\x00") {
			return t.refuse(pb.Code_INVALID, "an address of the list is not of the domain %s", h.Domain)
		}
		k := keyListed(h.Domain, local)
		there, adds := t.get(k) != nil, i >= len(h.Remove)
		switch {
		case there == adds:
			continue
		case adds:
			t.set(k, []byte{1})
		default:
			t.del(k)
		}
		count++
	}
	res := t.ok()
	res.Count = count
	return res
}

// recipientWords says in the audit log how a list changes.
func recipientWords(h *pb.PutRecipients) string {
	text := "route recipients " + h.Domain
	for _, part := range []struct {
		option string
		all    []string
	}{{" --add ", h.Add}, {" --rm ", h.Remove}} {
		switch n := len(part.all); {
		case n > 3:
			text += fmt.Sprintf("%s%s and %d more", part.option, strings.Join(part.all[:3], ","), n-3)
		case n > 0:
			text += part.option + strings.Join(part.all, ",")
		}
	}
	return text
}

// RouteTo is the route of one domain itself, for the mail of a sender (address, @domain or <>) and of an account where
// they are given: not of what is below the domain, and of no other sender.
func (v View) RouteTo(domain, from, login string) (*pb.Route, bool, error) {
	return load(v.R, keyRoute(domain, from, login), new(pb.Route))
}

// Route returns the most specific route for a domain, whoever its mail is from: its own, that of a parent domain
// (".example.com" in full labels), or "*". False where mail goes by MX because nothing else is said.
func (v View) Route(domain string) (*pb.Route, bool, error) {
	for name := range RouteNames(domain) {
		if r, ok, err := v.RouteTo(name, "", ""); ok || err != nil {
			return r, ok, err
		}
	}
	return nil, false, nil
}

// RouteNames are the domains whose routes hold for a domain, the most specific first, "*" at last.
func RouteNames(domain string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for name := domain; name != ""; {
			if !yield(name) {
				return
			}
			_, parent, more := strings.Cut(name, ".")
			if !more || !strings.Contains(parent, ".") {
				break
			}
			name = parent
		}
		yield("*")
	}
}

// Routes returns all routes by domain, senders and accounts.
func (v View) Routes() ([]*pb.Route, error) {
	return list(v.R, []byte{kRoute}, func() *pb.Route { return new(pb.Route) })
}

// Listed reports whether the list of a domain has a recipient. Both are in lower case.
func (v View) Listed(domain, local string) (bool, error) {
	one, err := v.R.Get(keyListed(domain, local))
	return one != nil, err
}

// ListedFrom calls fn for the local parts on a domain's list behind one of them, in order, until it returns false.
func (v View) ListedFrom(domain, after string, fn func(local string) bool) error {
	prefix := keyListed(domain, "")
	from, to := keyListed(domain, after+"\x00"), key(kListed, domain+"\x01")
	if after == "" {
		from = prefix
	}
	return v.R.Scan(from, to, func(k, _ []byte) bool { return fn(string(k[len(prefix):])) })
}
