// Package directory follows addresses through the replicated directory: accounts,
// subaddresses, aliases, lists and catch-alls. It only reads.
package directory

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/srs"
	"relay/smtp/mailaddr"
)

// maxExpansion bounds the addresses one recipient may expand to, and MaxDepth
// how deep aliases may nest.
const (
	maxExpansion = 10000
	MaxDepth     = 20
)

// Permanent refusals of Resolve and Qualify. All may come wrapped.
const (
	ErrNoUser     = refusal("no such user")
	ErrAliasLoop  = refusal("alias loops back to itself")
	ErrAliasLarge = refusal("alias expands to too many addresses")
	ErrDisabled   = refusal("account is disabled")
	ErrNoDomain   = refusal("address has no domain")
)

// refusal is an error that stays until somebody changes the directory.
type refusal string

func (r refusal) Error() string   { return string(r) }
func (r refusal) Permanent() bool { return true }

// Target is where one address leads: a mailbox here, or a remote address.
type Target struct {
	Mailbox   string // account address; empty for a remote recipient
	Recipient string // the address as it was expanded to
	Owner     string // reverse-path that list mail gets; empty: the sender's
	Account   *pb.Account
}

// SplitAddress cuts an address at its last @, and brings both parts into the
// form in which they are compared: the local part composed (RFC 6532 §3.1), the
// domain as DNS has it (RFC 6531 §3.2: mail to a U-label is mail to its A-label).
func SplitAddress(address string) (local, domain string) {
	i := strings.LastIndexByte(address, '@')
	if i < 0 {
		return composed(address), ""
	}
	return composed(address[:i]), ASCIIDomain(address[i+1:])
}

func composed(s string) string {
	if mailaddr.IsASCII(s) {
		return s
	}
	return norm.NFC.String(s)
}

// ASCIIDomain is a domain in lower case and A-labels. What IDNA does not know
// stays as it is, and is found nowhere.
func ASCIIDomain(domain string) string {
	if !mailaddr.IsASCII(domain) {
		if a, err := idna.Lookup.ToASCII(norm.NFC.String(domain)); err == nil {
			return a
		}
	}
	return strings.ToLower(domain)
}

// Canonical is an address as the directory keeps it.
func Canonical(address string) string {
	local, domain := SplitAddress(address)
	if domain == "" {
		return strings.ToLower(local)
	}
	return strings.ToLower(local) + "@" + domain
}

// Qualify completes a bare local part with the default domain.
func Qualify(v spool.View, address string) (string, error) {
	if strings.IndexByte(address, '@') >= 0 {
		return address, nil
	}
	s, err := v.Settings()
	if err != nil {
		return "", err
	}
	if s.DefaultDomain == "" {
		return "", ErrNoDomain
	}
	return address + "@" + s.DefaultDomain, nil
}

// Resolve follows an address through accounts, subaddresses, aliases and
// catch-alls. A remote address resolves to itself; local is false then.
func Resolve(v spool.View, address string) (targets []Target, local bool, err error) {
	x := &expansion{view: v, seen: map[string]bool{}, open: map[string]bool{}}
	_, domain := SplitAddress(address)
	if domain == "" {
		return nil, false, ErrNoDomain
	}
	if _, local, err = v.Domain(domain); err != nil {
		return nil, false, err
	}
	if err = x.add(address, "", 0); err != nil {
		return nil, local, err
	}
	return x.targets, local, nil
}

// expansion collects the targets of one address, each once.
type expansion struct {
	view    spool.View
	seen    map[string]bool // addresses met, mailboxes with a leading 'm'
	open    map[string]bool // aliases that are just being followed
	targets []Target
	refusal error // why a member was left out; counts where nobody else is left
}

func (x *expansion) put(key string, t Target) error {
	if x.seen[key] {
		return nil
	}
	x.seen[key] = true
	if len(x.targets) >= maxExpansion {
		return ErrAliasLarge
	}
	x.targets = append(x.targets, t)
	return nil
}

func (x *expansion) add(address, owner string, depth int) error {
	if depth > MaxDepth {
		return ErrAliasLoop
	}
	local, domain := SplitAddress(address)
	d, ours, err := x.view.Domain(domain)
	if err != nil {
		return err
	}
	if !ours {
		return x.put(local+"@"+domain, Target{Recipient: local + "@" + domain, Owner: owner})
	}
	lower := strings.ToLower(local)
	for _, name := range candidates(lower) {
		done, err := x.lookup(name+"@"+domain, address, owner, depth)
		if done || err != nil {
			return err
		}
	}
	if srs.Is(local) {
		return x.reverse(local, owner, depth)
	}
	if lower == "postmaster" {
		// RFC 5321 §4.5.1: it must be there; the holder of the default domain's has that of
		// all domains.
		if done, err := x.postmaster(domain, owner, depth); done || err != nil {
			return err
		}
	}
	if d.CatchAll != "" && !strings.EqualFold(d.CatchAll, address) {
		return x.add(d.CatchAll, owner, depth+1)
	}
	return fmt.Errorf("%w: %s", ErrNoUser, address)
}

// reverse puts in where a bounce of forwarded mail goes. An address that was not made here goes to no catch-all.
func (x *expansion) reverse(local, owner string, depth int) error {
	s, err := Rewriting(x.view)
	if err != nil {
		return err
	}
	clock, err := x.view.Clock()
	if err != nil {
		return err
	}
	to, err := s.Reverse(local, time.UnixMilli(clock))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoUser, err)
	}
	return x.add(to, owner, depth+1)
}

// Returns reports whether an address is a return address of ours by its form: at home here, and no account's or
// alias's.
func Returns(v spool.View, address string) (bool, error) {
	local, domain := SplitAddress(address)
	if !srs.Is(local) {
		return false, nil
	}
	if _, ours, err := v.Domain(domain); err != nil || !ours {
		return false, err
	}
	for _, name := range candidates(strings.ToLower(local)) {
		if _, taken, err := v.Alias(name + "@" + domain); err != nil || taken {
			return false, err
		}
		if _, taken, err := v.Account(name + "@" + domain); err != nil || taken {
			return false, err
		}
	}
	return true, nil
}

// Rewriting is how the cluster rewrites reverse-paths of what aliases lead elsewhere. It leads back also where that is
// off by now.
func Rewriting(v spool.View) (*srs.Scheme, error) {
	c, _, err := v.Cluster()
	if err != nil {
		return nil, err
	}
	s, err := v.Settings()
	if err != nil {
		return nil, err
	}
	return &srs.Scheme{Secret: c.GetSecret(), Generation: s.GetSrsGeneration(), Domain: s.GetSrsDomain()}, nil
}

// Sender is the reverse-path of a message that an alias leads elsewhere: rewritten where the cluster does so, and the
// sender is not at home here, where SPF knows us. It stays where the domain of return addresses is not local any more:
// bounces would not come in.
func Sender(v spool.View, sender string, now time.Time) (string, error) {
	settings, err := v.Settings()
	if err != nil || settings.SrsDomain == "" || sender == "" {
		return sender, err
	}
	if _, local, err := v.Domain(settings.SrsDomain); err != nil || !local {
		return sender, err
	}
	s, err := Rewriting(v)
	if err != nil {
		return sender, err
	}
	_, domain := SplitAddress(sender)
	if _, ours, err := v.Domain(domain); err != nil || ours {
		return sender, err
	}
	return s.Forward(sender, now), nil
}

// postmaster looks for that of the default domain.
func (x *expansion) postmaster(not, owner string, depth int) (bool, error) {
	s, err := x.view.Settings()
	if err != nil || s.DefaultDomain == "" || s.DefaultDomain == not {
		return err != nil, err
	}
	name := "postmaster@" + s.DefaultDomain
	return x.lookup(name, name, owner, depth+1)
}

// candidates are the local parts to look for: the whole, then without the
// subaddress (user+tag, RFC 5233).
func candidates(local string) []string {
	if user, _, tagged := strings.Cut(local, "+"); tagged && user != "" {
		return []string{local, user}
	}
	return []string{local}
}

// Listed reports whether the list of a routed domain has a local part, or what is before its tag.
func Listed(v spool.View, domain, local string) (bool, error) {
	for _, name := range candidates(strings.ToLower(local)) {
		if ok, err := v.Listed(domain, name); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// lookup puts in what a local name leads to; false where there is no such name.
// An alias goes before the account of its name, whose mailbox it reaches by
// naming itself.
func (x *expansion) lookup(name, address, owner string, depth int) (bool, error) {
	al, aliased, err := x.view.Alias(name)
	if err != nil {
		return true, err
	}
	if aliased && !x.seen[name] {
		return true, x.follow(al, name, owner, depth)
	}
	if aliased && !x.open[name] {
		return true, nil // met on another branch: its members are in already
	}
	done, err := x.mailbox(name, address, owner, depth)
	return done || aliased, err
}

// mailbox puts in the mailbox of an account.
func (x *expansion) mailbox(name, address, owner string, depth int) (bool, error) {
	a, ok, err := x.view.Account(name)
	switch {
	case err != nil || !ok:
		return err != nil, err
	case !a.Disabled:
		return true, x.put("m"+name, Target{Mailbox: name, Recipient: address, Owner: owner, Account: a})
	case depth == 0:
		return true, ErrDisabled
	}
	x.refusal = ErrDisabled
	return true, nil // a list goes on without a member who is gone
}

// owner is who gets the bounces of what an alias sends on: as it says, else who
// has the name that lists' owners have had since Sendmail, owner-list for list.
func (x *expansion) owner(al *pb.Alias, name string) (string, error) {
	if al.Owner != "" || strings.HasPrefix(name, ownerPrefix) {
		return al.Owner, nil
	}
	_, aliased, err := x.view.Alias(ownerPrefix + name)
	if err == nil && !aliased {
		_, aliased, err = x.view.Account(ownerPrefix + name)
	}
	if err != nil || !aliased {
		return "", err
	}
	return ownerPrefix + name, nil
}

const ownerPrefix = "owner-"

// follow puts in what an alias leads to.
func (x *expansion) follow(al *pb.Alias, name, owner string, depth int) error {
	x.seen[name], x.open[name] = true, true
	defer delete(x.open, name)
	if own, err := x.owner(al, name); err != nil {
		return err
	} else if own != "" {
		owner = own
	}
	for _, to := range al.Targets {
		to, err := Qualify(x.view, to)
		if err != nil {
			return err
		}
		err = x.add(to, owner, depth+1)
		switch {
		case errors.Is(err, ErrNoUser):
			x.refusal = err
		case err != nil:
			return err
		}
	}
	if depth == 0 && len(x.targets) == 0 {
		if x.refusal != nil {
			return x.refusal
		}
		return ErrAliasLoop
	}
	return nil
}
