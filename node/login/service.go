// Package login judges logins for all protocols: passwords of every stored kind, proofs
// by SCRAM, and the throttle that slows down networks and accounts whose logins fail.
package login

import (
	"context"
	"errors"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/replica"
	"relay/smtp/sasl"
)

// Service judges logins of all protocols: SMTP AUTH, POP3 PASS and AUTH, POP2
// and XCLIENT. A login is refused for good only when the replica is known to be up
// to date; see replica.Confirmer. Its methods may be called concurrently.
type Service struct {
	*passwords
	replica replica.Replica
	confirm *replica.Confirmer
}

// NewService makes the login service of a node. HashNew makes the stored form of a password
// whose hash is of an older kind; a node gives HashPassword, a test cheaper Argon parameters.
func NewService(r replica.Replica, confirm *replica.Confirmer,
	hashNew func(secret string) (string, error)) (*Service, error) {
	p, err := newPasswords(hashNew)
	return &Service{p, r, confirm}, err
}

// Account finds the account that user names and that suits, on an up-to-date
// replica before it says that there is none: then it is nil, and so is the error.
func (s *Service) Account(ctx context.Context, user string, suits func(*pb.Account) bool) (*pb.Account, error) {
	find := func() (*pb.Account, error) {
		a, err := LookupAccount(s.replica, user)
		if err != nil || a == nil || !suits(a) {
			return nil, err
		}
		return a, nil
	}
	a, err := find()
	if a != nil || err != nil {
		return a, err
	}
	if err := s.confirm.CatchUp(ctx); err != nil {
		return nil, err
	}
	if a, err = find(); a != nil {
		s.confirm.Stats.Wrong.Add(1)
	}
	return a, err
}

// Password verifies a password against the account that user names, and where it is
// wrong, against that account as it is now: it may be new, enabled, or have got
// that password a moment ago. It takes as long for a user who is not there. The
// account is of use where the verdict is right. See passwords.login for what costs no hashing.
func (s *Service) Password(ctx context.Context, try Attempt) (*pb.Account, Verdict, error) {
	account, err := LookupAccount(s.replica, directory.Canonical(try.User))
	if err != nil {
		return nil, Wrong, err
	}
	v, err := s.passwords.login(ctx, try, account)
	if err != nil || v == Right {
		return account, v, err
	}
	if err := s.confirm.CatchUp(ctx); err != nil {
		s.passwords.forget(try, account) // it is not counted, so the next one is the first
		return nil, Wrong, err
	}
	now, err := LookupAccount(s.replica, directory.Canonical(try.User))
	if err != nil || unchanged(account, now) {
		return account, v, err
	}
	if v, err = s.passwords.login(ctx, try, now); v == Right {
		s.confirm.Stats.Wrong.Add(1)
	}
	return now, v, err
}

// unchanged reports whether an account has not changed between two looks.
func unchanged(a, b *pb.Account) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Address == b.Address && a.Changed == b.Changed
}

// Disproven judges a proof by SCRAM that did not fit the keys that user was told:
// nil where they are the user's keys still, so that the proof was wrong. Others
// can't be checked by it: the client has to begin anew.
func (s *Service) Disproven(ctx context.Context, user string, told *sasl.Keys) error {
	if err := s.confirm.CatchUp(ctx); err != nil {
		return err
	}
	now, err := ScramKeysOf(s.replica, user)
	if err != nil {
		return err
	}
	if string(now.Salt) != string(told.Salt) || string(now.StoredKey) != string(told.StoredKey) {
		s.confirm.Stats.Wrong.Add(1)
		return replica.ErrOutdated
	}
	return nil
}

// LookupAccount finds an account by its whole address or, in the default
// domain, by its local part; nil where there is none.
func LookupAccount(r replica.Replica, user string) (*pb.Account, error) {
	var account *pb.Account
	err := r.View(func(v spool.View) error {
		address, err := loginName(v, user)
		if err != nil {
			return ignoreNoDomain(err)
		}
		a, ok, err := v.Account(address)
		if ok {
			account = a
		}
		return err
	})
	return account, err
}

func ignoreNoDomain(err error) error {
	if errors.Is(err, directory.ErrNoDomain) {
		return nil
	}
	return err
}
