package inbound

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go.uber.org/zap"

	"relay/cluster/spool"
	"relay/node/directory"
	"relay/node/plan"
	"relay/node/srs"
	"relay/smtp"
	"relay/smtp/mailaddr"
)

// Rcpt implements smtp.Session.
func (s *session) Rcpt(ctx context.Context, to string, o *smtp.RcptOptions) error {
	r := plan.Recipient{Address: to}
	if o != nil {
		r.Notify, r.Original = o.Notify, o.ORCPT
	}
	if err := s.checkForm(to); err != nil {
		return mapError(err)
	}
	asked := false
	err := s.confirm.Confirm(ctx, func(v spool.View) (err error) {
		if r.Address, err = s.qualify(v, to); err != nil {
			return err
		}
		if err = s.bounceOnly(v, r.Address); err != nil {
			return err
		}
		targets, local, err := directory.Resolve(v, r.Address)
		if err != nil {
			return err
		}
		listed := false
		if !local {
			if asked, listed, err = s.routedTo(v, r.Address); err != nil {
				return err
			}
		}
		if !local && !asked && !listed && !s.privileged() {
			return replyNoRelay
		}
		r.Targets = targets
		if err := r.Keep(v); err != nil {
			return err
		}
		if len(s.env.rcpts) > 0 && s.env.weight+s.weigh(&r) > plan.MaxWeight {
			return replyWide
		}
		if err := s.mayStillSend(v); err != nil {
			return err
		}
		return s.checkQuota(v, targets)
	})
	if errors.Is(err, directory.ErrNoUser) && s.bounce && s.who() != nil && s.env.sender != "" {
		r.Unknown, err = true, nil
	}
	if err != nil {
		return mapError(err)
	}
	if err := s.screenRecipient(ctx, r.Address, asked); err != nil {
		return mapError(err)
	}
	s.env.rcpts = append(s.env.rcpts, r)
	s.env.weight += s.weigh(&r)
	return nil
}

// bounceOnly refuses a stranger's mail to a return address of ours unless it is a bounce: who has seen one could send
// through it to the address that it stands for, as long as it lives.
func (s *session) bounceOnly(v spool.View, to string) error {
	if s.env.sender == "" || !srs.Is(to) || s.privileged() {
		return nil
	}
	returns, err := directory.Returns(v, to)
	if err == nil && returns {
		err = replyBounceOnly
	}
	return err
}

// screenRecipient asks those who may refuse a recipient that the directory lets pass; asked: the host that its
// domain is routed to is one of them.
func (s *session) screenRecipient(ctx context.Context, to string, asked bool) error {
	if err := s.admit(ctx, to); err != nil {
		return err
	}
	if err := s.greylisted(ctx, to); err != nil {
		return err
	}
	if asked {
		if err := s.askHost(ctx, to); err != nil {
			return err
		}
	}
	return s.env.filter.Rcpt(ctx, to, nil)
}

// routedTo says by what a recipient is known whose domain is routed to a host of its own. asked: that host is to be
// asked for a stranger's recipient; listed: it is on the domain's list, and on a list that has it not nobody gets mail.
// Then anyone may send to it. It holds for the route's own domain, and not for those below.
func (s *session) routedTo(v spool.View, address string) (asked, listed bool, err error) {
	if s.privileged() && s.listing != nil && !s.listing() {
		return false, false, nil
	}
	local, domain := directory.SplitAddress(address)
	route, ok, err := v.RouteTo(domain, "", "")
	switch {
	case err != nil || !ok:
		return false, false, err
	case route.Recipients != "":
		if listed, err = directory.Listed(v, domain, local); err == nil && !listed {
			err = fmt.Errorf("%w: %s", directory.ErrNoUser, address)
		}
		return false, listed, err
	}
	return route.Callout && s.callout != nil && !s.privileged(), false, nil
}

// askHost asks the host of a recipient's route for it.
func (s *session) askHost(ctx context.Context, address string) error {
	err := s.callout(ctx, address)
	if no, ok := errors.AsType[*smtp.Reply](err); ok {
		said := *no
		said.Reason = "callout"
		return &said
	}
	return err
}

// qualify completes a recipient's address: a bare local part, and one at an
// address literal that is ours, which is at home in the default domain (RFC 5321
// §4.5.1 wants postmaster there).
func (s *session) qualify(v spool.View, to string) (string, error) {
	local, domain := mailaddr.Split(to)
	if strings.HasPrefix(domain, "[") && s.ownLiteral(domain) {
		if whole, err := directory.Qualify(v, local); !errors.Is(err, directory.ErrNoDomain) {
			return whole, err
		}
	}
	return directory.Qualify(v, to)
}

// ownLiteral reports whether an address literal (RFC 5321 §4.1.3) is an address
// of this machine: the one that the client has connected to, or another.
func (s *session) ownLiteral(domain string) bool {
	text := strings.Trim(domain, "[]")
	if len(text) > 5 && strings.EqualFold(text[:5], "IPv6:") {
		text = text[5:]
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return false
	}
	a = a.Unmap()
	if a == s.peer.Local.Addr().Unmap() {
		return true
	}
	if s.own == nil {
		return false
	}
	all, err := s.own()
	if err != nil {
		s.log.Debug("cannot list the addresses of this machine", zap.Error(err))
	}
	return slices.Contains(all, a)
}

// checkForm refuses a recipient for its form alone, whatever the directory says.
func (s *session) checkForm(to string) error {
	switch {
	case s.privileged():
		return nil
	case !strings.Contains(to, "@") && !strings.EqualFold(to, "postmaster"):
		return directory.ErrNoDomain
	case hasSourceRoute(to):
		return replyNoRelay
	}
	return nil
}

// hasSourceRoute finds routing hidden in a local part: percent hack, bang path or a
// second @ in quotes.
func hasSourceRoute(address string) bool {
	local, _ := directory.SplitAddress(address)
	return strings.ContainsAny(local, "%!@")
}

func (s *session) weigh(r *plan.Recipient) int {
	return r.Weight(s.env.sender, s.env.options.HoldUntilMs > 0)
}

// mayStillSend is an early look at the daily limit; Accept is what counts.
func (s *session) mayStillSend(v spool.View) error {
	a := s.who()
	if a == nil || a.SendLimitDay == 0 {
		return nil
	}
	spent, err := v.Spent(a.Address, s.replica.Now().UnixMilli())
	if err == nil && spent+uint64(len(s.env.rcpts)) >= a.SendLimitDay {
		return replySpent
	}
	return err
}

// checkQuota checks quotas, with the size that MAIL announced (RFC 1870 §6.1) where it
// did. Apply sees to mail that comes in meanwhile, or is larger than announced.
func (s *session) checkQuota(v spool.View, targets []directory.Target) error {
	for _, t := range targets {
		a := t.Account
		if a == nil || a.QuotaBytes == 0 && a.QuotaMessages == 0 {
			continue
		}
		box, _, err := v.Mailbox(a.Address)
		if err != nil {
			return err
		}
		if a.QuotaMessages > 0 && box.Messages >= a.QuotaMessages ||
			a.QuotaBytes > 0 && (box.Bytes >= a.QuotaBytes || box.Bytes+s.env.announced > a.QuotaBytes) {
			return replyQuota
		}
	}
	return nil
}
