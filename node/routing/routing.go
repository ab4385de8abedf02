// Package routing says which route the mail of a sender takes to a recipient's domain.
package routing

import (
	"strings"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/srs"
)

// Null is the null path, as routes name it.
const Null = "<>"

// Mail is what routes look at beside the domain of the recipient.
type Mail struct {
	// Sender is the reverse-path as routes name it. Empty: the message is a stranger's, and whatever it says of its
	// sender does not count.
	Sender string
	Login  string // the account that has handed it in; empty: none has
}

// Of is a message as routes see it. The sender counts where somebody known has handed it in, and of our own reports; a
// stranger who forges one gets his mail no way that it would not go otherwise, least of all by somebody's login. Nor
// does a return address (SRS) count, which stands for a stranger's in what an alias has led elsewhere.
func Of(m *pb.Message) Mail {
	mail := Mail{}
	if user := m.GetClient().GetUser(); user != "" {
		mail.Login = directory.Canonical(user)
	}
	switch {
	case !m.GetOurs() && len(m.GetBounceOf()) == 0:
	case srs.Is(m.Sender): // it stands for a stranger's, whose forwarded mail has no part in our senders' routes
	case m.Sender == "":
		mail.Sender = Null
	default:
		mail.Sender = directory.Canonical(m.Sender)
	}
	return mail
}

// Key names a route among all.
type Key struct{ Domain, From, Login string }

// KeyOf is the key of a route.
func KeyOf(r *pb.Route) Key { return Key{r.GetDomain(), r.GetFrom(), r.GetLogin()} }

// Plain reports whether a route is for all senders.
func (k Key) Plain() bool { return k.From == "" && k.Login == "" }

// String names a route as operators do.
func (k Key) String() string {
	text := k.Domain
	if k.From != "" {
		text += " from " + k.From
	}
	if k.Login != "" {
		text += " login " + k.Login
	}
	return text
}

// Find returns the route that get has for mail to a domain: of the most specific domain that has one for it; there the
// one of the account, then the one of the sender's address, of the sender's domain, and at last that for all. A route
// of account and sender comes before one of the account alone.
func Find[T any](domain string, m Mail, get func(Key) (T, bool, error)) (found T, ok bool, err error) {
	senders := []string{""}
	if at := strings.LastIndexByte(m.Sender, '@'); at >= 0 {
		senders = []string{m.Sender, m.Sender[at:], ""}
	} else if m.Sender != "" {
		senders = []string{m.Sender, ""}
	}
	logins := []string{""}
	if m.Login != "" {
		logins = []string{m.Login, ""}
	}
	for name := range spool.RouteNames(domain) {
		for _, login := range logins {
			for _, from := range senders {
				if found, ok, err = get(Key{name, from, login}); ok || err != nil {
					return found, ok, err
				}
			}
		}
	}
	return found, false, nil
}

// In finds the route of a view; false where the mail goes by MX because nothing else is said.
func In(v spool.View, domain string, m Mail) (*pb.Route, bool, error) {
	return Find(domain, m, func(k Key) (*pb.Route, bool, error) { return v.RouteTo(k.Domain, k.From, k.Login) })
}
