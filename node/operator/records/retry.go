package records

import (
	"slices"
	"strings"
	"time"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/queue/bounce"
	"relay/queue/replyclass"
	"relay/queue/retry"
	"relay/smtp/printable"
)

// retrySettings shows when mail is tried again, and what notices say.
func retrySettings(s *pb.Settings, into *admin.Settings) {
	into.RetryRules, into.SlowClasses = s.RetryRules, s.SlowClasses
	if s.DelayNoticeMs != 0 {
		seconds := s.DelayNoticeMs / 1000
		into.DelayNotice = &seconds
	}
	if s.NoticeTemplate != "" {
		into.NoticeTemplate = &s.NoticeTemplate
	}
}

// setLater checks settings that came later than others. Programs of former versions do not name them; then they stay as
// they are.
func (rs *Records) setLater(s *admin.Settings, rec *pb.Settings) error {
	var now *pb.Settings
	err := rs.replica.View(func(v spool.View) (err error) { now, err = v.Settings(); return err })
	if err == nil {
		err = setRetry(s, now, rec)
	}
	if err != nil {
		return err
	}
	return rs.setSRS(s, now, rec)
}

// setSlow checks which replies slow a destination down.
func setSlow(names []string, now, rec *pb.Settings) error {
	if rec.SlowClasses = now.SlowClasses; names == nil {
		return nil
	}
	rec.SlowClasses = nil
	for _, name := range names {
		if _, ok := replyclass.ByName(name); !ok {
			return admin.Invalid("slow_classes: %s is no class of replies: 'relayctl queue stats' names them, such as rate",
				printable.Text(name, MaxName))
		}
		if !slices.Contains(rec.SlowClasses, name) {
			rec.SlowClasses = append(rec.SlowClasses, name)
		}
	}
	return nil
}

// setSRS checks how reverse-paths are rewritten.
func (rs *Records) setSRS(s *admin.Settings, now, rec *pb.Settings) error {
	rec.SrsDomain, rec.SrsGeneration = now.SrsDomain, now.SrsGeneration
	if s.SRSGeneration != 0 {
		if s.SRSGeneration < now.SrsGeneration {
			return admin.Invalid("srs_generation is %d and goes up only: %d would bring former keys back", now.SrsGeneration,
				s.SRSGeneration)
		}
		rec.SrsGeneration = s.SRSGeneration
	}
	if s.SRSDomain == nil || *s.SRSDomain == now.SrsDomain {
		return nil
	}
	if rec.SrsDomain = ""; *s.SRSDomain == "" {
		return nil
	}
	name, err := domainName(*s.SRSDomain)
	if err != nil {
		return err
	}
	rec.SrsDomain = name
	return rs.localDomain(name)
}

// setRetry checks when mail is tried again, and what notices say.
func setRetry(s *admin.Settings, now, rec *pb.Settings) (err error) {
	rec.RetryRules, rec.DelayNoticeMs, rec.NoticeTemplate = now.RetryRules, now.DelayNoticeMs, now.NoticeTemplate
	if s.RetryRules != nil {
		rec.RetryRules = nil
		for _, text := range s.RetryRules {
			rec.RetryRules = append(rec.RetryRules, printable.Text(strings.Join(strings.Fields(text), " "), len(text)))
		}
		if _, err := retry.Parse(rec.RetryRules); err != nil {
			return admin.Invalid("retry_rules: %v", err)
		}
	}
	if err := setSlow(s.SlowClasses, now, rec); err != nil {
		return err
	}
	if d := s.DelayNotice; d != nil {
		if rec.DelayNoticeMs, err = millis("delay_notice_seconds", max(*d, 0)); err != nil {
			return err
		}
		if *d < 0 {
			rec.DelayNoticeMs = -time.Second.Milliseconds()
		}
	}
	if s.NoticeTemplate != nil {
		if _, err := bounce.ParseTemplate(*s.NoticeTemplate); err != nil {
			return admin.Invalid("notice_template: %v", err)
		}
		rec.NoticeTemplate = strings.TrimSpace(*s.NoticeTemplate)
		if rec.NoticeTemplate != "" {
			rec.NoticeTemplate += "\n"
		}
	}
	return nil
}
