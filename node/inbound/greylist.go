package inbound

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/directory"
	"relay/node/replica"
	"relay/node/wording"
	"relay/smtp"
	"relay/smtp/admission"
)

// greylist puts strangers' first mail off (RFC 6647). Its records are replicated, so that a retry is
// known at every node.
//
// Two answers come from the replica and cost no command: that a triplet passes, and that it still has
// to wait. Only a first attempt must be told to the log before it is answered, for the retry may come
// to another node while this one is down. All first attempts that arrive within a moment travel in one
// command, and so do the passes that are to be remembered, for which nobody waits.
//
// Off by default; relayctl settings set --greylist 1m, or domain set NAME --greylist 1m. A triplet is
// client network (/24, /64), sender (without subaddress, digits and BATV tags) and domain of the
// recipient: one look for each domain of a transaction, and a retry whose recipients come in another
// order, or apart, is still known. Records are in the replica:
//
//   - a triplet that nobody knows: is answered 450 once it is written down on a majority; costs a
//     share in one command; all first attempts of 50 ms travel in it
//   - a triplet that still has to wait: is answered 450 with the rest of the time; costs a local read
//   - a triplet that waited long enough: is answered taken, and written down without anybody waiting;
//     costs the same share
//   - a triplet that passed before, or whose network has five that did: is answered taken; costs a
//     local read, and a share once a day
//
// The 450 comes after the commit, so the promise holds whatever dies: the retry is known at every
// node. A replica that lags is no danger, since what it does not know is asked of the log, and Apply's
// word counts. A pass that is lost with its node is noted again by the next mail: until the window
// ends the first attempt speaks for it. Without a majority nobody is let through.
//
// First attempts are kept for 8 hours, what passed for 36 days from its last use. The table is bounded
// (200,000); an index by time serves both the sweep and the bound, so that a flood of first attempts
// drives out first attempts. Exempt are trusted, authenticated and relaying clients, greylist_exempt
// networks, and mail to postmaster and abuse. With the null sender the answer comes at the end of the
// message: a caller that checks an address sends none. Rejected: a command for each RCPT; a triplet
// for each recipient (a message to a hundred would write a hundred records); answering before the
// commit.
//
// 2026-11-29: first attempts of a /24 or /48 are written down 500 times an hour at each node; beyond,
// its mail to a domain is one triplet, which waits as long. So nobody drives others' records out.
type greylist struct {
	replica replica.Replica
	log     *zap.Logger
	every   time.Duration // between two commands
	stir    chan struct{} // there is something to tell
	stats   greyStats

	mu    sync.Mutex
	met   map[netip.Prefix]int     // first attempts of this hour, by /24 or /48
	since time.Time                // it began
	first []*greyCall              // somebody waits for each
	used  map[[16]byte]*pb.Attempt // nobody does
}

type greyStats struct{ deferred, passed atomic.Int64 }

// greyCall is one attempt whose client waits.
type greyCall struct {
	attempt *pb.Attempt
	done    chan struct{}
	wait    time.Duration
	err     error
}

func newGreylist(r replica.Replica, log *zap.Logger) *greylist {
	return &greylist{
		replica: r, log: log, every: 50 * time.Millisecond, stir: make(chan struct{}, 1), used: map[[16]byte]*pb.Attempt{},
	}
}

// ClientNetwork is what counts as one client, a /24 or a /64: large senders retry from a
// neighbour (RFC 6647 §2.3).
func ClientNetwork(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 24
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

// greySender is the part of a reverse-path that is the same in a sender's
// letters: without a subaddress, and without the numbers that mailing software
// puts in, a new one each time.
func greySender(address string) string {
	local, domain, _ := strings.Cut(directory.Canonical(address), "@")
	if rest, ok := strings.CutPrefix(local, "prvs="); ok { // BATV: prvs=TAG=user
		if _, user, tagged := strings.Cut(rest, "="); tagged {
			local = user
		}
	}
	local, _, _ = strings.Cut(local, "+")
	var b strings.Builder
	digit := false
	for _, c := range local {
		isDigit := c >= '0' && c <= '9'
		switch {
		case !isDigit:
			b.WriteRune(c)
		case !digit:
			b.WriteByte('#')
		}
		digit = isDigit
	}
	return b.String() + "@" + domain
}

// look says how long a client still has to wait with mail from a sender to a
// local domain; zero: it need not. waited is for how long it has been known.
func (g *greylist) look(ctx context.Context, ip netip.Addr, sender, to string) (wait, waited time.Duration, err error) {
	var known *pb.Grey
	var call *pb.Attempt
	decided := false
	err = g.replica.View(func(v spool.View) error {
		s, err := v.Settings()
		if err != nil {
			return err
		}
		delay, err := greyDelay(v, s, to)
		if err != nil || delay <= 0 || exempt(s.GreylistExempt, ip) {
			decided = true
			return err
		}
		network := ClientNetwork(ip).String()
		call = &pb.Attempt{Triplet: spool.Triplet(network, sender, to), Network: network, DelayMs: delay}
		one, net, err := v.Grey(call.Triplet, network)
		if err != nil {
			return err
		}
		now := g.replica.Now().UnixMilli()
		if trust := spool.GreyTrust(s); trust > 0 && net != nil && net.ExpiresMs > now && net.Passed >= trust {
			decided = true
			g.use(call, net, now)
			return nil
		}
		if unknown(one, now) && !g.within(ip) {
			call.Triplet = spool.Triplet(admission.Block(ip).String(), "", to)
			if one, _, err = v.Grey(call.Triplet, network); err != nil {
				return err
			}
		}
		if unknown(one, now) {
			return nil
		}
		decided, known = true, one
		if one.Passed == 0 && now < one.FirstMs+delay {
			wait = time.Duration(one.FirstMs+delay-now) * time.Millisecond
			return nil
		}
		g.use(call, one, now)
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	if !decided {
		if wait, err = g.meet(ctx, call); err != nil {
			return 0, 0, err
		}
	}
	switch {
	case wait > 0:
		g.stats.deferred.Add(1)
	case known != nil && known.Passed == 0:
		g.stats.passed.Add(1)
		waited = time.Duration(g.replica.Now().UnixMilli()-known.FirstMs) * time.Millisecond
	}
	return wait, waited, nil
}

func unknown(one *pb.Grey, now int64) bool {
	return one == nil || one.ExpiresMs <= now || one.Passed == 0 && one.FirstMs > now
}

// greyShare is how many first attempts of a /24 or /48 are written down in an
// hour. Beyond, all its mail to a domain is one triplet: it waits like any other,
// and nobody's records are driven out.
const greyShare = 500

// within counts a first attempt, and reports whether its network has a share left.
func (g *greylist) within(client netip.Addr) bool {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.met == nil || now.Sub(g.since) > time.Hour || len(g.met) > 100_000 {
		g.met, g.since = map[netip.Prefix]int{}, now
	}
	block := admission.Block(client)
	g.met[block]++
	return g.met[block] <= greyShare
}

// greyDelay is that of a domain, or of the cluster.
func greyDelay(v spool.View, s *pb.Settings, domain string) (int64, error) {
	d, ok, err := v.Domain(domain)
	if ok && d.GreylistMs != nil {
		return *d.GreylistMs, err
	}
	return s.GreylistMs, err
}

// exempt reports whether one of the networks holds a client. They were checked
// when they were set.
func exempt(networks []string, client netip.Addr) bool {
	client = client.Unmap().WithZone("")
	for _, text := range networks {
		if p, err := netip.ParsePrefix(text); err == nil && p.Contains(client) {
			return true
		}
	}
	return false
}

// maxUsed bounds what waits to be told without anybody waiting for it. A pass that is
// dropped is told at the next use.
const maxUsed = 10000

// use has a use of what passes written down, where the last one is a while ago.
func (g *greylist) use(a *pb.Attempt, last *pb.Grey, now int64) {
	if last.Passed > 0 && now-last.LastMs < spool.GreyRefreshMs {
		return
	}
	g.mu.Lock()
	if len(g.used) < maxUsed {
		g.used[[16]byte(a.Triplet)] = a
	}
	g.mu.Unlock()
	g.wake()
}

// meet tells of a first attempt, and returns what the cluster says of it.
func (g *greylist) meet(ctx context.Context, a *pb.Attempt) (time.Duration, error) {
	call := &greyCall{attempt: a, done: make(chan struct{})}
	g.mu.Lock()
	g.first = append(g.first, call)
	g.mu.Unlock()
	g.wake()
	select {
	case <-call.done:
		return call.wait, call.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (g *greylist) wake() {
	select {
	case g.stir <- struct{}{}:
	default:
	}
}

// run tells the log what there is to tell, until ctx ends.
func (g *greylist) run(ctx context.Context) error {
	tick := time.NewTicker(g.every)
	defer tick.Stop()
	for {
		select {
		case <-g.stir:
		case <-ctx.Done():
			g.tell(ctx) // which lets those go who wait
			return nil
		}
		g.tell(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// maxGreet keeps a command well inside a frame.
const maxGreet = 1000

// take cuts off what goes into one command.
func (g *greylist) take() (calls []*greyCall, h *pb.Greet) {
	h = &pb.Greet{}
	g.mu.Lock()
	defer g.mu.Unlock()
	n := min(len(g.first), maxGreet)
	calls, g.first = g.first[:n:n], g.first[n:]
	for _, c := range calls {
		h.Attempts = append(h.Attempts, c.attempt)
	}
	for k, a := range g.used {
		if len(h.Attempts) == maxGreet {
			break
		}
		h.Attempts = append(h.Attempts, a)
		delete(g.used, k)
	}
	if len(g.first)+len(g.used) > 0 {
		g.wake()
	}
	return calls, h
}

// tell proposes one command. If that fails, nobody is let through, and a record that
// was not remembered is told at the next attempt.
func (g *greylist) tell(ctx context.Context) {
	calls, h := g.take()
	if len(h.Attempts) == 0 {
		return
	}
	res, err := replica.Propose(ctx, g.replica, spool.KindGreet, h)
	if err != nil && ctx.Err() == nil {
		g.log.Debug("attempts are not greylisted yet", zap.Int("attempts", len(h.Attempts)), zap.Error(err))
	}
	for i, c := range calls {
		switch {
		case err != nil:
			c.err = err
		case i < len(res.Codes) && i < len(res.WaitsMs) && res.Codes[i] == pb.Code_TOO_SOON:
			c.wait = time.Duration(res.WaitsMs[i]) * time.Millisecond
		}
		close(c.done)
	}
}

// greyed is what greylisting said in a transaction.
type greyed struct {
	grey   map[string]time.Duration // by recipients' domain: how long the client still has to wait
	later  time.Duration            // the same, where the end of the message is to say so
	waited time.Duration            // how long it has waited
}

// greylisted answers for a recipient of a local domain: nil where mail to it may
// come now. The null sender is asked to wait at the end of its message instead:
// a client that only asks whether an address exists sends none (RFC 6647 §2.4).
func (s *session) greylisted(ctx context.Context, address string) error {
	if s.grey == nil || s.privileged() {
		return nil
	}
	local, domain := directory.SplitAddress(address)
	if local = strings.ToLower(local); local == "postmaster" || local == "abuse" {
		return nil // they must be reached by who is kept out (RFC 5321 §4.5.1, RFC 2142)
	}
	wait, asked := s.env.grey[domain]
	if !asked {
		var err error
		var waited time.Duration
		if wait, waited, err = s.grey.look(ctx, s.peer.Remote.Addr(), greySender(s.env.sender), domain); err != nil {
			return err
		}
		if s.env.grey == nil {
			s.env.grey = map[string]time.Duration{}
		}
		s.env.grey[domain] = wait
		s.env.waited = max(s.env.waited, waited)
	}
	switch {
	case wait <= 0:
		return nil
	case s.env.sender == "":
		s.env.later = max(s.env.later, wait)
		return nil
	}
	return replyGreylisted(wait)
}

func replyGreylisted(wait time.Duration) *smtp.Reply {
	text := "Greylisted, try again in " + wording.Counted(uint64((wait+time.Second-1)/time.Second), "second")
	return &smtp.Reply{Code: 450, Enhanced: "4.7.1", Text: text, Reason: "greylist"}
}
