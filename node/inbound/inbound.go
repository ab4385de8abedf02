// Package inbound is the SMTP side of a node: sessions and their policy, strangers' mail,
// content filters, greylisting, and the intake that turns a message into one Accept.
package inbound

import (
	"context"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"relay/node/config"
	"relay/node/login"
	"relay/node/milter"
	"relay/node/replica"
	"relay/node/rule"
	"relay/node/tlscert"
	"relay/node/verify"
	"relay/smtp"
)

// Room says whether there is room for more mail. Its methods are called concurrently.
type Room interface {
	// Full reports whether the disk is.
	Full() bool
	// Over reports whether the spool has no room for one more message of a size in
	// octets; 0: not known.
	Over(size uint64) (bool, error)
}

// Config is what SMTP intake asks for. Functions are called concurrently.
type Config struct {
	Replica  replica.Fenced
	Node     string // this node's id
	Hostname string // in trace fields
	Version  string // told to content filters
	MaxHops  int    // more Received fields are a loop
	Logins   *login.Service
	Throttle *login.Throttle
	Confirm  *replica.Confirmer
	Relayers *tlscert.Relayers // clients whose certificate lets them relay; nil: none
	Room     Room
	Ready    func(ctx context.Context) error // nil when a message can be taken; waits where that is worth it
	// Ask asks another node (cluster.Cluster.Ask); its side is AnswerReceipt, under MethodReceipt.
	Ask func(ctx context.Context, node, method string, req []byte) ([]byte, error)
	// Own lists the addresses of this machine; nil: they are not known.
	Own      func() ([]netip.Addr, error)
	Filters  []config.Milter
	Verify   config.Verify
	DNSBL    []config.DNSBL
	Exempt   func(netip.Addr) bool // from lists in DNS; nil: nobody
	Resolver verify.Resolver       // for screening
	Rules    func() *rule.Set      // standing rules as they are now; nil: there are none
	// Callout asks the host of a route whether it takes a recipient; nil: no route is asked. A no is a *smtp.Reply.
	Callout func(ctx context.Context, address string) error
	// Listing reports whether some route may have a list of recipients; nil: one may. Clients that may relay are spared a
	// look at the route of each recipient where none has.
	Listing   func() bool
	Log       *zap.Logger
	Committed func(begin time.Time) // observes an Accept that began then; nil: nobody counts
	Accepted  func(end time.Time)   // observes a 250 to data that ended then; nil: nobody counts
}

// Service is the SMTP side of a node. Its methods may be called concurrently.
type Service struct {
	conf     Config
	mail     *mailer
	receipts *receipts
	starts   *starts
	grey     *greylist
	filters  []filter
	screen   *screen
}

// New makes the SMTP side of a node. It fails where the configuration of filters or
// lists cannot be read; nobody is asked anything yet.
func New(c Config) (*Service, error) {
	s := &Service{conf: c, starts: newStarts(), grey: newGreylist(c.Replica, c.Log)}
	var err error
	if s.filters, err = newFilters(c.Filters, c.Hostname, c.Version, c.Log); err != nil {
		return nil, err
	}
	if s.screen, err = newScreen(&c); err != nil {
		return nil, err
	}
	s.receipts = newReceipts(c.Replica, c.Node, c.Ask, c.Log)
	s.mail = newMailer(c.Replica, s.receipts, c.Node, c.Hostname, c.MaxHops, c.Log)
	s.mail.took = c.Committed
	if c.Rules != nil {
		s.mail.rules = c.Rules
	}
	return s, nil
}

// Backend makes the sessions of one listener.
func (s *Service) Backend(l *config.SMTP) smtp.Backend {
	c := &s.conf
	return &receiver{
		replica: c.Replica, mail: s.mail, logins: c.Logins, room: c.Room, ready: c.Ready, starts: s.starts,
		throttle: c.Throttle, confirm: c.Confirm, relayers: c.Relayers, grey: s.grey, screen: s.screen,
		filters: chain(s.filters, l.Role), role: l.Role, submission: l.Role == config.RoleSubmission,
		bounce: l.BounceUnknown, log: c.Log, took: c.Accepted, own: c.Own, callout: c.Callout, listing: c.Listing,
	}
}

// Run writes down what greylisting has seen, until ctx ends.
func (s *Service) Run(ctx context.Context) error { return s.grey.run(ctx) }

// AnswerReceipt answers another node's MethodReceipt.
func (s *Service) AnswerReceipt(req []byte) []byte { return s.receipts.answer(req) }

// Filters are the content filters, with their counters.
func (s *Service) Filters() (all []*milter.Filter) {
	for _, f := range s.filters {
		all = append(all, f.Filter)
	}
	return all
}

// Stats count what intake has decided since the node started.
type Stats struct {
	GreyDeferred int64 // recipients and messages that greylisting put off
	GreyPassed   int64 // retries that it let through for the first time
	FromRefused  int64 // messages of accounts refused for another's address in From
	FromUnsigned int64 // messages of accounts taken with one, and not signed
	Verified     int64 // messages of strangers whose SPF, DKIM and DMARC were looked up
	Refused      int64 // of these, messages refused for their author's or sender's domain
	Deferred     int64 // of these, messages put off because that could not be told
	Listed       int64 // recipients refused to clients on a list
	Copied       int64 // copies that standing rules made
}

// Stats reads the counters.
func (s *Service) Stats() Stats {
	return Stats{
		GreyDeferred: s.grey.stats.deferred.Load(), GreyPassed: s.grey.stats.passed.Load(),
		FromRefused: s.mail.from.refused.Load(), FromUnsigned: s.mail.from.unsigned.Load(),
		Verified: s.screen.stats.Verified.Load(), Refused: s.screen.stats.Refused.Load(),
		Deferred: s.screen.stats.Deferred.Load(), Listed: s.screen.stats.Listed.Load(),
		Copied: s.mail.copied.Load(),
	}
}
