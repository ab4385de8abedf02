// Package rule matches mail with the standing rules of the cluster. A Set is compiled when rules change and never
// changes then; where there is no rule there is no Set, so that ordinary mail pays the look at a pointer.
package rule

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
)

// Envelope is what rules see of one recipient of a message.
type Envelope struct {
	Sender    string // reverse-path, empty for the null path
	Recipient string
	Client    string // the client's socket, IP:port, or its IP
	User      string // the authenticated account
	Pass      uint64 // rules that hold or suspend do not count where their id is below
}

// Of is the envelope of a message's recipient.
func Of(m *pb.Message, recipient string, pass uint64) *Envelope {
	return &Envelope{
		Sender: m.GetSender(), Recipient: recipient, Client: m.GetClient().GetAddress(), User: m.GetClient().GetUser(),
		Pass: pass,
	}
}

// Set is the rules of a cluster. A nil Set has none. It is safe for concurrent use.
type Set struct {
	queue, copies *table
	all           []*pb.Rule
}

// Compile makes a Set of rules that are in the order in which they count. It returns nil where there is none.
func Compile(rules []*pb.Rule) *Set {
	if len(rules) == 0 {
		return nil
	}
	s := &Set{queue: newTable(), copies: newTable(), all: rules}
	for i, r := range rules {
		if r.Action == pb.RuleAction_RULE_COPY {
			s.copies.add(r, i)
		} else {
			s.queue.add(r, i)
		}
	}
	return s
}

// Rules lists the rules in the order in which they count.
func (s *Set) Rules() []*pb.Rule {
	if s == nil {
		return nil
	}
	return s.all
}

// Copies reports whether some rule copies.
func (s *Set) Copies() bool { return s != nil && s.copies.n > 0 }

// Queues reports whether some rule is about mail in the queue: all but those that copy are.
func (s *Set) Queues() bool { return s != nil && s.queue.n > 0 }

// Deep reports whether rules on mail in the queue look at more than the recipient, so that the message is needed.
func (s *Set) Deep() bool { return s != nil && s.queue.deep }

// Match returns the first rule on mail in the queue that holds for an envelope now, and nil where none does.
func (s *Set) Match(e *Envelope, now time.Time) *pb.Rule {
	if s == nil {
		return nil
	}
	return s.queue.match(e, now)
}

// Whole returns the rule on mail in the queue that holds for all mail to a domain, whoever it is from, but for what was
// released from it. It returns nil where there is none, or where a rule before it decides on some of that mail.
func (s *Set) Whole(domain string, now time.Time) *pb.Rule {
	domain = directory.ASCIIDomain(domain)
	for _, r := range s.Rules() {
		switch {
		case r.Action == pb.RuleAction_RULE_COPY || r.ExpiresMs != 0 && r.ExpiresMs <= now.UnixMilli():
		case r.Domain != "" && !inDomain(r.Domain, domain):
		case r.Sender+r.Client+r.User == "" && (r.Recipient == "" || r.Recipient == "@"+domain):
			return r
		case r.Recipient == "" || strings.HasSuffix(r.Recipient, "@"+domain):
			return nil
		}
	}
	return nil
}

// Copy returns the first rule that copies and holds for an envelope now, and nil where none does.
func (s *Set) Copy(e *Envelope, now time.Time) *pb.Rule {
	if s == nil {
		return nil
	}
	return s.copies.match(e, now)
}

// Ends is when the first of the rules ends that is not over yet; the zero time: none ends.
func (s *Set) Ends(now time.Time) (at time.Time) {
	for _, r := range s.Rules() {
		if end := time.UnixMilli(r.ExpiresMs); r.ExpiresMs != 0 && end.After(now) && (at.IsZero() || end.Before(at)) {
			at = end
		}
	}
	return at
}

// one is a rule, ready to be compared.
type one struct {
	*pb.Rule
	at      int // its place in the order
	network netip.Prefix
}

// table finds the rules that may hold for an envelope without looking at the others: each stands under one thing
// that it wants, the one that tells most.
type table struct {
	n        int
	deep     bool
	recip    map[string][]*one // addresses, and domains with an @ before them
	domains  map[string][]*one // names, and .names for what is below
	senders  map[string][]*one // addresses, domains with an @ before them, and "<>"
	users    map[string][]*one
	networks map[netip.Prefix][]*one
	bits     []netip.Prefix // one of each length and family in networks, as its mask
	rest     []*one
}

func newTable() *table {
	return &table{
		recip: map[string][]*one{}, domains: map[string][]*one{}, senders: map[string][]*one{},
		users: map[string][]*one{}, networks: map[netip.Prefix][]*one{},
	}
}

func (t *table) add(r *pb.Rule, at int) {
	x := &one{Rule: r, at: at}
	t.n++
	t.deep = t.deep || r.Sender != "" || r.Client != "" || r.User != ""
	if r.Client != "" {
		network, err := netip.ParsePrefix(r.Client)
		if err != nil {
			return // no node made it: it can match nothing
		}
		x.network = network.Masked()
	}
	switch {
	case r.Recipient != "":
		t.recip[r.Recipient] = append(t.recip[r.Recipient], x)
	case r.Sender != "":
		t.senders[r.Sender] = append(t.senders[r.Sender], x)
	case r.User != "":
		t.users[r.User] = append(t.users[r.User], x)
	case r.Domain != "":
		t.domains[r.Domain] = append(t.domains[r.Domain], x)
	case r.Client != "":
		if len(t.networks[x.network]) == 0 && !slices.ContainsFunc(t.bits, x.alike) {
			t.bits = append(t.bits, x.network)
		}
		t.networks[x.network] = append(t.networks[x.network], x)
	default:
		t.rest = append(t.rest, x)
	}
}

// alike reports whether a network has the same length and family.
func (x *one) alike(p netip.Prefix) bool {
	return p.Bits() == x.network.Bits() && p.Addr().Is4() == x.network.Addr().Is4()
}

// seen is an envelope in the form that rules are written in.
type seen struct {
	*Envelope
	sender, recipient, domain, user string
	client                          netip.Addr
	now                             int64
	best                            *one
}

func (t *table) match(e *Envelope, now time.Time) *pb.Rule {
	s := seen{Envelope: e, recipient: directory.Canonical(e.Recipient), now: now.UnixMilli()}
	s.domain = s.recipient[strings.LastIndexByte(s.recipient, '@')+1:]
	if t.deep {
		s.sender, s.user, s.client = sender(e.Sender), directory.Canonical(e.User), address(e.Client)
	}
	s.try(t.rest)
	if len(t.recip) > 0 {
		s.try(t.recip[s.recipient])
		s.try(t.recip["@"+s.domain])
	}
	if len(t.domains) > 0 {
		s.try(t.domains[s.domain])
		for name := s.domain; name != ""; {
			if name = strings.TrimLeft(name, "."); strings.IndexByte(name, '.') < 0 {
				break
			}
			name = name[strings.IndexByte(name, '.'):]
			s.try(t.domains[name])
		}
	}
	if len(t.senders) > 0 {
		s.try(t.senders[s.sender])
		if at := strings.LastIndexByte(s.sender, '@'); at >= 0 {
			s.try(t.senders[s.sender[at:]])
		}
	}
	if len(t.users) > 0 && s.user != "" {
		s.try(t.users[s.user])
	}
	for _, p := range t.bits {
		if s.client.IsValid() && s.client.Is4() == p.Addr().Is4() {
			network, _ := s.client.Prefix(p.Bits())
			s.try(t.networks[network])
		}
	}
	if s.best == nil {
		return nil
	}
	return s.best.Rule
}

// try looks for a rule that holds and comes before the best that is known. A list is in order.
func (s *seen) try(list []*one) {
	for _, x := range list {
		switch {
		case s.best != nil && s.best.at < x.at:
			return
		case s.holds(x):
			s.best = x
			return
		}
	}
}

// holds reports whether all that a rule wants is so.
func (s *seen) holds(x *one) bool {
	switch {
	case x.ExpiresMs != 0 && x.ExpiresMs <= s.now:
	case Parks(x.Rule) && x.Id < s.Pass:
	case x.Domain != "" && !inDomain(x.Domain, s.domain):
	case x.Recipient != "" && !addressed(x.Recipient, s.recipient):
	case x.Sender != "" && !addressed(x.Sender, s.sender):
	case x.User != "" && !addressed(x.User, s.user):
	case x.Client != "" && !x.network.Contains(s.client):
	default:
		return true
	}
	return false
}

// Parks reports whether a rule keeps mail waiting.
func Parks(r *pb.Rule) bool {
	return r.Action == pb.RuleAction_RULE_HOLD || r.Action == pb.RuleAction_RULE_SUSPEND
}

func inDomain(want, domain string) bool {
	return want == domain || want[0] == '.' && len(domain) > len(want) && strings.HasSuffix(domain, want)
}

// addressed reports whether an address is the one that is wanted, or of the domain.
func addressed(want, address string) bool {
	return want == address || want[0] == '@' && strings.HasSuffix(address, want)
}

// sender is a reverse-path as rules name it.
func sender(path string) string {
	if path == "" {
		return "<>"
	}
	return directory.Canonical(path)
}

// IsClient reports whether a text names the address of a client, with or without its port.
func IsClient(text string) bool { return address(text).IsValid() }

// address is the IP address of a socket's text, the zero Addr where there is none.
func address(text string) netip.Addr {
	if ap, err := netip.ParseAddrPort(text); err == nil {
		return ap.Addr().Unmap().WithZone("")
	}
	ip, _ := netip.ParseAddr(text)
	return ip.Unmap().WithZone("")
}
