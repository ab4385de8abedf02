package records

import (
	"context"
	"strings"

	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/directory"
	"relay/smtp/printable"
)

// ListedRecipients is the value of a route's recipients whose domain has them on a list.
const ListedRecipients = "list"

// Recipients implements admin.Recipients.
func (rs *Records) Recipients(_ context.Context, domain, after string, limit int) ([]string, error) {
	domain, err := domainName(domain)
	if err != nil {
		return nil, err
	}
	if after != "" {
		if after, err = localPart(after, domain); err != nil {
			return nil, err
		}
	}
	if limit <= 0 || limit > admin.MaxRecipients {
		limit = admin.MaxRecipients
	}
	all := []string{}
	err = rs.replica.View(func(v spool.View) error {
		return v.ListedFrom(domain, after, func(local string) bool {
			all = append(all, local+"@"+domain)
			return len(all) < limit
		})
	})
	return all, err
}

// ChangeRecipients implements admin.Recipients.
func (rs *Records) ChangeRecipients(ctx context.Context, by admin.By, domain string,
	c admin.RecipientChange) (uint64, error) {
	domain, err := domainName(domain)
	if err != nil {
		return 0, err
	}
	if n := len(c.Add) + len(c.Remove); n == 0 || n > admin.MaxRecipients {
		return 0, admin.Invalid("give 1 to %d addresses at a time", admin.MaxRecipients)
	}
	if err := rs.needs2("a list of recipients"); err != nil {
		return 0, err
	}
	h := &pb.PutRecipients{Domain: domain}
	for _, part := range []struct {
		from []string
		into *[]string
	}{{c.Add, &h.Add}, {c.Remove, &h.Remove}} {
		for _, text := range part.from {
			local, err := localPart(text, domain)
			if err != nil {
				return 0, err
			}
			*part.into = append(*part.into, local+"@"+domain)
		}
	}
	res, err := rs.edit.Do(ctx, by, spool.KindPutRecipients, func(adm *pb.Admin) proto.Message {
		h.Admin = adm
		return h
	})
	if err != nil {
		return 0, err
	}
	return uint64(res.Count), nil
}

// localPart is that of an address of a domain, which may be left out.
func localPart(text, domain string) (string, error) {
	address, err := mailAddress(text, domain)
	if err != nil {
		return "", err
	}
	local, of := directory.SplitAddress(address)
	if of != domain {
		return "", admin.Invalid("%s is not an address of %s", printable.Text(text, MaxName), domain)
	}
	return strings.ToLower(local), nil
}
