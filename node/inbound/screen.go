package inbound

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/milter"
	"relay/node/replica"
	"relay/node/verify"
	"relay/smtp"
)

// oneChunk is the largest top of a message that is one chunk when filters have
// added to it what they may, and screening its field. A larger one, which is as
// large as what is at hand at first, is two.
const oneChunk = spool.MaxInline - milter.MaxAdded - maxField

// maxField is room for what screening puts on top.
const maxField = 64 << 10

var (
	replyHeaderSize = &smtp.Reply{
		Code: 552, Enhanced: "5.3.4", Text: fmt.Sprintf("Header section over %d KiB", spool.MaxInline>>10),
		Reason: "too_large",
	}
	replyBareHeader = &smtp.Reply{
		Code: 550, Enhanced: "5.6.0", Text: "A bare CR, LF or NUL in the header section", Reason: "bare_line_ends",
	}
	errTheirRules = errors.New("the rules of the recipients' domains")
	replyApart    = &smtp.Reply{
		Code: 452, Enhanced: "4.5.3", Text: "This recipient's domain has other rules, send to it in a message of its own",
		Reason: "other_rules",
	}
)

// screen looks at who sends what strangers hand in. Its methods may be called
// concurrently; a nil screen does nothing.
//
// One policy a message. DATA has one answer, so a stranger's recipients are all of domains that refuse
// or all of domains that do not; others are told 452 4.5.3 and come in a message of their own.
// Rejected: the most lenient policy for all (one recipient elsewhere would switch it off), a report
// for the rest (backscatter).
//
// postmaster and abuse get everything (RFC 5321 §4.5.1, RFC 2142): no list and no policy refuses mail
// to them, it is only tagged.
//
// Fields with our name are taken out of strangers' and of users' messages (RFC 8601 §5): this node's
// authserv-id and the host names of all members. Verification sees the message before that. A header
// section over 256 KiB is refused, for what could stand where nobody looks.
type screen struct {
	replica  replica.Fenced
	id       string // in Authentication-Results
	verifier *verify.Verifier
	lists    *verify.Lists
	exempt   func(netip.Addr) bool // from lists; nil: nobody
	log      *zap.Logger
	stats    screenStats
}

// screenStats count what screening came to.
type screenStats struct {
	Verified atomic.Int64 // messages
	Refused  atomic.Int64 // of these, for their author's or sender's domain
	Deferred atomic.Int64 // of these, because that could not be told
	Listed   atomic.Int64 // recipients refused to clients on a list
}

// asks begins to ask about a client that has connected; nil: nobody is asked.
func (s *screen) asks(p *smtp.Peer) *verify.Lookup {
	if s == nil || p.Trusted || s.exempt != nil && s.exempt(p.Remote.Addr()) {
		return nil
	}
	return s.lists.Begin(p.Remote.Addr())
}

// ids are the names that nobody but this cluster may bear in a field.
func (s *screen) ids() []string {
	all := []string{s.id}
	_ = s.replica.View(func(v spool.View) error {
		members, err := v.Members()
		for _, m := range members {
			if m.Hostname != "" {
				all = append(all, m.Hostname)
			}
		}
		return err
	})
	return all
}

// screening is what one message from a stranger goes through. A nil screening
// lets everything pass as it is.
type screening struct {
	*screen
	check  *verify.Check // nil: no recipient's domain wants to know
	refuse bool          // what the author's domain wants refused
	lists  []string      // results of lists
	forged bool          // SPF says that the client may not send as the sender
	client *pb.Client
}

// authPolicy is what the domain of a recipient wants done, and whether the
// recipient is one who gets everything (RFC 5321 §4.5.1, RFC 2142).
func authPolicy(v spool.View, address string) (policy pb.AuthPolicy, open bool, err error) {
	local, domain := directory.SplitAddress(address)
	d, _, err := v.Domain(domain)
	policy = d.GetAuthPolicy()
	open = strings.EqualFold(local, "postmaster") || strings.EqualFold(local, "abuse")
	if open && policy == pb.AuthPolicy_AUTH_REFUSE {
		policy = pb.AuthPolicy_AUTH_TAG
	}
	return policy, open, err
}

// admit decides on one more recipient of a stranger's message. One answer at
// the end of the data is for all recipients, so they must all be of domains
// that refuse or all of domains that do not.
func (s *session) admit(ctx context.Context, address string) error {
	if s.screen == nil || s.privileged() {
		return nil
	}
	var policy pb.AuthPolicy
	var open bool
	err := s.replica.View(func(v spool.View) (err error) { policy, open, err = authPolicy(v, address); return err })
	if err != nil {
		return err
	}
	if !open {
		if err := s.checkDNSBL(ctx); err != nil {
			return err
		}
	}
	refuse := policy == pb.AuthPolicy_AUTH_REFUSE
	if s.env.screen != nil && len(s.env.rcpts) > 0 && refuse != s.env.screen.refuse {
		return replyApart
	}
	if s.env.screen == nil {
		s.env.screen = &screening{screen: s.screen}
	}
	s.env.screen.refuse = refuse
	if s.env.screen.check == nil && policy != pb.AuthPolicy_AUTH_NONE {
		s.env.screen.check = s.screen.verifier.Begin(ctx,
			verify.Client{Address: s.peer.Remote.Addr(), Helo: s.peer.Helo, Sender: s.env.sender})
	}
	return nil
}

// checkDNSBL refuses a client that is on a list. The lists were asked when it
// connected.
func (s *session) checkDNSBL(ctx context.Context) error {
	refuse, _ := s.listed.Wait(ctx)
	if refuse == nil {
		return nil
	}
	s.screen.stats.Listed.Add(1)
	s.log.Debug("client is on a list", zap.String("session", s.peer.Session), zap.String("remote", s.peer.Remote.String()),
		zap.String("list", refuse.List.Name), zap.String("code", refuse.Code.String()))
	text := fmt.Sprintf("Client [%s] is on %s", s.peer.Remote.Addr(), refuse.List.Name)
	if refuse.Text != "" {
		text += ": " + refuse.Text
	}
	return &smtp.Reply{Code: 550, Enhanced: "5.7.1", Text: text, Reason: "dnsbl"}
}

// screened completes what a message goes through: also that of who may relay
// but has only logged in, whose fields are no more ours than a stranger's.
func (s *session) screened(ctx context.Context, env *envelope) {
	switch {
	case s.screen == nil || s.peer.Trusted || s.relayers.May(s.peer.TLS):
		return
	case env.screen == nil:
		env.screen = &screening{screen: s.screen}
	}
	env.screen.client = env.client
	if s.who() != nil {
		return
	}
	refuse, tags := s.listed.Wait(ctx)
	if refuse != nil { // it is for a postmaster
		tags = append(tags, refuse)
	}
	for _, t := range tags {
		env.screen.lists = append(env.screen.lists, t.String())
	}
}

func (s *screening) header(fields []byte) {
	if s != nil && s.check != nil {
		s.check.Header(fields)
	}
}

func (s *screening) body(p []byte) {
	if s != nil && s.check != nil {
		_, _ = s.check.Write(p) // it never fails
	}
}

// tells reports whether there will be a field to put on top.
func (s *screening) tells() bool { return s != nil && (s.check != nil || len(s.lists) > 0) }

func (s *screening) close() {
	if s != nil && s.check != nil {
		s.check.Close()
	}
}

// end returns the field to put on top and a line for the history, or the
// refusal of the message.
func (s *screening) end(ctx context.Context) (field []byte, found string, err error) {
	var results []string
	if s.check != nil {
		r := s.check.End(ctx)
		s.stats.Verified.Add(1)
		if err := s.decide(r); err != nil {
			return nil, "", err
		}
		results, found = r.Results(), r.Summary()
		s.forged = r.SPF.Outcome == verify.Fail || r.SPF.Outcome == verify.SoftFail
	}
	for _, one := range s.lists {
		found = strings.TrimPrefix(found+" "+one, " ")
	}
	return verify.Field(s.id, append(results, s.lists...)), found, nil
}

func (s *screening) decide(r *verify.Result) error {
	if !s.refuse {
		return nil
	}
	wish, domain := r.Wish()
	var reply *smtp.Reply
	switch wish {
	case verify.RefuseDMARC: // RFC 7372 §3.3
		reply = &smtp.Reply{
			Code: 550, Enhanced: "5.7.26",
			Text: fmt.Sprintf("Neither SPF nor DKIM says that this is from %s, which wants such mail refused (DMARC)",
				domain), Reason: "dmarc",
		}
	case verify.RefuseSPF: // RFC 7372 §3.2
		reply = &smtp.Reply{
			Code: 550, Enhanced: "5.7.23", Text: fmt.Sprintf("%s does not send from your address (SPF)", domain), Reason: "spf",
		}
	case verify.RefuseCrowd:
		reply = &smtp.Reply{
			Code: 550, Enhanced: "5.7.1", Text: "The From field names more domains than can be asked about", Reason: "dmarc",
		}
	case verify.Unknown:
		reply = &smtp.Reply{
			Code: 451, Enhanced: "4.4.3", Text: fmt.Sprintf("DNS does not say just now whether this is from %s, try again later",
				domain), Reason: "dns_failed",
		}
	default:
		return nil
	}
	count := &s.stats.Refused
	if reply.Temporary() {
		count = &s.stats.Deferred
	}
	count.Add(1)
	s.log.Debug("message refused for its author's domain", zap.String("session", s.client.GetSession()),
		zap.String("remote", s.client.GetAddress()),
		zap.Int("code", reply.Code), zap.String("found", r.Summary()))
	return fmt.Errorf("%w: %w", errTheirRules, reply)
}

// beginScreen is the stage that shows the message to the screening, and takes out what
// claims to be ours.
func (in *intake) beginScreen(context.Context) error {
	s := in.env.screen
	if s == nil {
		return nil
	}
	if !in.headerSeen() {
		return replyHeaderSize // what is behind our sight could claim anything
	}
	if in.env.options.Body == pb.Body_BODY_BINARYMIME && !cleanSection(in.sent()) {
		return replyBareHeader
	}
	s.header(in.fields())
	s.body(in.text())
	in.keepFields(len(verify.Strip(in.fields(), func() []string {
		in.pay() // Strip changes the fields in place, once it has asked
		return s.ids()
	})))
	return nil
}

func (in *intake) passScreen(_ context.Context, p []byte) { in.env.screen.body(p) }

// cleanSection reports whether the header section in front of a message consists
// of lines that all readers part alike. Its end is what all of them take for it:
// an empty line that ends in CR LF, behind one that does.
func cleanSection(b []byte) bool {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	switch {
	case bytes.HasPrefix(b, []byte("\r\n")):
		return true
	case end >= 0:
		b = b[:end+2]
	}
	for i, c := range b {
		if c == 0 || c == '\n' && (i == 0 || b[i-1] != '\r') || c == '\r' && (i+1 == len(b) || b[i+1] != '\n') {
			return false
		}
	}
	return true
}

// endScreen puts what was found on top of the message.
func (in *intake) endScreen(ctx context.Context) error {
	if !in.env.screen.tells() {
		return nil
	}
	field, found, err := in.env.screen.end(ctx)
	if in.found = found; err != nil {
		return err
	}
	if in.env.screen.forged {
		in.withoutSuccess()
	}
	in.putOnTop(field)
	return nil
}

// newScreen makes the screen of a node.
func newScreen(c *Config) (*screen, error) {
	lists := make([]verify.List, 0, len(c.DNSBL))
	for _, one := range c.DNSBL {
		l := verify.List{Zone: one.Zone, Name: cmp.Or(one.Name, one.Zone), Action: verify.Action(one.Action)}
		for _, text := range one.Codes {
			codes, err := verify.ParseCodes(text)
			if err != nil {
				return nil, fmt.Errorf("[[dnsbl]] %s: codes: %w", one.Zone, err)
			}
			l.Codes = append(l.Codes, codes)
		}
		lists = append(lists, l)
	}
	return &screen{
		replica: c.Replica, id: cmp.Or(c.Verify.AuthservID, c.Hostname), log: c.Log,
		verifier: &verify.Verifier{
			Resolver: c.Resolver, Timeout: time.Duration(c.Verify.Timeout), Draw: rand.IntN,
			Slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1)),
		},
		lists: verify.NewLists(c.Resolver, lists, time.Duration(c.Verify.DNSBLTimeout)), exempt: c.Exempt,
	}, nil
}
