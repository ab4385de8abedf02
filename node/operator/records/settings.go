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
	"relay/queue/limit"
	"relay/queue/replyclass"
	"relay/queue/site"
	"relay/smtp/printable"
)

// Settings implements admin.Policy.
func (rs *Records) Settings(context.Context) (*admin.Settings, error) {
	var s *pb.Settings
	var c *pb.Cluster
	err := rs.replica.View(func(v spool.View) (err error) {
		if s, err = v.Settings(); err == nil {
			c, _, err = v.Cluster()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	shown := &admin.Settings{
		HistorySeconds: s.HistoryMs / 1000, HistoryBytes: s.HistoryBytes, ExpireSeconds: s.ExpireMs / 1000,
		RetryFirstSeconds: s.RetryFirstMs / 1000, RetryMaxSeconds: s.RetryMaxMs / 1000, DefaultDomain: s.DefaultDomain,
		Greylist: s.GreylistMs / 1000, GreylistWindow: s.GreylistWindowMs / 1000, GreylistLife: s.GreylistLifeMs / 1000,
		GreylistTrust: s.GreylistTrust, GreylistExempt: s.GreylistExempt, GreylistRecords: s.GreylistRecords,
		AuditSeconds: s.AuditMs / 1000, AuditBytes: s.AuditBytes, FromCheck: FromCheckWord(s.FromCheck),
		ReplyRules: s.ReplyRules, Limits: s.Limits, Sites: s.Sites,
	}
	if changed := s.Changed; spool.VersionOf(c) >= 2 {
		shown.Changed = &changed
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

// lists checks the settings that are lists of texts, and puts them into a record. Programs of former versions do not
// name them; then they stay as they are.
func (rs *Records) lists(s *admin.Settings, rec *pb.Settings) error {
	var had *pb.Settings
	if err := rs.replica.View(func(v spool.View) (err error) { had, err = v.Settings(); return err }); err != nil {
		return err
	}
	for _, one := range []struct {
		name  string
		given []string
		had   []string
		into  *[]string
		check func([]string) error
	}{
		{"reply_rules", s.ReplyRules, had.GetReplyRules(), &rec.ReplyRules,
			func(all []string) error { _, err := replyclass.Parse(all); return err }},
		{"limits", s.Limits, had.GetLimits(), &rec.Limits,
			func(all []string) error { _, err := limit.ParseSet(all); return err }},
		{"sites", s.Sites, had.GetSites(), &rec.Sites,
			func(all []string) error { _, err := site.Parse(all); return err }},
	} {
		if one.given == nil {
			*one.into = one.had
			continue
		}
		var all []string
		for _, text := range one.given {
			all = append(all, strings.Join(strings.Fields(printable.Text(text, len(text))), " "))
		}
		if err := one.check(all); err != nil {
			return admin.Invalid("%s: %v", one.name, err)
		}
		*one.into = all
	}
	return nil
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
	if err = rs.lists(&s, rec); err != nil {
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
	return rs.replaceSettings(ctx, by, rec, s.Changed)
}

// replaceSettings proposes the settings, where expected is given in place of those alone.
func (rs *Records) replaceSettings(ctx context.Context, by admin.By, rec *pb.Settings, expected *uint64) error {
	res, err := rs.edit.Do(ctx, by, spool.KindPutSettings, func(adm *pb.Admin) proto.Message {
		return &pb.PutSettings{Admin: adm, Settings: rec, ExpectChanged: expected}
	})
	if res.GetCode() == pb.Code_STALE { // what is read here next shows the other's change
		if late := rs.edit.Current(ctx); late != nil {
			return late
		}
	}
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
