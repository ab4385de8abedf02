package smtp

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"relay/smtp/sasl"
)

// Extension is a set of SMTP extensions.
type Extension uint32

// The extensions that a server can be told to do without.
const (
	ExtPipelining Extension = 1 << iota
	ExtSize
	Ext8BitMIME
	ExtSMTPUTF8
	ExtChunking
	ExtBinaryMIME // needs ExtChunking
	ExtDSN
	ExtAuth
	ExtRequireTLS    // only on TLS
	ExtDeliverBy     //
	ExtFutureRelease // only with RequireAuth
	ExtMTPriority    // only with RequireAuth
	ExtLimits
)

// ServerConfig says how a Server behaves. NewServer copies it. Functions are
// called by many goroutines at once; nil is fine where nothing else is said.
type ServerConfig struct {
	Hostname string // in the greeting; required
	Backend  Backend

	TLS         *tls.Config // nil: no STARTTLS
	ImplicitTLS bool        // TLS from the first octet
	RequireAuth bool        // submission: nothing is taken before AUTH

	// Trusted says whose clients may use what strangers may not: AUTH in clear,
	// bare line ends, addresses without <> or domain. Nil: nobody.
	Trusted func(netip.Addr) bool
	// XClient says who may say XCLIENT. Nil: nobody.
	XClient func(netip.Addr) bool
	// DefaultDomain qualifies bare local parts of trusted and authenticated
	// peers, and a bare postmaster. Nil or "": they are passed on bare.
	DefaultDomain func() string

	MaxSize         int64 // octets of a message; 0: 50 MiB
	MaxRecipients   int   // of a transaction; 0: 1000
	MaxTransactions int   // of a connection; 0: no limit
	MaxErrors       int   // 5xx replies before a 421; 0: 10
	Limits          Limits
	MaxIdle         int     // commands that do nothing, between two messages of a stranger; 0: 100
	Meters          *Meters // shared with other servers, in place of Limits; nil: of this one
	// Scarce says of a connection that was accepted that there is not enough left
	// for strangers to have it, of file descriptors for example. Nil: there is.
	Scarce func(net.Conn) bool

	Without       Extension     // extensions the backend cannot do
	LenientSyntax bool          // RCPT user@host, from anyone
	LegacyVerbs   bool          // MAIL_FROM: RCPT_TO: AUTHLOGIN
	Verify        bool          // VRFY for trusted and authenticated peers; else 252
	Expand        bool          // EXPN for the same; else 502
	MinDeliverBy  time.Duration // RFC 2852 section 3; 0: none
	MaxHold       time.Duration // RFC 4865; 0: seven days
	// Now is the time by which HOLDFOR, HOLDUNTIL and BY count; nil: time.Now.
	Now func() time.Time

	// GreetPause is how long a stranger has to be silent before it is greeted;
	// a client that talks first is turned away with 554. Trusted peers and those that may
	// say XCLIENT are greeted at once. 0: everybody is.
	GreetPause time.Duration

	CommandTimeout   time.Duration // silence between commands; 0: 5 minutes
	BlockTimeout     time.Duration // silence inside a message; 0: 3 minutes
	DataTimeout      time.Duration // one message from DATA to its reply; 0: 1 hour
	CallTimeout      time.Duration // a call of the Session; 0: 14 seconds
	HandshakeTimeout time.Duration // 0: 30 seconds
	WriteTimeout     time.Duration // 0: 1 minute

	// AuthDelay is called after a wrong password, with the error that said so
	// (an ErrCredentials, or a *Reply with code 535), and says how long to hold
	// the answer back; at most 12 seconds are. Nil: it doubles with each failure
	// from the client's network, from half a second to eight, and halves with
	// each quiet minute; trusted addresses are exempt.
	AuthDelay func(from netip.Addr, why error) time.Duration
	// Mechanisms are those of AUTH, in the order in which they are announced. Nil:
	// sasl.Defaults.
	Mechanisms []string
	// HideScram says that SCRAM-SHA-256 is not to be announced now, because some
	// accounts can not use it. A client that asks for it gets it. Nil: it is announced.
	HideScram func() bool
	// ScramIterations is the count told to users that do not exist; it should
	// be the one of those that do. 0: 4096.
	ScramIterations int

	// Refused hears of everything that a client was not given, on its
	// connection's goroutine. Nil: nobody, and Log hears of what went wrong here.
	Refused func(*Refusal)
	// Log is told what is worth a line: event is a short name, kv are keys and
	// values. No password and no message text is ever handed to it.
	Log func(event string, kv ...any)
}

// Stats counts what a Server did. Any goroutine may read it at any time.
type Stats struct {
	Connections       atomic.Int64 // accepted
	Active            atomic.Int64 // open now
	Serving           atomic.Int64 // of them: greeted with 220
	Turned            atomic.Int64 // refused at the greeting
	Talked            atomic.Int64 // of them: before it
	TLS, TLSFailed    atomic.Int64 // handshakes
	Auth, AuthFailed  atomic.Int64
	Messages          atomic.Int64 // answered 250
	MessagesRefused   atomic.Int64 // at the end of their data
	MessagesDeferred  atomic.Int64
	Recipients        atomic.Int64
	RecipientsRefused atomic.Int64 // or deferred
	Bytes             atomic.Int64 // of messages answered 250
	Errors            atomic.Int64 // 5xx replies
	Flooded           atomic.Int64 // 421 for too many errors or a limit
	Panics            atomic.Int64 // connections that ended by a fault of ours
}

// Server serves any number of listeners. All methods may be called at any time.
type Server struct {
	cfg     ServerConfig
	verbs   map[string]*verb
	params  map[string]mailParam
	prefix  string // of session names
	secret  []byte // for made-up SCRAM salts
	buffers bufferPool
	meters  *Meters
	stats   Stats
	count   atomic.Uint64
	closing atomic.Bool
	refuses atomic.Bool

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	idle      chan struct{} // made by Shutdown, closed with the last connection
}

// ErrServerClosed is returned by Serve after Shutdown.
const ErrServerClosed = constError("smtp: server closed")

// NewServer checks the configuration and returns a server that waits for Serve.
func NewServer(cfg ServerConfig) (*Server, error) {
	switch {
	case cfg.Backend == nil:
		return nil, errors.New("smtp: a server needs a backend")
	case cfg.Hostname == "" || cleanHelo(cfg.Hostname) != cfg.Hostname:
		return nil, errors.New("smtp: a server needs a host name, in ASCII")
	case cfg.ImplicitTLS && cfg.TLS == nil:
		return nil, errors.New("smtp: implicit TLS needs a TLS configuration")
	}
	cfg.fill()
	s := &Server{
		cfg:       cfg,
		params:    mailParams(),
		prefix:    strings.ToLower(rand.Text()[:7]) + "-",
		secret:    []byte(rand.Text()),
		listeners: map[net.Listener]struct{}{},
		conns:     map[*conn]struct{}{},
	}
	s.buffers.init()
	if s.meters = cfg.Meters; s.meters == nil {
		s.meters = NewMeters(cfg.Limits)
	}
	s.meters.watch(s)
	s.verbs = verbTable(&s.cfg)
	return s, nil
}

func (cfg *ServerConfig) fill() {
	def := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	def(&cfg.CommandTimeout, 5*time.Minute)
	def(&cfg.BlockTimeout, 3*time.Minute)
	def(&cfg.DataTimeout, time.Hour)
	def(&cfg.CallTimeout, 14*time.Second)
	def(&cfg.HandshakeTimeout, 30*time.Second)
	def(&cfg.WriteTimeout, time.Minute)
	def(&cfg.MaxHold, 7*24*time.Hour)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.MaxSize <= 0 {
		cfg.MaxSize = 50 << 20
	}
	if cfg.MaxRecipients <= 0 {
		cfg.MaxRecipients = 1000
	}
	if cfg.Mechanisms == nil {
		cfg.Mechanisms = sasl.Defaults()
	}
	if cfg.MaxErrors <= 0 {
		cfg.MaxErrors = 10
	}
	if cfg.MaxIdle <= 0 {
		cfg.MaxIdle = 100
	}
	if cfg.ScramIterations <= 0 {
		cfg.ScramIterations = 4096
	}
	if cfg.TLS != nil && cfg.TLS.MinVersion == 0 {
		cfg.TLS = cfg.TLS.Clone()
		cfg.TLS.MinVersion = tls.VersionTLS12
	}
	if cfg.Without&ExtChunking != 0 {
		cfg.Without |= ExtBinaryMIME
	}
	if !cfg.RequireAuth {
		cfg.Without |= ExtFutureRelease | ExtMTPriority
	}
}

// Stats returns the server's counters.
func (s *Server) Stats() *Stats { return &s.stats }

// Serve accepts connections, each on a goroutine of its own, and returns when
// all of them have ended: ErrServerClosed after Shutdown, ctx's error after ctx
// ended, which cuts every connection, else the listener's error. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if !s.listen(l) {
		_ = l.Close()
		return ErrServerClosed
	}
	defer s.unlisten(l)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var running sync.WaitGroup
	defer running.Wait()
	for {
		raw, err := accept(ctx, l)
		switch {
		case err != nil && s.closing.Load():
			running.Wait() // before cancel: transactions may end
			return ErrServerClosed
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			cancel()
			return err
		}
		running.Go(func() { s.serve(ctx, raw) })
	}
}

// accept retries what passes, such as a lack of file descriptors.
func accept(ctx context.Context, l net.Listener) (net.Conn, error) {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		raw, err := l.Accept()
		var passing interface{ Temporary() bool }
		if err == nil || !errors.As(err, &passing) || !passing.Temporary() {
			return raw, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Server) listen(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return false
	}
	s.listeners[l] = struct{}{}
	return true
}

func (s *Server) unlisten(l net.Listener) {
	_ = l.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

// serve runs one connection from accept to close.
func (s *Server) serve(ctx context.Context, raw net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := newConn(s, raw, cancel)
	s.enter(c)
	defer s.leave(c)
	defer context.AfterFunc(ctx, c.cut)()
	defer c.recoverPanic()
	c.run(ctx)
}

func (s *Server) enter(c *conn) {
	s.stats.Connections.Add(1)
	s.stats.Active.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
}

func (s *Server) leave(c *conn) {
	s.stats.Active.Add(-1)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.idle != nil && len(s.conns) == 0 {
		close(s.idle)
		s.idle = nil
	}
}

// hurry sends strangers away who are silent for longer than they may now.
func (s *Server) hurry(now time.Time) {
	patience := s.meters.conns.Load(now).Patience()
	if patience == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.hurry(now.Add(-patience))
	}
}

// Shutdown stops accepting. Connections between transactions get a 421 at once,
// the others when their transaction is over. When ctx ends first, those that are
// left are cut, and ctx's error is returned.
func (s *Server) Shutdown(ctx context.Context) error {
	idle := s.stop()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	for c := range s.conns {
		c.cancel() // which cuts it
	}
	s.mu.Unlock()
	<-idle
	return ctx.Err()
}

// Refuse turns new clients away with 421 in the greeting's place, and ends open
// connections between their transactions, as Shutdown does; the listeners stay
// open, and no connection is cut. Refuse(false) ends that, for new clients.
func (s *Server) Refuse(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuses.Store(on)
	if !on {
		return
	}
	for c := range s.conns {
		c.wake()
	}
}

// stop closes the listeners, wakes idle connections, and returns a channel that
// is closed when no connection is left.
func (s *Server) stop() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing.Store(true)
	for l := range s.listeners {
		_ = l.Close()
	}
	for c := range s.conns {
		c.wake()
	}
	if s.idle != nil {
		return s.idle
	}
	idle := make(chan struct{})
	if len(s.conns) == 0 {
		close(idle)
	} else {
		s.idle = idle
	}
	return idle
}

func (s *Server) sessionName() string {
	return s.prefix + strconv.FormatUint(s.count.Add(1), 36)
}
