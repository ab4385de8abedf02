package tlscert

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/crypto/acme"

	pb "relay/cluster/spool/spoolpb"
	"relay/node/config"
	"relay/node/replica/replicatest"
)

// A CA that hangs, or says to come back in minutes, does not hold up a node that
// stops.
func TestStopInTheMiddleOfAnOrder(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request){
		"hangs": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"later": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "20")
			w.WriteHeader(http.StatusServiceUnavailable)
		},
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan struct{}, 10)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked <- struct{}{}
				answer(w, r)
			}))
			defer server.Close() // waits for the request that hangs
			a, err := NewACMEManager(config.ACME{Directory: server.URL, Hosts: []string{"mx.example.test"}, TLSListen: ":443"},
				replicatest.New(t), func() bool { return true }, zap.NewNop())
			require.NoError(t, err)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			done := make(chan error, 1)
			go func() { done <- a.Run(ctx) }()
			<-asked
			stop()
			select {
			case err := <-done:
				require.NoError(t, err)
			case <-time.After(20 * time.Second):
				require.Fail(t, "it waits for the CA")
			}
		})
	}
}

// desk is a CA that signs for itself, or says what is wrong.
type desk struct {
	*ACMEManager
	rep   *replicatest.Fake
	leads atomic.Bool
	began time.Time

	mu    sync.Mutex
	life  time.Duration
	err   error
	asked []time.Duration // when, from the beginning
	made  int64
}

func newDesk(t *testing.T) *desk {
	d := &desk{rep: replicatest.New(t), began: time.Now()}
	d.leads.Store(true)
	a, err := NewACMEManager(config.ACME{
		Directory: "https://ca.test", Hosts: []string{"mx.example.test"}, HTTPListen: ":80",
	}, d.rep, d.leads.Load, zap.NewNop())
	require.NoError(t, err)
	d.ACMEManager, a.get = a, d.sign
	return d
}

// now has the CA say something else.
func (d *desk) now(err error, life time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err, d.life = err, life
}

func (d *desk) sign(ctx context.Context, host string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, time.Since(d.began))
	if d.err != nil {
		return d.err
	}
	key, text, err := newKey()
	if err != nil {
		return err
	}
	d.made++
	now := time.Now()
	d.rep.Clock = now
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(d.made), DNSNames: []string{host}, NotBefore: now, NotAfter: now.Add(d.life),
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, key.Public(), key)
	if err != nil {
		return err
	}
	return d.store.put(ctx, &pb.PutCert{Name: host, Data: append(text, chain2pem([][]byte{der})...)})
}

// asks returns when the CA was asked since the last look.
func (d *desk) asks() []time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	asked := d.asked
	d.asked = nil
	return asked
}

func (d *desk) serial() int64 {
	if pair := d.find("mx.example.test", false); pair != nil {
		return pair.Leaf.SerialNumber.Int64()
	}
	return 0
}

// When the leader asks the CA: at once, again after waits that grow, and when a
// third of a certificate's life is left; the certificate in use stays until there is
// another.
func TestOrdersAndRenewals(t *testing.T) {
	const life = 90 * time.Hour
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		defer func() { stop(); require.NoError(t, <-done) }()
		d.now(errors.New("nobody answers"), life)
		go func() { done <- d.Run(ctx) }()
		until := func(at time.Duration) { time.Sleep(at - time.Since(d.began)); synctest.Wait() }

		until(4*time.Hour - time.Second)
		require.Equal(t, []time.Duration{0, 1 * time.Minute, 3 * time.Minute, 7 * time.Minute, 15 * time.Minute,
			31 * time.Minute, 63 * time.Minute, 123 * time.Minute, 183 * time.Minute}, d.asks())
		require.Zero(t, d.serial())
		require.Equal(t, []string{"there is no certificate for mx.example.test: nobody answers; see [acme]"},
			d.Troubles(time.Now()))
		require.EqualValues(t, 9, d.Failures.Load())
		d.now(nil, life)
		until(10 * time.Hour)
		require.Equal(t, []time.Duration{243 * time.Minute}, d.asks())
		require.EqualValues(t, 1, d.serial())
		require.Empty(t, d.Troubles(time.Now()))
		require.EqualValues(t, 1, d.Orders.Load())

		d.now(errors.New("nobody answers"), life) // when it is due, sixty hours after
		due := 243*time.Minute + 60*time.Hour
		until(due + 2*time.Hour)
		require.Equal(t, []time.Duration{due, due + 1*time.Minute, due + 3*time.Minute, due + 7*time.Minute,
			due + 15*time.Minute, due + 31*time.Minute, due + 63*time.Minute}, d.asks())
		require.EqualValues(t, 1, d.serial(), "what is there stays in use")
		require.Empty(t, d.Troubles(time.Now()), "there is time")
		until(due + 16*time.Hour)
		require.Equal(t, []string{
			"the certificate for mx.example.test expires in 14 hours and could not be renewed: nobody answers; see [acme]",
		}, d.Troubles(time.Now()))
		until(due + 31*time.Hour)
		require.EqualValues(t, 1, d.serial(), "better than none")
		require.Equal(t, []string{
			"the certificate for mx.example.test has expired and could not be renewed: nobody answers; see [acme]",
		}, d.Troubles(time.Now()))
		d.asks()

		// Too much is too much.
		d.now(&acme.Error{
			ProblemType: "urn:ietf:params:acme:error:rateLimited", Header: http.Header{"Retry-After": {"7200"}},
		}, life)
		until(due + 31*time.Hour + 5*time.Hour)
		asked := d.asks()
		require.Len(t, asked, 3)
		require.Equal(t, 2*time.Hour, asked[2]-asked[1])

		// Another node leads; when this one does again, it looks at once.
		d.leads.Store(false)
		until(due + 40*time.Hour)
		require.Empty(t, d.asks())
		d.now(nil, life)
		d.leads.Store(true)
		until(due + 40*time.Hour + 2*time.Second)
		require.Len(t, d.asks(), 1)
		require.Empty(t, d.Troubles(time.Now()))
		require.EqualValues(t, 2, d.serial())
	})
}

// A certificate that lives for days is tried for as often as its rest asks for;
// one that is due as soon as it is made does not become a flood.
func TestRenewalOfShortLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		defer func() { stop(); require.NoError(t, <-done) }()
		d.now(nil, 3*time.Hour)
		go func() { done <- d.Run(ctx) }()
		time.Sleep(time.Hour)
		require.Len(t, d.asks(), 1)
		d.now(errors.New("nobody answers"), 0)
		time.Sleep(118 * time.Minute)
		require.Greater(t, len(d.asks()), 10)
		d.now(nil, time.Second)
		time.Sleep(time.Minute)
		require.LessOrEqual(t, len(d.asks()), 60)
	})
}
