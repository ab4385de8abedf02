package tlscert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"relay/node/config"
)

// makeCert writes a certificate with its key into one file. issuer nil: it is a
// CA that signs itself.
func makeCert(t *testing.T, name string, issuer *tls.Certificate) (file string, pair *tls.Certificate) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	parent, signer := template, any(key)
	if issuer == nil {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true,
			x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
	} else {
		parent, signer = issuer.Leaf, issuer.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	require.NoError(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	data := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})...)
	file = filepath.Join(t.TempDir(), name+".pem")
	require.NoError(t, os.WriteFile(file, data, 0o600))
	one, err := tls.LoadX509KeyPair(file, file)
	require.NoError(t, err)
	return file, &one
}

// shake makes a handshake and returns what both sides saw.
func shake(t *testing.T, server, client *tls.Config) (s, c tls.ConnectionState) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	srv, cl := tls.Server(a, server), tls.Client(b, client)
	done := make(chan error, 1)
	go func() { done <- srv.Handshake() }()
	require.NoError(t, cl.Handshake())
	require.NoError(t, <-done)
	return srv.ConnectionState(), cl.ConnectionState()
}

func TestTheNameAskedForChoosesTheCertificate(t *testing.T) {
	first, _ := makeCert(t, "one.test", nil)
	second, _ := makeCert(t, "two.test", nil)
	c, err := NewCertificates(config.TLS{Cert: first, Key: first, Certificates: []string{second}}, zap.NewNop())
	require.NoError(t, err)
	for asked, want := range map[string]string{
		"one.test": "one.test", "two.test": "two.test", "other.test": "one.test", "": "one.test",
	} {
		_, got := shake(t, c.Config("1.2", false), &tls.Config{ServerName: asked, InsecureSkipVerify: true})
		require.Equal(t, want, got.PeerCertificates[0].Subject.CommonName, "asked for %q", asked)
	}
}

// TestReplacedCertificatesAreUsed: whatever time the new files bear, and never a
// half of them.
func TestReplacedCertificatesAreUsed(t *testing.T) {
	first, _ := makeCert(t, "one.test", nil)
	second, old := makeCert(t, "two.test", nil)
	replacement, fresh := makeCert(t, "two.test", nil)
	core, told := observer.New(zap.InfoLevel)
	c, err := NewCertificates(config.TLS{Cert: first, Key: first, Certificates: []string{second}}, zap.New(core))
	require.NoError(t, err)
	serves := func() *x509.Certificate {
		c.looked.Store(0) // five seconds have passed
		_, got := shake(t, c.Config("1.2", false), &tls.Config{ServerName: "two.test", InsecureSkipVerify: true})
		return got.PeerCertificates[0]
	}
	require.True(t, serves().Equal(old.Leaf))
	data, err := os.ReadFile(replacement)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(second, data[:len(data)/2], 0o600))
	for range 2 {
		require.True(t, serves().Equal(old.Leaf), "half a file")
	}
	require.Equal(t, 1, told.FilterLevelExact(zap.ErrorLevel).Len(), "told once")
	require.NoError(t, os.WriteFile(second, data, 0o600))
	long := time.Now().Add(-24 * time.Hour)
	require.NoError(t, os.Chtimes(second, long, long))
	require.True(t, serves().Equal(fresh.Leaf))
	require.Equal(t, 1, told.FilterMessage("certificates read again").Len())
}

func TestClientCertificatesMayRelay(t *testing.T) {
	ca, caPair := makeCert(t, "ca.test", nil)
	_, signed := makeCert(t, "signed.test", caPair)
	_, known := makeCert(t, "known.test", nil)
	_, stranger := makeCert(t, "stranger.test", nil)
	sum := sha256.Sum256(known.Leaf.Raw)
	r, err := NewRelayers(config.Relay{ClientCA: ca, ClientCertificates: []string{hex.EncodeToString(sum[:])}})
	require.NoError(t, err)
	c, err := NewCertificates(config.TLS{Cert: ca, Key: ca}, zap.NewNop())
	require.NoError(t, err)
	for _, one := range []struct {
		pair *tls.Certificate
		may  bool
	}{{signed, true}, {known, true}, {stranger, false}, {nil, false}} {
		conf := &tls.Config{InsecureSkipVerify: true}
		if one.pair != nil {
			conf.Certificates = []tls.Certificate{*one.pair}
		}
		state, _ := shake(t, c.Config("1.3", true), conf)
		require.Equal(t, one.may, r.May(&state))
	}
	require.False(t, r.May(nil), "a client in clear text")
	none, err := NewRelayers(config.Relay{})
	require.NoError(t, err)
	require.False(t, none.May(nil))
	_, err = NewRelayers(config.Relay{ClientCA: filepath.Join(t.TempDir(), "missing")})
	require.Error(t, err)
}
