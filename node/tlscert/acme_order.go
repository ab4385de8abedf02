package tlscert

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/crypto/acme"

	pb "relay/cluster/spool/spoolpb"
	"relay/node/wording"
)

// Kinds of challenge (RFC 8737, RFC 8555 §8.3).
const (
	challengeTLS  = "tls-alpn-01"
	challengeHTTP = "http-01"
)

// Waits between two tries of an order, and how long one may take.
const (
	firstRetry = time.Minute
	lastRetry  = time.Hour
	orderTime  = 10 * time.Minute
	renewMost  = 30 * 24 * time.Hour
)

// orderPlan is when the leader orders for a host again.
type orderPlan struct {
	failed int // orders in a row
	next   time.Time
	err    error // of the last order
}

// Run sees to it that there is a certificate for each host, while this node
// leads, until ctx ends.
func (a *ACMEManager) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if a.leads() {
			a.orderAll(ctx)
		} else {
			a.Forget() // whoever comes to lead looks at once
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Forget drops what is planned: when the cluster's time has jumped, it may be for a time
// that is far away. It does not block.
func (a *ACMEManager) Forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.plans)
}

// orderAll orders the certificates that are missing or due, one by one.
func (a *ACMEManager) orderAll(ctx context.Context) {
	for _, host := range a.hosts {
		if ctx.Err() == nil && a.due(host, a.store.replica.Now()) {
			a.order(ctx, host)
		}
	}
}

// due reports whether a host needs a certificate, and may be ordered for.
func (a *ACMEManager) due(host string, now time.Time) bool {
	leaf := a.leaf(host)
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.plans[host]; p != nil && now.Before(p.next) {
		return false
	}
	return leaf == nil || !now.Before(renewal(leaf))
}

// leaf is the certificate that is served for a host; nil: none that can be read.
func (a *ACMEManager) leaf(host string) *x509.Certificate {
	pair, err := a.read(host)
	if err != nil || pair == nil {
		return nil
	}
	return pair.Leaf
}

// InUse lists the certificates by ACME that can be read. A nil receiver has none.
func (a *ACMEManager) InUse() (all []Certificate) {
	if a == nil {
		return nil
	}
	for _, host := range a.hosts {
		if leaf := a.leaf(host); leaf != nil {
			all = append(all, Certificate{host, leaf})
		}
	}
	return all
}

// renewal is when a certificate is to be renewed: when a third of its life is
// left, at most thirty days.
func renewal(leaf *x509.Certificate) time.Time {
	return leaf.NotAfter.Add(-min(leaf.NotAfter.Sub(leaf.NotBefore)/3, renewMost))
}

// order orders a host's certificate and plans what is next.
func (a *ACMEManager) order(ctx context.Context, host string) {
	ctx, cancel := context.WithTimeout(ctx, orderTime)
	defer cancel()
	err := a.get(ctx, host)
	if err != nil && (!a.leads() || errors.Is(context.Cause(ctx), context.Canceled)) {
		return // nobody's fault; the node that leads now goes on
	}
	leaf, now := a.leaf(host), a.store.replica.Now()
	if err == nil && leaf == nil {
		err = errors.New("the certificate that the CA made can not be read")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		a.Orders.Add(1)
		// whatever it says of itself
		a.plans[host] = &orderPlan{next: now.Add(min(firstRetry, leaf.NotAfter.Sub(leaf.NotBefore)/10))}
		a.log.Info("certificate by ACME", zap.String("host", host), zap.Time("expires", leaf.NotAfter),
			zap.Time("renewal", renewal(leaf)))
		return
	}
	a.Failures.Add(1)
	p := a.plans[host]
	if p == nil {
		p = &orderPlan{}
		a.plans[host] = p
	}
	p.err, p.failed = err, p.failed+1
	wait := retryAfter(p.failed, leaf, err, now)
	p.next = now.Add(wait)
	fields := []zap.Field{
		zap.String("host", host), zap.Int("failed", p.failed), zap.Duration("again", wait), zap.Error(err),
	}
	if leaf != nil {
		fields = append(fields, zap.Time("expires", leaf.NotAfter))
	}
	a.log.Warn("no certificate by ACME", fields...)
}

// retryAfter is how long to wait after a number of failures in a row: a minute,
// doubled each time up to an hour, but longer where the CA says so, and shorter
// where the certificate in use has little left to live.
func retryAfter(failed int, leaf *x509.Certificate, err error, now time.Time) time.Duration {
	wait := lastRetry
	if failed < 7 {
		wait = min(lastRetry, firstRetry<<(failed-1))
	}
	if leaf != nil {
		left, life := leaf.NotAfter.Sub(now), leaf.NotAfter.Sub(leaf.NotBefore)
		wait = min(wait, max(left/10, min(firstRetry, life/100)))
	}
	var refused *acme.Error
	if errors.As(err, &refused) {
		if after, ok := acme.RateLimit(refused); ok {
			wait = max(wait, min(after, 24*time.Hour))
		}
	}
	return wait
}

// Troubles says in words which certificates are missing or will soon be out of
// date, as the leader sees it.
func (a *ACMEManager) Troubles(now time.Time) (all []string) {
	if a == nil {
		return nil
	}
	for _, host := range a.hosts {
		leaf := a.leaf(host)
		a.mu.Lock()
		p := a.plans[host]
		switch {
		case p == nil || p.err == nil:
		case leaf == nil:
			all = append(all, fmt.Sprintf("there is no certificate for %s: %v; see [acme]", host, p.err))
		case !now.Before(leaf.NotAfter):
			all = append(all, fmt.Sprintf("the certificate for %s has expired and could not be renewed: %v; see [acme]", host,
				p.err))
		case now.Sub(renewal(leaf)) > leaf.NotAfter.Sub(now):
			all = append(all, fmt.Sprintf("the certificate for %s expires in %s and could not be renewed: %v; see [acme]", host,
				wording.Span(leaf.NotAfter.Sub(now)), p.err))
		}
		a.mu.Unlock()
	}
	return all
}

// obtain orders a certificate (RFC 8555 §7.4) and puts it where all nodes find
// it. Each kind of challenge that this cluster answers is tried in turn.
func (a *ACMEManager) obtain(ctx context.Context, host string) error {
	client, err := a.client(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, way := range a.challengeTypes {
		order, err := a.authorize(ctx, client, host, way)
		if err == nil {
			return a.finalize(ctx, client, host, order)
		}
		failed = append(failed, fmt.Errorf("%s: %w", way, err))
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

// client knows the cluster's account, which it opens where there is none yet.
func (a *ACMEManager) client(ctx context.Context) (*acme.Client, error) {
	key, err := a.account(ctx)
	if err != nil {
		return nil, fmt.Errorf("account key: %w", err)
	}
	c := &acme.Client{Key: key, DirectoryURL: a.directory, HTTPClient: a.http, UserAgent: "relay", RetryBackoff: again}
	account := &acme.Account{}
	if a.email != "" {
		account.Contact = []string{"mailto:" + a.email}
	}
	if _, err := c.Register(ctx, account, acme.AcceptTOS); err != nil && !errors.Is(err, acme.ErrAccountAlreadyExists) {
		return nil, fmt.Errorf("account: %w", err)
	}
	return c, nil
}

// again is how long to wait before the same request, within an order. The plan sees to
// a trouble that lasts longer, and a server that says that it is too much is not asked
// again.
func again(n int, _ *http.Request, res *http.Response) time.Duration {
	if n > 3 || res.StatusCode == http.StatusTooManyRequests {
		return -1
	}
	return 250 * time.Millisecond << n
}

func (a *ACMEManager) account(ctx context.Context) (crypto.Signer, error) {
	c, ok, err := a.store.look(accountKey)
	if err != nil {
		return nil, err
	}
	if ok {
		block, _ := pem.Decode(c.Data)
		if block == nil {
			return nil, errors.New("it can not be read")
		}
		return x509.ParseECPrivateKey(block.Bytes)
	}
	key, text, err := newKey()
	if err != nil {
		return nil, err
	}
	return key, a.store.put(ctx, &pb.PutCert{Name: accountKey, Data: text})
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	return key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), err
}

// authorize makes an order and shows the CA that the host is ours.
func (a *ACMEManager) authorize(ctx context.Context, c *acme.Client, host, way string) (*acme.Order, error) {
	order, err := c.AuthorizeOrder(ctx, acme.DomainIDs(host))
	if err != nil {
		return nil, err
	}
	for _, url := range order.AuthzURLs {
		z, err := c.GetAuthorization(ctx, url)
		if err != nil {
			return nil, err
		}
		if z.Status != acme.StatusPending {
			continue // it was shown before
		}
		i := slices.IndexFunc(z.Challenges, func(one *acme.Challenge) bool { return one.Type == way })
		if i < 0 {
			return nil, errors.New("the CA does not offer this challenge")
		}
		if err := a.meet(ctx, c, host, z.URI, z.Challenges[i]); err != nil {
			return nil, err
		}
	}
	return c.WaitOrder(ctx, order.URI)
}

// meet has all nodes answer a challenge until the CA has judged.
func (a *ACMEManager) meet(ctx context.Context, c *acme.Client, host, url string, challenge *acme.Challenge) error {
	name, data, err := answerTo(c, host, challenge)
	if err != nil {
		return err
	}
	if err := a.store.put(ctx, &pb.PutCert{Name: name, Data: data, Token: true}); err != nil {
		return err
	}
	defer func() { // what is left behind is swept after a day
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = a.store.put(ctx, &pb.PutCert{Name: name})
	}()
	if _, err := c.Accept(ctx, challenge); err != nil {
		return err
	}
	_, err = c.WaitAuthorization(ctx, url)
	return err
}

// answerTo is the answer to a challenge and the name it is kept under.
func answerTo(c *acme.Client, host string, challenge *acme.Challenge) (name string, data []byte, err error) {
	if challenge.Type == challengeHTTP {
		text, err := c.HTTP01ChallengeResponse(challenge.Token)
		return tokenHTTP(challenge.Token), []byte(text), err
	}
	key, text, err := newKey()
	if err != nil {
		return "", nil, err
	}
	pair, err := c.TLSALPN01ChallengeCert(challenge.Token, host, acme.WithKey(key))
	if err != nil {
		return "", nil, err
	}
	return tokenTLS(host), append(text, chain2pem(pair.Certificate)...), nil
}

func chain2pem(der [][]byte) []byte {
	var b bytes.Buffer
	for _, one := range der {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: one}) // into memory
	}
	return b.Bytes()
}

// finalize has the certificate made, for a new key, and keeps it.
func (a *ACMEManager) finalize(ctx context.Context, c *acme.Client, host string, order *acme.Order) error {
	key, text, err := newKey()
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{host}}, key)
	if err != nil {
		return err
	}
	der, _, err := c.CreateOrderCert(ctx, order.FinalizeURL, csr, true)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(der[0])
	if err != nil {
		return fmt.Errorf("the certificate that the CA made: %w", err)
	}
	if err := leaf.VerifyHostname(host); err != nil {
		return fmt.Errorf("the certificate that the CA made: %w", err)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return errors.New("the certificate that the CA made is for another key")
	}
	return a.store.put(ctx, &pb.PutCert{Name: host, Data: append(text, chain2pem(der)...)})
}
