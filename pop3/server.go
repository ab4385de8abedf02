package pop3

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"relay/smtp/admission"
	"relay/smtp/sasl"
)

// Extension is a set of what a server offers beyond the ground rules.
type Extension uint32

// The extensions. Those up to Last are on by default.
const (
	UTF8     Extension = 1 << iota // RFC 6856
	Lang                           // RFC 6856
	UIDParam                       // RETR UID:…; CAPA UID-PARAM
	LateUID                        // UID:… also finds mail that came after login
	Sleep                          // SLEE and WAKE; CAPA SLEEPING and SLEE-WAKE
	Deli                           // DELI deletes at once
	Qaut                           // QAUT logs out and stays connected
	Last                           // LAST of RFC 1225

	APOP // wants a Digester
	Xlog // XLOG user password

	defaults = APOP - 1
)

// ParseExtension finds an extension by its name in configurations: that of its
// constant in lower case.
func ParseExtension(name string) (Extension, bool) {
	for i, n := range [...]string{"utf8", "lang", "uidparam", "lateuid", "sleep", "deli", "qaut", "last", "apop", "xlog"} {
		if n == name {
			return 1 << i, true
		}
	}
	return 0, false
}

// ServerConfig says what a server does. Zero values take the default named.
type ServerConfig struct {
	// Hostname is named in the greeting. Empty: "localhost".
	Hostname string
	// Implementation is CAPA's IMPLEMENTATION. Empty: "relay"; "-": not told.
	Implementation string
	Backend        Backend
	// TLS makes STLS available. Nil: no TLS at all.
	TLS *tls.Config
	// ImplicitTLS begins every connection with a TLS handshake (RFC 8314).
	ImplicitTLS bool
	// Trusted names the addresses that may log in without TLS. Nil: none.
	Trusted func(netip.Addr) bool

	AutoLogout   time.Duration // of a silent client; at least 10m by RFC 1939 §3. 0: 10m
	SleepLogout  time.Duration // the same after SLEE. 0: 1h
	WriteTimeout time.Duration // for a client that takes no octet. 0: 2m
	CommitWithin time.Duration // before an answer to QUIT has to be given. 0: 15s
	LoginWithin  time.Duration // before one to a login or WAKE has. 0: 15s
	// LoginDelay is announced, and enforced for the logins that this server has
	// seen; the Backend knows of those elsewhere. 0: none.
	LoginDelay time.Duration
	// Policies says before login what holds for the strictest of the users, where
	// they differ: the longest login delay and the shortest retention (RFC 2449
	// §6.5, §6.7). It is asked for each CAPA, by many goroutines. Nil: LoginDelay
	// and Retention hold for all.
	Policies func() (Retention, time.Duration)
	// Retention is what EXPIRE says before login, and after it where the
	// Maildrop has none of its own.
	Retention Retention

	With, Without Extension // added to and taken from the defaults

	Limits Limits
	// Scarce says of a connection that was accepted that there is not enough left
	// to give it to an untrusted client, of file descriptors for example. Nil:
	// there is.
	Scarce func(net.Conn) bool
	// Mechanisms are those of AUTH, in the order in which they are announced. Nil:
	// sasl.Defaults.
	Mechanisms []string
	// HideScram says that SCRAM-SHA-256 is not to be announced now, because some
	// accounts can not use it. A client that asks for it gets it. Nil: it is announced.
	HideScram func() bool
	// FakeSecret makes up the SCRAM salts of users that do not exist. It should
	// be the same on all servers of one service. Empty: random.
	FakeSecret []byte
	// Refused hears of every failure that an operator should know of, on its
	// connection's goroutine. Nil: nobody.
	Refused func(*Refusal)
	// Ready waits until logins can be judged, as long as its context lasts, and returns
	// why they can not. Clients are greeted when it returns: with -ERR [SYS/TEMP], and
	// their connection ends, where it fails, since programs take a failed login for a
	// wrong password more readily than a greeting that is none. It is not called again
	// once it has returned nil. Nil: always ready.
	Ready func(context.Context) error
	// Log is told what happens to a session, with pairs of key and value. It
	// is called by many goroutines at once. Nil: nobody.
	Log func(event string, kv ...any)
}

// Limits bound what clients can take. Zero: no bound, except where a default is
// named.
type Limits struct {
	Connections     int // in all; a sixteenth is kept for trusted clients
	PerHost         int // connections of one client address (IPv6: /64); a /24 and a /48 may have twice as many
	SleepingPerUser int
	SleepingPerHost int
	// Exempt names the addresses that the limits per host do not hold for. Nil:
	// none.
	Exempt func(netip.Addr) bool
	Errors int // bad commands before login. 0: 25
	Idle   int // commands before a login. 0: 100
	Logins int // failed logins on one connection. 0: 10
}

// Stats counts since the server was made.
type Stats struct {
	Connections   atomic.Uint64 // accepted
	Open          atomic.Int64  // open now
	LoggedIn      atomic.Int64  // holding a maildrop now
	Sleeping      atomic.Int64  // asleep now
	Logins        atomic.Uint64
	LoginFailures atomic.Uint64 // wrong credentials
	InUse         atomic.Uint64 // logins and WAKEs refused by a lock
	Retrieved     atomic.Uint64 // messages sent by RETR
	Octets        atomic.Uint64 // of them, before stuffing
	Deleted       atomic.Uint64 // deletions committed
	CommitErrors  atomic.Uint64
	Autologouts   atomic.Uint64
	Lost          atomic.Uint64 // sessions cut because the maildrop was lost
	Temporary     atomic.Uint64 // [SYS/TEMP] answers
	TLSFailures   atomic.Uint64
	Panics        atomic.Uint64 // sessions that ended by a fault of the server
}

// ErrServerClosed is returned by Serve on a server that was shut down before.
var ErrServerClosed = errors.New("pop3: the server is shut down")

// Server serves POP3 on any number of listeners.
type Server struct {
	cfg      ServerConfig
	on       Extension
	commands map[keyword]*command
	blocks   sync.Pool
	stats    Stats
	counter  *admission.Counter
	ready    atomic.Bool // ServerConfig.Ready has returned nil

	mu        sync.Mutex
	stopping  bool
	refusing  bool // new clients are turned away
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	sleepers  map[string]int // by user, and by host
	delays    map[string]time.Time
	idle      chan struct{} // closed when the last connection has ended; nil: nobody waits
}

// blockSize is that of the output buffers: large enough that a system call
// carries several usual messages, small enough to give one to each slow reader.
const blockSize = 32 << 10

// NewServer checks the configuration and makes a server.
func NewServer(cfg ServerConfig) (*Server, error) {
	switch {
	case cfg.Backend == nil:
		return nil, errors.New("pop3: a server needs a Backend")
	case cfg.ImplicitTLS && cfg.TLS == nil:
		return nil, errors.New("pop3: implicit TLS needs a TLS configuration")
	case cfg.AutoLogout < 0 || cfg.SleepLogout < 0 || cfg.LoginDelay < 0 || cfg.Retention.Days < 0:
		return nil, errors.New("pop3: a time is negative")
	}
	cfg.fill()
	s := &Server{
		cfg:       cfg,
		on:        (defaults | cfg.With) &^ cfg.Without,
		commands:  commands(),
		listeners: map[net.Listener]struct{}{},
		conns:     map[*conn]struct{}{},
		counter:   admission.New(admission.Limits{All: cfg.Limits.Connections, Host: cfg.Limits.PerHost}),
		sleepers:  map[string]int{},
		delays:    map[string]time.Time{},
	}
	if _, ok := cfg.Backend.(Digester); !ok && cfg.With&APOP != 0 {
		return nil, errors.New("pop3: APOP needs a Backend that is a Digester")
	}
	s.blocks.New = func() any { return new([blockSize]byte) }
	return s, nil
}

func (c *ServerConfig) fill() {
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	set(&c.AutoLogout, 10*time.Minute)
	set(&c.SleepLogout, time.Hour)
	set(&c.WriteTimeout, 2*time.Minute)
	set(&c.CommitWithin, 15*time.Second)
	set(&c.LoginWithin, 15*time.Second)
	if c.Hostname == "" {
		c.Hostname = "localhost"
	}
	if c.Implementation == "" {
		c.Implementation = "relay"
	}
	if c.Limits.Errors == 0 {
		c.Limits.Errors = 25
	}
	if c.Limits.Idle == 0 {
		c.Limits.Idle = 100
	}
	if c.Limits.Logins == 0 {
		c.Limits.Logins = 10
	}
	if c.Mechanisms == nil {
		c.Mechanisms = sasl.Defaults()
	}
	if len(c.FakeSecret) == 0 {
		c.FakeSecret = []byte(rand.Text())
	}
}

// Stats returns the server's counters, which go on counting.
func (s *Server) Stats() *Stats { return &s.stats }

// Sessions returns the number of open connections.
func (s *Server) Sessions() int { return int(s.stats.Open.Load()) }

func (s *Server) block() *[blockSize]byte { return s.blocks.Get().(*[blockSize]byte) }

func (s *Server) log(event string, kv ...any) {
	if s.cfg.Log != nil {
		s.cfg.Log(event, kv...)
	}
}

// Serve accepts connections until ctx ends, which cuts them, or until Shutdown,
// which lets them finish; both return nil once the last connection has ended.
// It closes the listener. An error is one of the listener's.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	return s.serve(ctx, ln, (*conn).servePOP3)
}

func (s *Server) serve(ctx context.Context, ln net.Listener, speak func(*conn)) error {
	if !s.track(ln) {
		_ = ln.Close()
		return ErrServerClosed
	}
	defer s.untrack(ln)
	g := &group{srv: s, speak: speak}
	ctx, cancel := context.WithCancel(ctx)
	defer g.wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		_ = ln.Close()
		g.cut()
	})
	defer stop()
	err := g.accept(ctx, ln)
	if ctx.Err() != nil || s.isStopping() {
		g.wg.Wait()
		return nil
	}
	g.cut()
	return err
}

func (s *Server) track(ln net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.listeners[ln] = struct{}{}
	return true
}

func (s *Server) refuses() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refusing
}

// Refuse turns new clients away with -ERR [SYS/TEMP] and cuts those that hold no
// maildrop; the others may finish, but for those that are silent for so long. The
// listeners stay open. With on false it ends that, for new clients.
func (s *Server) Refuse(on bool, silence time.Duration) {
	s.mu.Lock()
	s.refusing = on
	s.mu.Unlock()
	if !on {
		return
	}
	for _, c := range s.all(nil) {
		c.drain(silence, tOutOfService)
	}
}

func (s *Server) untrack(ln net.Listener) {
	s.mu.Lock()
	delete(s.listeners, ln)
	s.mu.Unlock()
	_ = ln.Close()
}

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// group is the connections of one Serve.
type group struct {
	srv   *Server
	speak func(*conn)
	wg    sync.WaitGroup
}

func (g *group) accept(ctx context.Context, ln net.Listener) error {
	var wait time.Duration
	for {
		nc, err := ln.Accept()
		if err == nil {
			wait = 0
			g.start(ctx, nc)
			continue
		}
		var timeout interface{ Temporary() bool } // too many open files
		if !errors.As(err, &timeout) || !timeout.Temporary() || ctx.Err() != nil {
			return fmt.Errorf("pop3: accept: %w", err)
		}
		wait = min(max(2*wait, 5*time.Millisecond), time.Second)
		g.srv.log("accept failed", "error", err, "wait", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

func (g *group) start(ctx context.Context, nc net.Conn) {
	c := newConn(ctx, g, nc)
	if !g.srv.enter(c) {
		_ = nc.Close()
		c.cancel()
		return
	}
	g.wg.Go(func() {
		defer g.srv.leave(c)
		c.run()
	})
	if ctx.Err() != nil { // cut may have looked before this one was there
		c.cut(reason{text: tStopping})
	}
}

// cut ends the group's connections at once.
func (g *group) cut() {
	for _, c := range g.srv.all(g) {
		c.cut(reason{text: tStopping})
	}
}

func (s *Server) enter(c *conn) bool {
	s.stats.Connections.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.conns[c] = struct{}{}
	s.stats.Open.Add(1)
	return true
}

func (s *Server) leave(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.stats.Open.Add(-1)
	if len(s.conns) == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// all returns the connections of a group; nil: of all.
func (s *Server) all(g *group) []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		if g == nil || c.group == g {
			list = append(list, c)
		}
	}
	return list
}

// admit counts a connection in, or refuses it. If they become many, those that
// are silent without a login are cut.
func (s *Server) admit(c *conn, who admission.Standing) bool {
	now := time.Now()
	scarce := who != admission.Trusted && s.cfg.Scarce != nil && s.cfg.Scarce(c.raw)
	if scarce {
		s.counter.Press(now)
	}
	ok := s.counter.Enter(c.peer.Remote.Addr(), who)
	if s.counter.Sweep(now) {
		before := now.Add(-s.counter.Load(now).Patience())
		for _, other := range s.all(nil) {
			other.hurry(before)
		}
	}
	if ok && scarce {
		s.counter.Leave(c.peer.Remote.Addr(), who)
	}
	return ok && !scarce
}

// addSleeper counts a sleeping session in, or refuses it.
func (s *Server) addSleeper(user string, host netip.Addr, free bool) bool {
	l, h := s.cfg.Limits, "\x00"+host.String()
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.SleepingPerUser > 0 && s.sleepers[user] >= l.SleepingPerUser ||
		l.SleepingPerHost > 0 && !free && s.sleepers[h] >= l.SleepingPerHost {
		return false
	}
	s.sleepers[user]++
	s.sleepers[h]++
	s.stats.Sleeping.Add(1)
	return true
}

func (s *Server) removeSleeper(user string, host netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Sleeping.Add(-1)
	for _, k := range [...]string{user, "\x00" + host.String()} {
		if s.sleepers[k]--; s.sleepers[k] <= 0 {
			delete(s.sleepers, k)
		}
	}
}

// tooSoon notes a login and reports whether LOGIN-DELAY forbids it (RFC 2449
// §6.5).
func (s *Server) tooSoon(user string) bool {
	if s.cfg.LoginDelay <= 0 {
		return false
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.delays[user]) {
		return true
	}
	if len(s.delays) >= 1024 {
		for u, until := range s.delays {
			if !now.Before(until) {
				delete(s.delays, u)
			}
		}
	}
	s.delays[user] = now.Add(s.cfg.LoginDelay)
	return false
}

// Shutdown closes the listeners, cuts sessions that hold no maildrop, and lets
// the others go on for as long as they keep talking. It returns nil when all
// have ended. When ctx ends, the rest is cut, and its error returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.stopping = true
	for ln := range s.listeners {
		_ = ln.Close()
	}
	if s.idle == nil && len(s.conns) > 0 {
		s.idle = make(chan struct{})
	}
	idle := s.idle
	s.mu.Unlock()
	if idle == nil {
		return nil
	}
	for _, c := range s.all(nil) {
		c.drain(drainGrace, tStopping)
	}
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
	}
	for _, c := range s.all(nil) {
		c.cut(reason{text: tStopping})
	}
	<-idle
	return ctx.Err()
}
