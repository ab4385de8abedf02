package remote

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"relay/queue"
	"relay/smtp"
)

const (
	calloutYes  = time.Hour       // a recipient that a host took is known
	calloutNo   = 5 * time.Minute // and one that it refused
	calloutTime = 30 * time.Second
	calloutMost = 20_000 // answers in memory
	calloutTurn = 16     // questions at once
)

// Ask asks the hosts of a domain's route whether they take a recipient: nil where one does. A *smtp.Reply is a host's
// no; any other error says that none has told.
func (a *Agent) Ask(ctx context.Context, address string) error {
	domain := strings.ToLower(address[strings.LastIndexByte(address, '@')+1:])
	job := &queue.Job{Domain: domain}
	d := newDelivery(a, job)
	hops, f := a.find(ctx, job, d)
	if f != nil {
		return errors.New(f.text)
	}
	last := errors.New("4.4.4 the route has no host that can be asked")
	for _, h := range hops {
		k, f := d.key(ctx, h)
		var c *conn
		if f == nil {
			c, f = a.connect(ctx, k, false, nil)
		}
		if f != nil {
			last = errors.New(f.text)
			continue
		}
		r, err := c.client.Verify(ctx, address)
		if err != nil {
			_ = c.client.Close()
			last = err
			continue
		}
		a.pool.put(c)
		switch {
		case r.Positive():
			return nil
		case !r.Temporary():
			return r
		}
		last = errors.New(text(r))
	}
	return last
}

// Callouts remembers what hosts have answered for recipients. Its methods may be called concurrently.
type Callouts struct {
	ask   func(ctx context.Context, address string) error
	turns chan struct{}

	mu    sync.Mutex
	known map[string]calledOut
}

type calledOut struct {
	no    *smtp.Reply // nil: it is taken
	until time.Time
}

// NewCallouts makes the memory of what ask answers, as Agent.Ask does.
func NewCallouts(ask func(ctx context.Context, address string) error) *Callouts {
	return &Callouts{ask: ask, turns: make(chan struct{}, calloutTurn), known: map[string]calledOut{}}
}

// Check returns nil for a recipient that its host takes, and the *smtp.Reply for a client otherwise: its host's no, or
// that the client is to come again.
func (k *Callouts) Check(ctx context.Context, address string) error {
	at := strings.LastIndexByte(address, '@') + 1
	address = address[:at] + strings.ToLower(address[at:])
	if one, ok := k.find(address); ok {
		return one.reply()
	}
	ctx, cancel := context.WithTimeout(ctx, calloutTime)
	defer cancel()
	select {
	case k.turns <- struct{}{}:
		defer func() { <-k.turns }()
	case <-ctx.Done():
		return calloutLater(errors.New("too many recipients are being asked for"))
	}
	err := k.ask(ctx, address)
	no, refused := errors.AsType[*smtp.Reply](err)
	if err != nil && (!refused || no.Temporary() || no.Cause != nil) {
		return calloutLater(err)
	}
	one := calledOut{until: time.Now().Add(calloutYes)}
	if refused {
		one = calledOut{no: no, until: time.Now().Add(calloutNo)}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for old := range k.known {
		if len(k.known) < calloutMost {
			break
		}
		delete(k.known, old)
	}
	k.known[address] = one
	return one.reply()
}

func (k *Callouts) find(address string) (calledOut, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	one, ok := k.known[address]
	return one, ok && time.Now().Before(one.until)
}

func (c calledOut) reply() error {
	if c.no == nil {
		return nil
	}
	enhanced := c.no.Enhanced
	if enhanced == "" {
		enhanced = "5.1.1"
	}
	why := plain(errors.New(c.no.Text))
	return &smtp.Reply{Code: 550, Enhanced: enhanced, Text: "Recipient refused by its host: " + why}
}

func calloutLater(why error) error {
	return &smtp.Reply{Code: 450, Enhanced: "4.4.3", Text: "The recipient's host can not be asked now, come again",
		Cause: why}
}
