package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/config"
)

// authority gets certificates by ACME (RFC 8555) and shares them with all nodes.
//
// Everything it keeps is replicated: the account's key, certificates with their
// keys, and the answers to challenges, so that the CA may ask any node. Only the
// leader orders and renews; the others serve what they read. Nothing of it is
// ever logged or shown.
type authority struct {
	replica replica
	hosts   []string
	manager *autocert.Manager
	leads   func() bool
	every   time.Duration // between two looks; what failed is not tried again for a minute
	log     *zap.Logger
	over    context.Context // when run has ended
	end     context.CancelFunc

	mu    sync.Mutex
	certs map[string]servedCert // by host
}

// servedCert is a certificate as it was read.
type servedCert struct {
	changed int64
	pair    *tls.Certificate
}

var errNotLeader = errors.New("another node orders certificates")

// newAuthority makes the authority of a node; nil where no host is named.
func newAuthority(c config.ACME, r replica, leads func() bool, log *zap.Logger) (*authority, error) {
	if len(c.Hosts) == 0 {
		return nil, nil
	}
	a := &authority{replica: r, leads: leads, every: 2 * time.Minute, log: log, certs: map[string]servedCert{}}
	a.over, a.end = context.WithCancel(context.Background())
	for _, h := range c.Hosts {
		a.hosts = append(a.hosts, asciiDomain(h))
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
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
	a.manager = &autocert.Manager{
		Prompt: autocert.AcceptTOS, Cache: certCache{r}, HostPolicy: autocert.HostWhitelist(a.hosts...), Email: c.Email,
		Client: &acme.Client{DirectoryURL: c.Directory, HTTPClient: &http.Client{Transport: leaderOnly{leads, a.over, transport}, Timeout: time.Minute}},
	}
	return a, nil
}

// leaderOnly lets nobody but the leader talk to the CA: timers of a node that
// led before may still run out. The manager knows no context, so what is under
// way when the node stops is cut off here.
type leaderOnly struct {
	leads func() bool
	over  context.Context
	http.RoundTripper
}

func (l leaderOnly) RoundTrip(r *http.Request) (*http.Response, error) {
	if l.over.Err() != nil || !l.leads() {
		return nil, errNotLeader
	}
	ctx, cancel := context.WithCancel(r.Context())
	stop := context.AfterFunc(l.over, cancel)
	release := func() { stop(); cancel() }
	res, err := l.RoundTripper.RoundTrip(r.WithContext(ctx))
	if err != nil {
		release()
		return nil, err
	}
	res.Body = &cutBody{res.Body, release}
	return res, nil
}

// cutBody is the body of an answer that ends with the node.
type cutBody struct {
	io.ReadCloser
	release func()
}

func (b *cutBody) Close() error {
	defer b.release()
	return b.ReadCloser.Close()
}

// run sees to it that there is a certificate for each host, while this node
// leads, until ctx ends. It does not wait for an order then: a CA may tell us to
// ask again in minutes, and a node that stops must not hang by that.
func (a *authority) run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var next time.Time
	for {
		if leads, now := a.leads(), time.Now(); !leads {
			next = time.Time{} // whoever comes to lead looks at once
		} else if now.After(next) {
			next = now.Add(a.every)
			select {
			case <-a.orderAll(ctx):
			case <-ctx.Done():
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			a.end()
			return nil
		}
	}
}

// orderAll closes what it returns when it has looked at all hosts.
func (a *authority) orderAll(ctx context.Context) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, host := range a.hosts {
			if ctx.Err() == nil {
				a.order(host)
			}
		}
	}()
	return done
}

// order asks for a host's certificate as a client would; the manager orders it
// where it is missing, and from then on renews it thirty days before its end.
func (a *authority) order(host string) {
	_, err := a.manager.GetCertificate(&tls.ClientHelloInfo{
		ServerName: host, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	})
	if err != nil {
		a.log.Warn("no certificate by ACME yet", zap.String("host", host), zap.Error(err))
	}
}

func (a *authority) count() int {
	if a == nil {
		return 0
	}
	return len(a.hosts)
}

// find returns the certificate for the name that a client asks for; where it
// asks for none, or for one of others, that of the first host if fallback is set.
func (a *authority) find(name string, fallback bool) *tls.Certificate {
	if a == nil {
		return nil
	}
	host := asciiDomain(strings.TrimSuffix(name, "."))
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
func (a *authority) read(host string) (*tls.Certificate, error) {
	var c *pb.Cert
	var ok bool
	err := a.replica.View(func(v spool.View) (err error) { c, ok, err = v.Cert(host); return err })
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
	a.certs[host] = servedCert{c.ChangedMs, &pair}
	return &pair, nil
}

// answer serves challenges until ctx ends: TLS-ALPN-01 (RFC 8737), where a
// handshake is all there is to it, and HTTP-01.
func (a *authority) answerTLS(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler: http.NotFoundHandler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, ErrorLog: zap.NewStdLog(zap.NewNop()),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{acme.ALPNProto}, GetCertificate: a.challenged},
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){
			acme.ALPNProto: func(_ *http.Server, c *tls.Conn, _ http.Handler) { _ = c.Close() },
		},
	}
	return serveHTTP(ctx, server, tls.NewListener(l, server.TLSConfig))
}

// challenged answers the CA and nobody else: an order must not begin because
// somebody connects.
func (a *authority) challenged(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if !slices.Equal(hello.SupportedProtos, []string{acme.ALPNProto}) {
		return nil, errors.New("this port answers ACME challenges only")
	}
	return a.manager.GetCertificate(hello)
}

func (a *authority) answerHTTP(ctx context.Context, l net.Listener) error {
	return serveHTTP(ctx, &http.Server{
		Handler: a.manager.HTTPHandler(http.NotFoundHandler()), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, ErrorLog: zap.NewStdLog(zap.NewNop()),
	}, l)
}

// serveHTTP serves until ctx ends.
func serveHTTP(ctx context.Context, s *http.Server, l net.Listener) error {
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

// certCache keeps what the manager has to keep. It meets autocert.Cache.
type certCache struct{ replica replica }

// token reports whether a name is that of an answer to a challenge.
func (certCache) token(name string) bool {
	return strings.HasSuffix(name, "+token") || strings.HasSuffix(name, "+http-01")
}

// Get implements autocert.Cache. The answer to a challenge may be so new that
// this node has not seen it yet.
func (c certCache) Get(ctx context.Context, name string) ([]byte, error) {
	data, err := c.look(name)
	if !errors.Is(err, autocert.ErrCacheMiss) || !c.token(name) {
		return data, err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if err := c.replica.Consistent(ctx); err != nil {
		return nil, err
	}
	return c.look(name)
}

func (c certCache) look(name string) (data []byte, err error) {
	err = c.replica.View(func(v spool.View) error {
		one, ok, err := v.Cert(name)
		if err == nil && !ok {
			err = autocert.ErrCacheMiss
		}
		data = one.GetData()
		return err
	})
	return data, err
}

// Put implements autocert.Cache.
func (c certCache) Put(ctx context.Context, name string, data []byte) error {
	return c.put(ctx, &pb.PutCert{Name: name, Data: data, Token: c.token(name)})
}

// Delete implements autocert.Cache.
func (c certCache) Delete(ctx context.Context, name string) error {
	return c.put(ctx, &pb.PutCert{Name: name})
}

func (c certCache) put(ctx context.Context, h *pb.PutCert) error {
	res, err := propose(ctx, c.replica, spool.KindPutCert, h)
	switch {
	case err != nil:
		return err
	case res.Code != pb.Code_OK && res.Code != pb.Code_MISSING:
		return fmt.Errorf("certificate not kept: %s", res.Text)
	}
	return c.replica.WaitApplied(ctx, res.Index)
}
