package outbound

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/routing"
	"relay/queue"
	"relay/queue/remote"
)

// loginKey says when a route's login is still the one that it was: a new password, even if it is the same, is a new
// login, which is tried at once.
type loginKey struct {
	route                routing.Key
	target, user, sealed string
	oauth                bool
}

// certKey says it of a route's certificate.
type certKey struct {
	route                routing.Key
	target, cert, sealed string
}

// cert returns the certificate of a route, as login does its login.
func (o *Spool) cert(r *pb.Route, all map[certKey]*remote.Cert) *remote.Cert {
	if r.ClientCert == "" {
		return nil
	}
	k := certKey{routing.KeyOf(r), r.Target, r.ClientCert, string(r.ClientKey)}
	c := o.certs[k]
	if c == nil {
		about := directory.RouteKeySecret(r)
		c = remote.NewCert(k.route.String(), r.ClientCert, func(ctx context.Context) ([]byte, error) {
			return o.replica.Unseal(ctx, r.ClientKey, about)
		})
	}
	all[k] = c
	return c
}

// login returns the login of a route, the one in use where it has not changed, and notes it; nil without one. It needs
// o.rerouting.
func (o *Spool) login(r *pb.Route, all map[loginKey]*remote.Login) *remote.Login {
	if r.User == "" {
		return nil
	}
	k := loginKey{routing.KeyOf(r), r.Target, r.User, string(r.Password), r.Oauth}
	l := o.logins[k]
	if l == nil && r.Oauth {
		about := directory.RouteSecret(r)
		l = remote.NewTokenLogin(k.route.String(), r.User, func(ctx context.Context) ([]byte, error) {
			return o.replica.Unseal(ctx, r.Password, about)
		})
	} else if l == nil {
		about := directory.RouteSecret(r)
		l = remote.NewLogin(k.route.String(), r.User, func(ctx context.Context) (string, error) {
			b, err := o.replica.Unseal(ctx, r.Password, about)
			return string(b), err
		})
	}
	all[k] = l
	return l
}

// RefusedLogins lists the logins of routes that hosts refused to this node, and that have not been taken since.
func (o *Spool) RefusedLogins() (all []remote.Refused) {
	o.rerouting.Lock()
	defer o.rerouting.Unlock()
	for _, l := range o.logins {
		if r := l.Refused(); !r.At.IsZero() {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b remote.Refused) int { return cmp.Compare(a.Route, b.Route) })
	return all
}

// retries lets logins be tried again for mail that an operator retries. add are the entries of queued that are of an
// epoch, with their hops.
func (o *Spool) retries(queued []spool.Queued, epoch uint64, add []queue.Waiting) {
	if routes := o.routes.Load(); routes == nil || !routes.logins {
		return
	}
	at := 0
	for i := range queued {
		if q := &queued[i]; q.Owner == epoch {
			if l := o.retried(q, add[at].Route); l != nil {
				l.Retry()
			}
			at++
		}
	}
}

// retried returns the login of mail that an operator retries: it was tried before, and is due now. nil: there is none.
func (o *Spool) retried(q *spool.Queued, hop string) *remote.Login {
	routes := o.routes.Load()
	if q.Attempts == 0 || q.State == pb.State_HELD || q.State == pb.State_SUSPENDED || routes == nil || !routes.logins ||
		q.NextMs > o.replica.Now().UnixMilli() {
		return nil
	}
	return routes.loginAt(q.Domain, hop)
}

// loginAt is the login at a hop, or at that of a domain's route where the hop is empty; nil: there is none.
func (t *routeTable) loginAt(domain, hop string) *remote.Login {
	if hop == "" {
		return t.route(strings.ToLower(domain)).link.Login
	}
	if to, ok := t.named[hop]; ok {
		return to.link.Login
	}
	return t.links[hop].Login
}
