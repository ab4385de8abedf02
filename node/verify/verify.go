package verify

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/idna"
)

// Resolver answers the questions that verification has. ErrNotFound: the
// answer is no; any other error passes. Answers come soon after ctx ends.
type Resolver interface {
	TXT(ctx context.Context, name string) ([]string, error)
	// Hosts are the mail hosts of a domain, the preferred first.
	Hosts(ctx context.Context, domain string) ([]string, error)
	Addresses(ctx context.Context, host string) ([]netip.Addr, error)
	IPv4(ctx context.Context, name string) ([]netip.Addr, error)
	// Names are what the PTR records of an address say.
	Names(ctx context.Context, a netip.Addr) ([]string, error)
}

// ErrNotFound says that DNS has no such name or record.
var ErrNotFound = errors.New("verify: no such record")

// Outcome is the result of a method, in the words of RFC 8601 §2.7.
type Outcome string

// The outcomes.
const (
	None      Outcome = "none"
	Pass      Outcome = "pass"
	Fail      Outcome = "fail"
	SoftFail  Outcome = "softfail"
	Neutral   Outcome = "neutral"
	Policy    Outcome = "policy" // a signature that is good, but not enough
	TempError Outcome = "temperror"
	PermError Outcome = "permerror"
)

// Client is who hands a message in.
type Client struct {
	Address netip.Addr
	Helo    string
	Sender  string // reverse-path, empty for the null path
}

// Verifier begins checks. Its methods may be called concurrently; the fields
// are set before and never change.
type Verifier struct {
	Resolver Resolver
	// Timeout bounds the look-ups of SPF from the beginning of a check, those
	// of a message from the end of its header section, and what is left to do
	// at the end of its body. A result that is not known then is a temperror.
	Timeout time.Duration
	// Draw returns a number from 0 to n-1; it decides whether a message is
	// among the percentage that a DMARC record wants treated by its policy.
	Draw func(n int) int
	// Slots bound how much of the work on signatures that takes a processor is
	// done at once, by all messages together. Nil: no bound.
	Slots chan struct{}
}

// Result is what is known of one message.
type Result struct {
	SPF   SPF
	DKIM  []Signature // in the order of the message; none: it is not signed
	DMARC []DMARC     // of each domain in its From field; most often one
	// Crowd: there are more domains in its From field than are asked about.
	Crowd bool
}

// Check is the verification of one message. Its methods are called by one
// goroutine, in this order: Header, Write as often as need be, End; Close is
// due in any case, and may come at any time.
type Check struct {
	v       *Verifier
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	spf     SPF
	dkim    *dkimCheck
	authors []*author
	crowd   bool // more of them than are asked about
}

// clientKey is where a context names the client on whose account is asked.
type clientKey struct{}

func forClient(ctx context.Context, a netip.Addr) context.Context {
	return context.WithValue(ctx, clientKey{}, a)
}

// ClientOf returns the client on whose account a Resolver is asked under ctx; the
// zero address where there is none.
func ClientOf(ctx context.Context) netip.Addr {
	a, _ := ctx.Value(clientKey{}).(netip.Addr)
	return a
}

// Begin starts to ask about a client and its sender. It does not wait. Look-ups that
// were begun go on after ctx ends, but not after Close.
func (v *Verifier) Begin(ctx context.Context, c Client) *Check {
	check := &Check{v: v}
	check.ctx, check.cancel = context.WithCancel(forClient(context.WithoutCancel(ctx), c.Address))
	check.running.Go(func() {
		ctx, cancel := context.WithTimeout(check.ctx, v.Timeout)
		defer cancel()
		check.spf = v.spf(ctx, c)
	})
	return check
}

// Header takes the header section, up to and without the empty line behind it,
// and begins to ask about the message's author and signatures. The section is
// not modified, and not used after Header returns.
func (c *Check) Header(section []byte) {
	domains := authorDomains(section)
	if c.crowd = len(domains) > maxAuthors; c.crowd {
		domains = domains[:maxAuthors]
	}
	for _, domain := range domains {
		a := &author{domain: domain}
		c.authors = append(c.authors, a)
		c.running.Go(func() {
			ctx, cancel := context.WithTimeout(c.ctx, c.v.Timeout)
			defer cancel()
			a.record, a.above, a.err = findRecord(ctx, c.v.Resolver, a.domain)
		})
	}
	c.dkim = c.v.beginDKIM(c, section)
}

// Write takes the next octets of the body. It waits for nobody but for its turn
// with a processor, and never fails.
func (c *Check) Write(p []byte) (int, error) {
	if c.dkim != nil {
		c.dkim.write(p)
	}
	return len(p), nil
}

// End returns what is known when the body has ended. It waits for what is still
// under way, at most for Timeout and no longer than ctx.
func (c *Check) End(ctx context.Context) *Result {
	late := time.AfterFunc(c.v.Timeout, c.cancel)
	defer late.Stop()
	defer context.AfterFunc(ctx, c.cancel)()
	c.running.Wait()
	r := &Result{SPF: c.spf, Crowd: c.crowd}
	if c.dkim != nil {
		r.DKIM = c.dkim.results()
	}
	for _, a := range c.authors {
		r.DMARC = append(r.DMARC, a.evaluate(r.SPF, r.DKIM, c.v.Draw))
	}
	return r
}

// Close gives up what is still under way and waits for its goroutines.
func (c *Check) Close() {
	c.cancel()
	c.running.Wait()
}

// asciiDomain brings a domain into the form in which domains are compared;
// empty where it can be none.
func asciiDomain(s string) string {
	s = strings.TrimSuffix(s, ".")
	a, err := idna.Lookup.ToASCII(s)
	if err != nil {
		a = strings.ToLower(s) // names with an underscore are no host names, but are names
	}
	if !domainName(a) {
		return ""
	}
	return a
}

// domainName takes names of two labels and more, of letters, digits, dashes and
// underscores.
func domainName(s string) bool {
	if len(s) > 253 || strings.IndexByte(s, '.') < 0 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// dnsError is an error in the form that the libraries for SPF and DKIM ask
// for, which look at nothing else.
func dnsError(name string, err error) error {
	if err == nil {
		return nil
	}
	e := &net.DNSError{Err: err.Error(), Name: name, UnwrapErr: err}
	if errors.Is(err, ErrNotFound) {
		e.IsNotFound = true
	} else {
		e.IsTemporary = true
	}
	return e
}

// temporary wraps what may be otherwise next time.
func temporary(what string, err error) error { return fmt.Errorf("verify: %s: %w", what, err) }
