package tlscert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/crypto/acme"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/config"
	"relay/node/directory"
	"relay/node/replica"
)

// ACMEManager gets certificates by ACME (RFC 8555) and shares them with all nodes.
//
// Everything it keeps is replicated: the account's key, certificates with their
// keys, and the answers to challenges, so that the CA may ask any node. Only the
// leader orders and renews; the others serve what they read. Nothing of it is
// ever logged or shown. Its methods may be called concurrently.
//
// [acme] hosts has the cluster get certificates itself (RFC 8555, acme of golang.org/x/crypto). All
// that has to be kept is in the replica (C records: at most 2,000 of 64 KiB; no audit line, no event,
// no log line bears them): the account's key, each host's certificate with its key, and answers to
// challenges, so the CA may ask any node, and all nodes serve the same certificate as soon as they
// have applied it. Only the leader orders: its transport refuses to talk to the CA when it leads no
// more. A handshake never orders anything: it reads the replica (parsed once for each change), and
// where a client's name is among the files of [tls], those come first. A port of its own answers
// TLS-ALPN-01 (a handshake with acme-tls/1 only), another, if wanted, HTTP-01; only challenges that
// there is a port for are tried, since a CA counts those that fail.
//
// A certificate is renewed when a third of its life is left, at most thirty days, each time with a new
// key. An order that fails is tried again after a minute, doubled each time up to an hour; later where
// the CA says so (Retry-After of a rate limit), earlier where the certificate in use has little left
// (a tenth of it). The certificate in use stays, expired or not: a peer that does not verify still
// gets TLS. Each failure is a line in the log; relay_acme_orders_total and
// relay_certificate_expires_timestamp_seconds count, and the leader tells status of a host without a
// certificate, or with one whose renewal has failed for half of the time there was. Rejected: the
// library's autocert (it keeps the reason of a failed renewal to itself, tries TLS-ALPN-01 first
// without a port for it, and knows no context, so that an order outlived its node).
type ACMEManager struct {
	store          certStore
	hosts          []string
	challengeTypes []string // kinds of challenge that there is a listener for, the first is tried first
	email          string
	directory      string
	http           *http.Client // it talks to the CA while this node leads
	leads          func() bool
	get            func(ctx context.Context, host string) error // orders one certificate; obtain, but for tests
	log            *zap.Logger
	Orders         atomic.Int64 // that brought a certificate
	Failures       atomic.Int64

	mu    sync.Mutex
	certs map[string]parsedCert // by host
	plans map[string]*orderPlan // by host
}

// parsedCert is a certificate as it was read.
type parsedCert struct {
	changed int64
	pair    *tls.Certificate
}

var errNotLeader = errors.New("another node orders certificates")

// NewACMEManager makes the manager of a node; nil where no host is named. leads reports
// whether this node leads; the manager talks to the CA only then.
func NewACMEManager(c config.ACME, r replica.Replica, leads func() bool, log *zap.Logger) (*ACMEManager, error) {
	if len(c.Hosts) == 0 {
		return nil, nil
	}
	a := &ACMEManager{
		store: certStore{r}, email: c.Email, directory: c.Directory, leads: leads, log: log,
		certs: map[string]parsedCert{}, plans: map[string]*orderPlan{},
	}
	a.get = a.obtain
	if c.TLSListen != "" {
		a.challengeTypes = append(a.challengeTypes, challengeTLS)
	}
	if c.HTTPListen != "" {
		a.challengeTypes = append(a.challengeTypes, challengeHTTP)
	}
	for _, h := range c.Hosts {
		a.hosts = append(a.hosts, directory.ASCIIDomain(h))
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true // the next order may be months away
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("read [acme] ca: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, errors.New("[acme] ca holds no certificate")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	a.http = &http.Client{Transport: leaderOnly{leads, transport}, Timeout: time.Minute}
	return a, nil
}

// leaderOnly lets nobody but the leader talk to the CA: an order outlives a
// leadership.
type leaderOnly struct {
	leads func() bool
	http.RoundTripper
}

func (l leaderOnly) RoundTrip(r *http.Request) (*http.Response, error) {
	if !l.leads() {
		return nil, errNotLeader
	}
	return l.RoundTripper.RoundTrip(r)
}

func (a *ACMEManager) count() int {
	if a == nil {
		return 0
	}
	return len(a.hosts)
}

// find returns the certificate for the name that a client asks for; where it
// asks for none, or for one of others, that of the first host if fallback is set.
func (a *ACMEManager) find(name string, fallback bool) *tls.Certificate {
	if a == nil {
		return nil
	}
	host := directory.ASCIIDomain(strings.TrimSuffix(name, "."))
	if !slices.Contains(a.hosts, host) {
		if !fallback {
			return nil
		}
		host = a.hosts[0]
	}
	pair, err := a.read(host)
	if err != nil {
		a.log.Warn("certificate by ACME can not be used", zap.String("host", host), zap.Error(err))
	}
	return pair
}

// read returns the certificate of a host, parsed once.
func (a *ACMEManager) read(host string) (*tls.Certificate, error) {
	c, ok, err := a.store.look(host)
	if err != nil || !ok {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if have := a.certs[host]; have.pair != nil && have.changed == c.ChangedMs {
		return have.pair, nil
	}
	pair, err := tls.X509KeyPair(c.Data, c.Data)
	if err != nil {
		return nil, err
	}
	a.certs[host] = parsedCert{c.ChangedMs, &pair}
	return &pair, nil
}

// AnswerTLS serves challenges until ctx ends: TLS-ALPN-01 (RFC 8737), where a
// handshake is all there is to it.
func (a *ACMEManager) AnswerTLS(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler: http.NotFoundHandler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		ErrorLog: zap.NewStdLog(zap.NewNop()),
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, NextProtos: []string{acme.ALPNProto}, GetCertificate: a.challenged,
		},
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){
			acme.ALPNProto: func(_ *http.Server, c *tls.Conn, _ http.Handler) { _ = c.Close() },
		},
	}
	return serveHTTP(ctx, server, tls.NewListener(l, server.TLSConfig))
}

// challenged answers the CA and nobody else.
func (a *ACMEManager) challenged(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if !slices.Equal(hello.SupportedProtos, []string{acme.ALPNProto}) {
		return nil, errors.New("this port answers ACME challenges only")
	}
	data, err := a.store.answer(hello.Context(), tokenTLS(hello.ServerName))
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(data, data)
	return &pair, err
}

// AnswerHTTP serves challenges of HTTP-01 (RFC 8555 §8.3) until ctx ends.
func (a *ACMEManager) AnswerHTTP(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/acme-challenge/{token}", func(w http.ResponseWriter, r *http.Request) {
		data, err := a.store.answer(r.Context(), tokenHTTP(r.PathValue("token")))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(data)
	})
	return serveHTTP(ctx, &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		ErrorLog: zap.NewStdLog(zap.NewNop()),
	}, l)
}

// serveHTTP serves until ctx ends.
func serveHTTP(ctx context.Context, s *http.Server, l net.Listener) error {
	s.SetKeepAlivesEnabled(false) // a challenge is one request, and connections are few
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	err := s.Close()
	<-done
	return err
}

// certStore keeps what ACME needs, in the replica.
type certStore struct{ replica replica.Replica }

var errNoAnswer = errors.New("there is no such challenge")

// Names under which things are kept beside a host's certificate. (autocert of
// golang.org/x/crypto has the same.)
const accountKey = "acme_account+key"

func tokenTLS(host string) string   { return strings.ToLower(host) + "+token" }
func tokenHTTP(token string) string { return token + "+http-01" }

func (s certStore) look(name string) (c *pb.Cert, ok bool, err error) {
	err = s.replica.View(func(v spool.View) error { c, ok, err = v.Cert(name); return err })
	return c, ok, err
}

// answer is that to a challenge. It may be so new that this node has not seen it
// yet.
func (s certStore) answer(ctx context.Context, name string) ([]byte, error) {
	c, ok, err := s.look(name)
	if err == nil && !ok {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if err = s.replica.Consistent(ctx); err == nil {
			c, ok, err = s.look(name)
		}
	}
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, errNoAnswer
	}
	return c.Data, nil
}

// put keeps something, or takes it away where there is no data. It returns when
// this node has applied it.
func (s certStore) put(ctx context.Context, h *pb.PutCert) error {
	res, err := replica.Propose(ctx, s.replica, spool.KindPutCert, h)
	switch {
	case err != nil:
		return err
	case res.Code != pb.Code_OK && res.Code != pb.Code_MISSING:
		return fmt.Errorf("certificate not kept: %s", res.Text)
	}
	return s.replica.WaitApplied(ctx, res.Index)
}
