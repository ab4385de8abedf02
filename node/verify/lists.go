package verify

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"relay/smtp/printable"
)

// Action is what it means for a client to be on a list.
type Action string

// The actions.
const (
	Refuse Action = "refuse" // its mail is refused
	Tag    Action = "tag"    // it is said in the message
	Exempt Action = "exempt" // the other lists do not count
)

// List is a list of clients in DNS (RFC 5782).
type List struct {
	Zone   string
	Name   string // said to clients; a zone may have a key of ours in it
	Action Action
	Codes  []Codes // answers that count; none: DefaultCodes
}

// Codes is a range of answers, both ends included.
type Codes struct{ First, Last netip.Addr }

// ParseCodes reads "127.0.0.2" or "127.0.0.2-127.0.0.11", the end also as
// "127.0.0.2-11".
func ParseCodes(s string) (Codes, error) {
	from, to, isRange := strings.Cut(s, "-")
	first, err := netip.ParseAddr(strings.TrimSpace(from))
	if err != nil || !first.Is4() || first.As4()[0] != 127 {
		return Codes{}, fmt.Errorf(`%q is not an answer such as "127.0.0.2" or "127.0.0.2-11"`, s)
	}
	last := first
	if isRange {
		to = strings.TrimSpace(to)
		if !strings.Contains(to, ".") {
			to = first.String()[:strings.LastIndexByte(first.String(), '.')+1] + to
		}
		if last, err = netip.ParseAddr(to); err != nil || !last.Is4() || last.As4()[0] != 127 || last.Less(first) {
			return Codes{}, fmt.Errorf(`%q is not a range of answers such as "127.0.0.2-11"`, s)
		}
	}
	return Codes{first, last}, nil
}

// DefaultCodes are all answers that may mean a listing: not 127.0.0.1 (RFC 5782
// §5), and not 127.255.255.0 and above, by which lists say that they do not
// answer this asker.
func DefaultCodes() []Codes {
	return []Codes{{netip.AddrFrom4([4]byte{127, 0, 0, 2}), netip.AddrFrom4([4]byte{127, 255, 254, 255})}}
}

func (l *List) counts(a netip.Addr) bool {
	codes := l.Codes
	if len(codes) == 0 {
		codes = DefaultCodes()
	}
	return slices.ContainsFunc(codes, func(c Codes) bool { return !a.Less(c.First) && !c.Last.Less(a) })
}

// Lists asks lists about clients. Its methods may be called concurrently. Make
// it with NewLists.
type Lists struct {
	resolver Resolver
	lists    []List
	timeout  time.Duration
	asking   chan struct{} // bounds the questions under way
}

// maxAsking is how many questions to lists may be under way. A flood of new
// clients waits here, and where it waits too long the client is on no list.
const maxAsking = 512

// NewLists makes Lists; a question that a list does not answer within timeout is a no.
func NewLists(r Resolver, lists []List, timeout time.Duration) *Lists {
	return &Lists{resolver: r, lists: lists, timeout: timeout, asking: make(chan struct{}, maxAsking)}
}

// Listing is a client's entry in a list.
type Listing struct {
	List *List
	Code netip.Addr
	Text string // what the list says of it, printable; or empty
}

// Lookup is the answer about one client, on its way.
type Lookup struct {
	cancel  context.CancelFunc
	running sync.WaitGroup
	done    chan struct{}
	found   []*Listing // by list; nil: not on it
}

// Begin asks about a client. It does not wait. The result is nil, on which all
// methods may be called, for addresses that no list knows anything about.
func (l *Lists) Begin(a netip.Addr) *Lookup {
	a = a.Unmap().WithZone("")
	if l == nil || len(l.lists) == 0 || !public(a) {
		return nil
	}
	ctx, cancel := context.WithTimeout(forClient(context.Background(), a), l.timeout)
	k := &Lookup{cancel: cancel, done: make(chan struct{}), found: make([]*Listing, len(l.lists))}
	for i := range l.lists {
		k.running.Go(func() { k.found[i] = l.ask(ctx, &l.lists[i], a) })
	}
	go func() {
		k.running.Wait()
		cancel()
		close(k.done)
	}()
	return k
}

// public reports whether an address is one that others can know.
func public(a netip.Addr) bool {
	shared := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, 0}), 10) // RFC 6598
	return a.IsGlobalUnicast() && !a.IsPrivate() && !shared.Contains(a)
}

// ask asks one list; nil: no, or no answer.
func (l *Lists) ask(ctx context.Context, list *List, a netip.Addr) *Listing {
	select {
	case l.asking <- struct{}{}:
		defer func() { <-l.asking }()
	case <-ctx.Done():
		return nil
	}
	name := reversed(a) + "." + list.Zone
	codes, err := l.resolver.IPv4(ctx, name)
	if err != nil {
		return nil
	}
	i := slices.IndexFunc(codes, list.counts)
	if i < 0 {
		return nil
	}
	found := &Listing{List: list, Code: codes[i]}
	if texts, err := l.resolver.TXT(ctx, name); err == nil && len(texts) > 0 && list.Action != Exempt {
		found.Text = ascii(printable.Text(texts[0], maxValue))
	}
	return found
}

// ascii keeps a text fit for a reply to anybody.
func ascii(s string) string {
	return strings.Map(func(c rune) rune {
		if c >= 0x7f {
			return '?'
		}
		return c
	}, s)
}

// reversed is an address as it stands in front of a zone (RFC 5782 §2.1, §2.4).
func reversed(a netip.Addr) string {
	if a.Is4() {
		b := a.As4()
		return fmt.Sprintf("%d.%d.%d.%d", b[3], b[2], b[1], b[0])
	}
	b := a.As16()
	digits := hex.EncodeToString(b[:])
	out := make([]byte, 0, 2*len(digits))
	for i := len(digits) - 1; i >= 0; i-- {
		out = append(out, digits[i], '.')
	}
	return string(out[:len(out)-1])
}

// Wait returns the lists that refuse the client and those that only say
// something, when all have answered or their time is over. If a list exempts
// the client both are empty. ctx cuts the wait short, with nothing found.
func (k *Lookup) Wait(ctx context.Context) (refuse *Listing, tags []*Listing) {
	if k == nil {
		return nil, nil
	}
	select {
	case <-k.done:
	case <-ctx.Done():
		return nil, nil
	}
	for _, f := range k.found {
		switch {
		case f == nil:
		case f.List.Action == Exempt:
			return nil, nil
		case f.List.Action == Refuse && refuse == nil:
			refuse = f
		default:
			tags = append(tags, f)
		}
	}
	return refuse, tags
}

// Close gives up what is still under way and waits for its goroutines.
func (k *Lookup) Close() {
	if k != nil {
		k.cancel()
		<-k.done
	}
}

// String is the listing as it stands in an Authentication-Results field.
// Methods that begin with x- are for what nobody has registered (RFC 8601
// §2.7.7).
func (f *Listing) String() string {
	return "x-dnsbl=fail" + pair(" reason", f.Text) + pair(" policy.list", f.List.Name) +
		pair(" policy.code", f.Code.String())
}
