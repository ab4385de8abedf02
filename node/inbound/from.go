package inbound

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/mailheader"
	"relay/node/replica"
	"relay/smtp"
	"relay/smtp/printable"
)

// fromStats count messages of accounts with another's address in From.
type fromStats struct{ refused, unsigned atomic.Int64 }

// fromCheck holds a message of an account to the addresses that are its own.
//
// 2026-11-29: whose signature. Whether the author is the account's is judged at intake, where it can
// still be told to the client, and kept in Message.ours, by which mail is signed: no new field. fields
// reads From unfolded; net/mail reads the addresses, strictly: another program may read an address
// that it can't read as anybody. Without a From the sender counts, which was judged at MAIL. New
// clusters begin with a PutSettings that says refuse; an absent setting means unsigned, so an upgrade
// stops nobody's mail. Rejected: to judge at each delivery (an address that an account had when it
// sent would count no more).
type fromCheck struct {
	confirm *replica.Confirmer
	account *pb.Account
	stats   *fromStats
}

// judge looks whose address stands in From. It returns whether the message may
// be signed, or its refusal. Nil judges nothing.
func (c *fromCheck) judge(ctx context.Context, header []byte) (signed bool, err error) {
	if c == nil {
		return true, nil
	}
	list, absent, unreadable := mailheader.Authors(header)
	mode, foreign := pb.FromCheck_FROM_DEFAULT, ""
	err = c.confirm.Confirm(ctx, func(v spool.View) error {
		s, err := v.Settings()
		if err != nil {
			return err
		}
		if mode, foreign = s.FromCheck, ""; mode == pb.FromCheck_FROM_OFF || absent {
			return nil // the sender, whose address was judged at MAIL, is the author where nobody is named
		}
		if foreign, err = c.foreign(v, list, unreadable); err == nil && foreign != "" && mode == pb.FromCheck_FROM_REFUSE {
			return &smtp.Reply{Code: 550, Enhanced: "5.7.1", Text: foreign}
		}
		return err
	})
	switch {
	case err != nil && replica.Permanent(err):
		c.stats.refused.Add(1)
	case err == nil && foreign != "":
		c.stats.unsigned.Add(1)
	}
	return foreign == "", err
}

// foreign says what is wrong with the authors, and the cure; empty: they all
// are the account's own.
func (c *fromCheck) foreign(v spool.View, list []string, unreadable error) (string, error) {
	if unreadable != nil {
		return "The From field must be one, and name an address of " + c.account.Address +
			": correct it in your mail program", nil
	}
	for _, address := range list {
		own, err := owns(v, c.account, address)
		if err != nil {
			return "", err
		}
		if !own {
			return fmt.Sprintf("From is %s, which is not an address of %s: send as your own address, or have the postmaster "+
				"allow it with 'relayctl user set %[2]s --sender %[1]s'", printable.Text(directory.Canonical(address),
				100), c.account.Address), nil
		}
	}
	return "", nil
}

// owns reports whether an account may send as an address: its own, with a
// subaddress too, an alias that leads to it alone, or one that it was given.
func owns(v spool.View, account *pb.Account, address string) (bool, error) {
	lower := directory.Canonical(address)
	local, domain := directory.SplitAddress(lower)
	user, _, _ := strings.Cut(local, "+")
	if lower == account.Address || user+"@"+domain == account.Address {
		return true, nil
	}
	for _, allowed := range account.Senders {
		if allowed == lower || allowed == "*" || strings.HasPrefix(allowed, "@") && "@"+domain == allowed {
			return true, nil
		}
	}
	return leadsHome(v, lower, account.Address)
}

// checkFrom is the stage that refuses a message whose author is not its account's, or has
// it go unsigned. A header section whose end is not at hand may hold another From.
func (in *intake) checkFrom(ctx context.Context) error {
	if in.env.from == nil {
		return nil
	}
	header := in.section()
	if !in.headerSeen() {
		header = []byte("From: \r\n") // names nobody
	}
	signed, err := in.env.from.judge(ctx, header)
	if !signed {
		in.env.options.Ours = false // which is what signatures go by
	}
	return err
}
