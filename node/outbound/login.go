package outbound

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/queue/remote"
)

// loginKey says when a route's login is still the one that it was: a new password, even if it is the same, is a new
// login, which is tried at once.
type loginKey struct {
	domain, target, user, sealed string
	oauth                        bool
}

// certKey says it of a route's certificate.
type certKey struct{ domain, target, cert, sealed string }

// cert returns the certificate of a route, as login does its login.
func (o *Spool) cert(r *pb.Route, all map[certKey]*remote.Cert) *remote.Cert {
	if r.ClientCert == "" {
		return nil
	}
	k := certKey{r.Domain, r.Target, r.ClientCert, string(r.ClientKey)}
	c := o.certs[k]
	if c == nil {
		about := directory.RouteKeySecret(r)
		c = remote.NewCert(r.Domain, r.ClientCert, func(ctx context.Context) ([]byte, error) {
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
	k := loginKey{r.Domain, r.Target, r.User, string(r.Password), r.Oauth}
	l := o.logins[k]
	if l == nil && r.Oauth {
		about := directory.RouteSecret(r)
		l = remote.NewTokenLogin(r.Domain, r.User, func(ctx context.Context) ([]byte, error) {
			return o.replica.Unseal(ctx, r.Password, about)
		})
	} else if l == nil {
		about := directory.RouteSecret(r)
		l = remote.NewLogin(r.Domain, r.User, func(ctx context.Context) (string, error) {
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

// retried returns the login of mail that an operator retries: it was tried before, and is due now. nil: there is none.
func (o *Spool) retried(q *spool.Queued) *remote.Login {
	routes := o.routes.Load()
	if q.Attempts == 0 || q.State == pb.State_HELD || q.State == pb.State_SUSPENDED || routes == nil || !routes.logins ||
		q.NextMs > o.replica.Now().UnixMilli() {
		return nil
	}
	if q.Route == "" {
		return routes.route(strings.ToLower(q.Domain)).link.Login
	}
	if to, ok := routes.named[q.Route]; ok {
		return to.link.Login
	}
	return routes.links[q.Route].Login
}
