package records

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"

	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/operator/edit"
	"relay/queue/replyclass"
	"relay/smtp/printable"
)

// Settings implements admin.Policy.
func (rs *Records) Settings(context.Context) (*admin.Settings, error) {
	var s *pb.Settings
	err := rs.replica.View(func(v spool.View) (err error) { s, err = v.Settings(); return err })
	if err != nil {
		return nil, err
	}
	shown := &admin.Settings{
		HistorySeconds: s.HistoryMs / 1000, HistoryBytes: s.HistoryBytes, ExpireSeconds: s.ExpireMs / 1000,
		RetryFirstSeconds: s.RetryFirstMs / 1000, RetryMaxSeconds: s.RetryMaxMs / 1000, DefaultDomain: s.DefaultDomain,
		Greylist: s.GreylistMs / 1000, GreylistWindow: s.GreylistWindowMs / 1000, GreylistLife: s.GreylistLifeMs / 1000,
		GreylistTrust: s.GreylistTrust, GreylistExempt: s.GreylistExempt, GreylistRecords: s.GreylistRecords,
		AuditSeconds: s.AuditMs / 1000, AuditBytes: s.AuditBytes, FromCheck: FromCheckWord(s.FromCheck),
		ReplyRules: s.ReplyRules,
	}
	retrySettings(s, shown)
	if shown.SRSGeneration = s.SrsGeneration; s.SrsDomain != "" {
		shown.SRSDomain = &s.SrsDomain
	}
	return shown, nil
}

// FromCheckWord is a setting in the API; empty where none was made.
func FromCheckWord(c pb.FromCheck) string {
	if c == pb.FromCheck_FROM_DEFAULT {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(c.String(), "FROM_"))
}

// fromCheckOf reads the setting. Programs of former versions do not name it;
// then it stays as it is.
func (rs *Records) fromCheckOf(word string) (pb.FromCheck, error) {
	if word == "" {
		var now pb.FromCheck
		err := rs.replica.View(func(v spool.View) error {
			s, err := v.Settings()
			now = s.GetFromCheck()
			return err
		})
		return now, err
	}
	n, ok := pb.FromCheck_value["FROM_"+strings.ToUpper(word)]
	if c := pb.FromCheck(n); ok && FromCheckWord(c) == word {
		return c, nil
	}
	return 0, admin.Invalid("from_check is refuse, unsigned or off, not %s", word)
}

// replyRulesOf checks the site's own rules of what replies mean. Programs of former versions do not name them; then
// they stay as they are.
func (rs *Records) replyRulesOf(rules []string) (now []string, err error) {
	if rules == nil {
		err = rs.replica.View(func(v spool.View) error {
			s, err := v.Settings()
			now = s.GetReplyRules()
			return err
		})
		return now, err
	}
	for _, text := range rules {
		now = append(now, strings.Join(strings.Fields(printable.Text(text, len(text))), " "))
	}
	if _, err := replyclass.Parse(now); err != nil {
		return nil, admin.Invalid("reply_rules: %v", err)
	}
	return now, nil
}

// defaultLongestWait is the longest wait between two attempts that queue takes by default, in seconds.
const defaultLongestWait = 4 * 3600

// SetSettings implements admin.Policy. It replaces all of them, but those of version 2
// that are not named.
func (rs *Records) SetSettings(ctx context.Context, by admin.By, s admin.Settings) error {
	rec := &pb.Settings{HistoryBytes: s.HistoryBytes, AuditBytes: s.AuditBytes, GreylistTrust: s.GreylistTrust,
		GreylistRecords: s.GreylistRecords}
	for _, one := range []struct {
		name    string
		seconds int64
		into    *int64
	}{
		{"history_seconds", s.HistorySeconds, &rec.HistoryMs},
		{"audit_seconds", s.AuditSeconds, &rec.AuditMs},
		{"expire_seconds", s.ExpireSeconds, &rec.ExpireMs},
		{"retry_first_seconds", s.RetryFirstSeconds, &rec.RetryFirstMs},
		{"retry_max_seconds", s.RetryMaxSeconds, &rec.RetryMaxMs},
		{"greylist_window_seconds", s.GreylistWindow, &rec.GreylistWindowMs},
		{"greylist_life_seconds", s.GreylistLife, &rec.GreylistLifeMs},
	} {
		ms, err := millis(one.name, one.seconds)
		if err != nil {
			return err
		}
		*one.into = ms
	}
	var err error
	if rec.FromCheck, err = rs.fromCheckOf(s.FromCheck); err != nil {
		return err
	}
	if rec.ReplyRules, err = rs.replyRulesOf(s.ReplyRules); err != nil {
		return err
	}
	if err = rs.setLater(&s, rec); err != nil {
		return err
	}
	if rec.GreylistMs, err = greyMillis(s.Greylist); err != nil {
		return err
	}
	if rec.GreylistExempt, err = networks(s.GreylistExempt); err != nil {
		return err
	}
	longest := cmp.Or(s.RetryMaxSeconds, defaultLongestWait)
	if s.RetryFirstSeconds > longest {
		return admin.Invalid("the first wait (%d s) is longer than the longest (%d s): give a longer retry_max_seconds",
			s.RetryFirstSeconds, longest)
	}
	if s.DefaultDomain != "" {
		name, err := domainName(s.DefaultDomain)
		if err != nil {
			return err
		}
		if err := rs.localDomain(name); err != nil {
			return err
		}
		rec.DefaultDomain = name
	}
	_, err = rs.edit.Do(ctx, by, spool.KindPutSettings, func(adm *pb.Admin) proto.Message {
		return &pb.PutSettings{Admin: adm, Settings: rec}
	})
	return err
}

const maxNetworkList = 1000

// networks checks a list of addresses and networks, and brings it in one form.
func networks(list []string) ([]string, error) {
	if len(list) > maxNetworkList {
		return nil, admin.Invalid("at most %d networks can be named", maxNetworkList)
	}
	var all []string
	for _, text := range list {
		text = strings.TrimSpace(text)
		p, err := netip.ParsePrefix(text)
		if a, e := netip.ParseAddr(text); e == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return nil, admin.Invalid("%s is not a network such as 192.0.2.0/24", printable.Text(text, 64))
		}
		all = append(all, p.Masked().String())
	}
	return all, nil
}

// millis checks a duration of the API; ten years are for ever.
func millis(name string, seconds int64) (int64, error) {
	if seconds < 0 || seconds > 10*365*24*3600 {
		return 0, admin.Invalid("%s is %d: give 0 to %d", name, seconds, 10*365*24*3600)
	}
	return seconds * 1000, nil
}

func (rs *Records) localDomain(name string) error {
	return rs.replica.View(func(v spool.View) error {
		_, ok, err := v.Domain(name)
		if err == nil && !ok {
			err = edit.InThisState(fmt.Sprintf("domain %s is not local", name),
				fmt.Sprintf("add it with 'relayctl domain add %s' first", name))
		}
		return err
	})
}
