package node

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// certificates serves a certificate from files and reads it again when they
// change.
type certificates struct {
	cert, key string
	current   atomic.Pointer[tls.Certificate]
	stamp     atomic.Int64 // newest modification time seen, Unix nanoseconds
	looked    atomic.Int64
}

// recheck is how often a handshake looks at the files' times.
const recheck = 5 * time.Second

func newCertificates(cert, key string) (*certificates, error) {
	c := &certificates{cert: cert, key: key}
	return c, c.load()
}

// load reads the files whatever their times; SIGHUP calls it.
func (c *certificates) load() error {
	stamp := c.modified()
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("read the certificate named in [tls]: %w", err)
	}
	c.current.Store(&pair)
	c.stamp.Store(stamp)
	return nil
}

func (c *certificates) modified() int64 {
	var newest int64
	for _, f := range []string{c.cert, c.key} {
		if st, err := os.Stat(f); err == nil {
			newest = max(newest, st.ModTime().UnixNano())
		}
	}
	return newest
}

// get is a tls.Config.GetCertificate. A pair that can not be read leaves the
// old one in use: half-written files are common while they are being replaced.
func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	now := time.Now().UnixNano()
	if last := c.looked.Load(); now-last > int64(recheck) && c.looked.CompareAndSwap(last, now) && c.modified() != c.stamp.Load() {
		_ = c.load()
	}
	return c.current.Load(), nil
}

// config makes the server side's TLS settings.
func (c *certificates) config(min string) *tls.Config {
	version := uint16(tls.VersionTLS12)
	if min == "1.3" {
		version = tls.VersionTLS13
	}
	return &tls.Config{MinVersion: version, GetCertificate: c.get}
}

// tlsText describes a connection's TLS for Received, history and logs.
func tlsText(s *tls.ConnectionState) string {
	if s == nil {
		return ""
	}
	return tls.VersionName(s.Version) + " " + tls.CipherSuiteName(s.CipherSuite)
}
