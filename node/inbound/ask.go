package inbound

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/login"
	"relay/node/replica"
	"relay/smtp"
	"relay/smtp/printable"
	"relay/smtp/sasl"
)

// These are the answers of the commands besides mail.
var (
	replyNotConfigured = &smtp.Reply{
		Code: 459, Enhanced: "5.7.1", Text: "Node not allowed: there is no route of its own for this domain",
		Reason: "no_route",
	}
	replyNoNode  = &smtp.Reply{Code: 459, Enhanced: "5.5.4", Text: "Node not known", Reason: "no_route"}
	replyNoList  = &smtp.Reply{Code: 550, Enhanced: "5.1.1", Text: "No such list here", Reason: "unknown_user"}
	replyNotOurs = &smtp.Reply{Code: 252, Enhanced: "2.1.5", Text: "Cannot VRFY, but will take a message and try"}
)

// Verify implements smtp.Verifier: VRFY for addresses of local domains.
func (s *session) Verify(ctx context.Context, what string) (smtp.Member, error) {
	var m smtp.Member
	err := s.confirm.Confirm(ctx, func(v spool.View) error {
		address, err := directory.Qualify(v, what)
		if err != nil {
			return err
		}
		targets, local, err := directory.Resolve(v, address)
		switch {
		case err != nil:
			return err
		case !local:
			return replyNotOurs
		case len(targets) == 1:
			m = memberOf(targets[0])
		default: // a list is named by its own address
			m = smtp.Member{Address: directory.Canonical(address)}
		}
		return nil
	})
	return m, mapError(err)
}

// Expand implements smtp.Expander: EXPN shows where a local address leads.
func (s *session) Expand(ctx context.Context, list string) ([]smtp.Member, error) {
	var members []smtp.Member
	err := s.confirm.Confirm(ctx, func(v spool.View) error {
		address, err := directory.Qualify(v, list)
		if err != nil {
			return err
		}
		targets, local, err := directory.Resolve(v, address)
		switch {
		case errors.Is(err, directory.ErrNoUser), err == nil && !local:
			return replyNoList
		case err != nil:
			return err
		}
		for _, t := range targets {
			members = append(members, memberOf(t))
		}
		return nil
	})
	return members, mapError(err)
}

func memberOf(t directory.Target) smtp.Member {
	if t.Account == nil {
		return smtp.Member{Address: t.Recipient}
	}
	return smtp.Member{Name: printable.Text(t.Account.Name, 255), Address: t.Mailbox}
}

// starts remembers for which domains a queue run was asked for lately: reading
// the queue is not for free, and ETRN needs no password.
type starts struct {
	mu   sync.Mutex
	last map[string]time.Time
}

const (
	startEvery = 30 * time.Second
	startsMost = 10000 // messages one ETRN makes due
)

func newStarts() *starts { return &starts{last: map[string]time.Time{}} }

// begin reports whether a run for a domain may begin now.
func (s *starts) begin(domain string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, at := range s.last {
		if now.Sub(at) >= startEvery {
			delete(s.last, name)
		}
	}
	if _, lately := s.last[domain]; lately {
		return false
	}
	s.last[domain] = now
	return true
}

// StartQueue implements smtp.Starter, ETRN of RFC 1985: mail that was deferred for a domain
// becomes due at all nodes. It is for domains with a route of their own, which is where the mail
// goes, whoever asks.
//
// ETRN needs no login: it works for domains with a route of their own, where the mail goes whoever
// asks, at most twice a minute, and does not release what FUTURERELEASE holds.
func (s *session) StartQueue(ctx context.Context, node string) (int, error) {
	domain := directory.ASCIIDomain(strings.TrimPrefix(node, "@"))
	if strings.HasPrefix(node, "#") || domain == "" {
		return 0, replyNoNode
	}
	ids, err := s.deferredFor(ctx, domain, strings.HasPrefix(node, "@"))
	if err != nil {
		return 0, mapError(err)
	}
	count := 0
	for name, list := range ids {
		n, err := s.retry(ctx, name, list)
		if err != nil {
			return 0, err
		}
		count += n
	}
	return count, nil
}

// deferredFor finds the messages that wait, by domain.
func (s *session) deferredFor(ctx context.Context, domain string, below bool) (map[string][][]byte, error) {
	found := map[string][][]byte{}
	err := s.confirm.Confirm(ctx, func(v spool.View) error {
		route, ok, err := v.Route(domain)
		if err != nil {
			return err
		}
		if !ok || route.Domain == "*" {
			return replyNotConfigured
		}
		waits := map[string]bool{}
		list, err := v.Destinations()
		for _, d := range list {
			if d.State == pb.State_DEFERRED && d.Count > 0 &&
				(d.Domain == domain || below && strings.HasSuffix(d.Domain, "."+domain)) {
				waits[d.Domain] = true
			}
		}
		if err != nil || len(waits) == 0 || !s.starts.begin(domain, time.Now()) {
			return err
		}
		n := 0
		return v.Queue(spool.ID{}, func(id spool.ID, _ uint32, r *pb.Recipient) bool {
			name := spool.DomainOf(r.Address)
			if r.State != pb.State_DEFERRED || !waits[name] {
				return true
			}
			if have := found[name]; len(have) == 0 || string(have[len(have)-1]) != string(id[:]) {
				found[name] = append(have, append([]byte(nil), id[:]...))
				n++
			}
			return n < startsMost
		})
	})
	return found, err
}

func (s *session) retry(ctx context.Context, domain string, ids [][]byte) (int, error) {
	const batch = 1000
	count := 0
	for len(ids) > 0 {
		part := ids[:min(len(ids), batch)]
		ids = ids[len(part):]
		res, err := replica.Propose(ctx, s.replica, spool.KindManage, &pb.Manage{
			Admin:  &pb.Admin{Who: "ETRN", Why: printable.Text(s.peer.Remote.String(), 255), Node: s.mail.node},
			Action: pb.Action_RETRY, Ids: part, Domain: domain,
		})
		if err != nil {
			return count, err
		}
		count += int(res.Count)
	}
	s.log.Info("queue run asked for", zap.String("domain", domain), zap.Int("recipients", count),
		zap.String("session", s.peer.Session))
	return count, nil
}

// ScramKeys implements smtp.ScramAuthenticator.
func (s *session) ScramKeys(ctx context.Context, user string) (*sasl.Keys, error) {
	s.account, s.scram = nil, nil
	if err := s.throttled(ctx, user); err != nil {
		return nil, err
	}
	account, err := login.LookupAccount(s.replica, directory.Canonical(user))
	if err != nil {
		return nil, err
	}
	if account.GetScram() != nil && !account.Disabled {
		s.scram = account
	}
	return login.ScramKeysOf(s.replica, user)
}

// Disproven implements smtp.ScramAuthenticator.
func (s *session) Disproven(ctx context.Context, user string, told *sasl.Keys) error {
	s.scram = nil
	err := s.logins.Disproven(ctx, user, told)
	if err != nil {
		s.throttle.Dropped(s.peer.Session)
		return err
	}
	s.throttle.Failed(s.peer.Session)
	return smtp.ErrCredentials
}

// SameAccount implements smtp.Authenticator.
func (s *session) SameAccount(_ context.Context, one, other string) bool {
	return login.SameAccount(s.replica, one, other)
}
