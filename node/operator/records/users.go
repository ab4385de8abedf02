package records

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/login"
	"relay/node/wording"
	"relay/smtp/printable"
)

// Users implements admin.Users.
func (rs *Records) Users(_ context.Context, domain string) ([]admin.User, error) {
	if domain != "" {
		var err error
		if domain, err = domainName(domain); err != nil {
			return nil, err
		}
	}
	all := []admin.User{}
	err := rs.replica.View(func(v spool.View) error {
		accounts, err := v.Accounts()
		if err != nil {
			return err
		}
		for _, a := range accounts {
			if domain != "" && spool.DomainOf(a.Address) != domain {
				continue
			}
			u, err := userOf(v, a)
			if err != nil {
				return err
			}
			all = append(all, u)
		}
		return nil
	})
	return all, err
}

// userOf is an account as the API shows it.
func userOf(v spool.View, a *pb.Account) (admin.User, error) {
	box, _, err := v.Mailbox(a.Address)
	return admin.User{
		Address: a.Address, Name: a.Name, Disabled: a.Disabled, Created: admin.AtMs(a.CreatedMs),
		QuotaBytes: a.QuotaBytes, QuotaMessages: a.QuotaMessages, Shared: a.Shared,
		Senders: append([]string{}, a.Senders...), SendLimitDay: a.SendLimitDay,
		Retention: a.RetentionMs / 1000, LoginDelay: a.LoginDelayMs / 1000,
		Messages: box.GetMessages(), Bytes: box.GetBytes(), Aliases: []string{},
	}, err
}

// User implements admin.Users.
func (rs *Records) User(_ context.Context, address string) (*admin.User, error) {
	address, err := rs.Address(address)
	if err != nil {
		return nil, err
	}
	var u admin.User
	err = rs.replica.View(func(v spool.View) error {
		a, ok, err := v.Account(address)
		if err != nil {
			return err
		}
		if !ok {
			return admin.NotFound("user", address)
		}
		if u, err = userOf(v, a); err != nil {
			return err
		}
		u.Aliases, err = aliasesTo(v, address)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &u, nil
}

// aliasesTo lists the aliases that name an address.
func aliasesTo(v spool.View, address string) ([]string, error) {
	all, err := v.Aliases()
	names := []string{}
	for _, a := range all {
		if slices.Contains(a.Targets, address) {
			names = append(names, a.Address)
		}
	}
	return names, err
}

// AddUser implements admin.Users.
func (rs *Records) AddUser(ctx context.Context, by admin.By, u admin.UserAdd) error {
	address, err := rs.Address(u.Address)
	if err != nil {
		return err
	}
	a := &pb.Account{
		Address: address, Name: printable.Text(u.Name, MaxName), QuotaBytes: u.QuotaBytes, QuotaMessages: u.QuotaMessages,
	}
	switch {
	case u.Password != "" && u.PasswordHash != "":
		return errTwoSecrets()
	case u.PasswordHash != "":
		a.Password, err = importedHash(u.PasswordHash)
	default:
		a.Password, a.Scram, err = rs.newHash(u.Password)
	}
	if err != nil {
		return err
	}
	_, err = rs.edit.Do(ctx, by, spool.KindPutAccount, func(adm *pb.Admin) proto.Message {
		return &pb.PutAccount{Admin: adm, Account: a, Create: true}
	})
	return err
}

func errTwoSecrets() error {
	return admin.Invalid("give the password or its hash, not both")
}

// newHash makes the stored forms of a new password. Passwords are in no error
// and no log line.
func (rs *Records) newHash(password string) (string, *pb.ScramKeys, error) {
	switch {
	case password == "":
		return "", nil, admin.Invalid("the password is empty")
	case len(password) > 512:
		return "", nil, admin.Invalid("the password has %d octets, at most 512 are taken", len(password))
	case strings.ContainsAny(password, "\x00\r\n"):
		// POP3 and SASL PLAIN could never carry it.
		return "", nil, admin.Invalid("the password has a line end or a NUL in it")
	}
	keys, err := login.NewScramKeys(password)
	if err != nil {
		return "", nil, err
	}
	hash, err := rs.hashPassword(password)
	return hash, keys, err
}

// importedHash takes the hashes that logins can be checked against.
func importedHash(hash string) (string, error) {
	known := slices.ContainsFunc([]string{"$argon2id$", "$2a$", "$2b$", "$2y$"}, func(p string) bool {
		return strings.HasPrefix(hash, p)
	})
	if login.IsCrypt(hash) {
		if _, err := login.ParseCrypt(hash); err != nil {
			return "", admin.Invalid("%s", err)
		}
		known = true
	}
	if !known || len(hash) > 512 || hash != printable.Text(hash, 512) {
		return "", admin.Invalid("the password hash is of an unknown kind: give argon2id ($argon2id$…), bcrypt ($2b$…) or " +
			"crypt ($6$…, $5$…, $1$…)")
	}
	return hash, nil
}

// SetUser implements admin.Users.
func (rs *Records) SetUser(ctx context.Context, by admin.By, address string, u admin.UserSet) error {
	address, err := rs.Address(address)
	if err != nil {
		return err
	}
	change, err := rs.userChange(u)
	if err != nil {
		return err
	}
	var a *pb.Account
	return rs.edit.Update(ctx, by, spool.KindPutAccount, func(v spool.View) error {
		var there bool
		if a, there, err = v.Account(address); err == nil && !there {
			err = admin.NotFound("user", address)
		}
		if err == nil {
			change(a)
		}
		return err
	}, func(adm *pb.Admin) proto.Message {
		return &pb.PutAccount{Admin: adm, Account: a, Update: true, ExpectChanged: a.Changed}
	})
}

// userChange checks a UserSet and returns what it does to an account. The
// costly hash is made here, before anything is locked.
func (rs *Records) userChange(u admin.UserSet) (func(*pb.Account), error) {
	hash, keys, err := rs.setHash(u)
	if err != nil {
		return nil, err
	}
	var senders []string
	if u.Senders != nil {
		if len(*u.Senders) > maxTargets {
			return nil, admin.Invalid("a user has at most %d senders", maxTargets)
		}
		if senders, err = senderAddresses(*u.Senders); err != nil {
			return nil, err
		}
	}
	var retention, delay int64
	if u.Retention != nil {
		if retention, err = millis("retention_seconds", *u.Retention); err != nil {
			return nil, err
		}
	}
	if u.LoginDelay != nil {
		if delay, err = millis("login_delay_seconds", *u.LoginDelay); err != nil {
			return nil, err
		}
	}
	return func(a *pb.Account) {
		if hash != "" {
			a.Password, a.Scram = hash, keys
		}
		if u.Name != nil {
			a.Name = printable.Text(*u.Name, MaxName)
		}
		if u.Senders != nil {
			a.Senders = senders
		}
		if u.Retention != nil {
			a.RetentionMs = retention
		}
		if u.LoginDelay != nil {
			a.LoginDelayMs = delay
		}
		put(&a.Disabled, u.Disabled)
		put(&a.QuotaBytes, u.QuotaBytes)
		put(&a.QuotaMessages, u.QuotaMessages)
		put(&a.Shared, u.Shared)
		put(&a.SendLimitDay, u.SendLimitDay)
	}, nil
}

func put[T any](into *T, value *T) {
	if value != nil {
		*into = *value
	}
}

func (rs *Records) setHash(u admin.UserSet) (string, *pb.ScramKeys, error) {
	switch {
	case u.Password != nil && u.PasswordHash != nil:
		return "", nil, errTwoSecrets()
	case u.Password != nil:
		return rs.newHash(*u.Password)
	case u.PasswordHash != nil:
		hash, err := importedHash(*u.PasswordHash)
		return hash, nil, err
	}
	return "", nil, nil
}

// senderAddresses takes whole addresses, @domain for all of a domain, and * for
// every address.
func senderAddresses(list []string) ([]string, error) {
	all := make([]string, 0, len(list))
	for _, text := range list {
		var one string
		var err error
		domain, whole := strings.CutPrefix(strings.TrimSpace(text), "@")
		switch {
		case whole:
			one, err = domainName(domain)
			one = "@" + one
		case domain == "*":
			one = domain
		default:
			one, err = mailAddress(text, "")
		}
		if err != nil {
			return nil, err
		}
		if !slices.Contains(all, one) {
			all = append(all, one)
		}
	}
	return all, nil
}

// RemoveUser implements admin.Users.
func (rs *Records) RemoveUser(ctx context.Context, by admin.By, address string,
	opts admin.DropOptions) (*admin.Removed, error) {
	address, err := rs.Address(address)
	if err != nil {
		return nil, err
	}
	removed := &admin.Removed{DryRun: opts.DryRun, Name: address, Effects: []string{}}
	err = rs.replica.View(func(v spool.View) error { return userRemoval(v, address, removed) })
	if err != nil {
		if opts.DryRun || by.Request == "" || !errors.Is(err, admin.ErrNotFound) {
			return nil, err
		}
		// The account may be gone by this very request, sent before: the spool
		// remembers and answers.
	}
	if opts.DryRun {
		return removed, nil
	}
	res, err := rs.edit.Do(ctx, by, spool.KindDropAccount, func(adm *pb.Admin) proto.Message {
		return &pb.DropAccount{Admin: adm, Address: address}
	})
	if err != nil {
		return nil, err
	}
	removed.Messages = uint64(res.Count)
	return removed, nil
}

// userRemoval says what the removal of an account does.
func userRemoval(v spool.View, address string, r *admin.Removed) error {
	a, ok, err := v.Account(address)
	if err != nil {
		return err
	}
	if !ok {
		return admin.NotFound("user", address)
	}
	u, err := userOf(v, a)
	if err != nil {
		return err
	}
	r.Messages, r.Bytes = u.Messages, u.Bytes
	r.Effects = append(r.Effects,
		fmt.Sprintf("the account %s ends: it can not log in any more, and mail to it is refused", address),
		fmt.Sprintf("its mailbox goes with %s (%s)", wording.Counted(u.Messages, "message"), wording.Counted(u.Bytes,
			"byte")))
	if lock, held, err := v.Lock(address); err != nil {
		return err
	} else if held {
		r.Effects = append(r.Effects, fmt.Sprintf("the POP3 session from %s on node %s is cut", lock.Remote, lock.Node))
	}
	aliases, err := aliasesTo(v, address)
	if len(aliases) > 0 {
		r.Effects = append(r.Effects,
			fmt.Sprintf("%s still lead to it: %s", wording.Counted(uint64(len(aliases)), "alias"), wording.Some(aliases, 5)))
	}
	return err
}
