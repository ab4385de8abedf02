package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// checkFiles reports files that are named but can not be used.
func (c *Config) checkFiles(r *report) {
	c.checkCertificate(r)
	for i, file := range c.TLS.Certificates {
		key := fmt.Sprintf("tls.certificates[%d]", i)
		if readable(r, key, file, placeFile) {
			checkPair(r, key, file, file)
		}
	}
	checkRoots(r, "relay.client_ca", c.Relay.ClientCA)
	checkRoots(r, "acme.ca", c.ACME.CA)
	checkRoots(r, "delivery.https_ca", c.Delivery.HTTPSCA)
	c.checkTokenFile(r)
	c.checkJoinToken(r)
	c.checkDataDir(r)
}

// placeFile is the cure for a file that is not there and nobody can make here.
const placeFile = "put it there, or name the file that you have"

func (c *Config) checkCertificate(r *report) {
	cert := readable(r, "tls.cert", c.TLS.Cert, placeFile)
	key := readable(r, "tls.key", c.TLS.Key, placeFile)
	if cert && key {
		checkPair(r, "tls.cert", c.TLS.Cert, c.TLS.Key)
	}
}

// checkPair wants a certificate and its key, in two files or in one.
func checkPair(r *report, key, cert, secret string) {
	_, err := tls.LoadX509KeyPair(cert, secret)
	if err == nil {
		return
	}
	what, why := cert+" and "+secret+" are not", strings.TrimPrefix(err.Error(), "tls: ")
	if cert == secret {
		what = cert + " does not hold"
	}
	r.add(key, "%s a certificate and its key: %s", what, why)
}

// HTTPSRoots reads HTTPSCA; nil where it is not set.
func (d Delivery) HTTPSRoots() (*x509.CertPool, error) {
	if d.HTTPSCA == "" {
		return nil, nil
	}
	text, err := os.ReadFile(d.HTTPSCA)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("there is no certificate in %s", d.HTTPSCA)
	}
	return roots, nil
}

// checkRoots wants certificates in PEM.
func checkRoots(r *report, key, path string) {
	if !readable(r, key, path, placeFile) {
		return
	}
	if data, err := os.ReadFile(path); err == nil && !x509.NewCertPool().AppendCertsFromPEM(data) {
		r.add(key, "there is no certificate in %s: name a file with certificates in PEM, -----BEGIN CERTIFICATE-----", path)
	}
}

// checkJoinToken wants a file with something in it.
func (c *Config) checkJoinToken(r *report) {
	const key = "cluster.join_token_file"
	path := c.Cluster.JoinTokenFile
	cure := fmt.Sprintf("'relayctl node token > %s' on a member makes one", path)
	if !readable(r, key, path, cure) {
		return
	}
	if data, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(data)) == "" {
		r.add(key, "the file %s is empty: %s", path, cure)
	}
}

// readable reports whether a file is named and can be read. The cure says what to do
// where it is not there.
func readable(r *report, key, path, cure string) bool {
	if path == "" {
		return false
	}
	if !filepath.IsAbs(path) {
		r.add(key, "%q must be a path from the root", path)
		return false
	}
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.add(key, "there is no file %s: %s", path, cure)
	case errors.Is(err, fs.ErrPermission):
		r.add(key, "user %s may not read the file %s: give it to that user with 'chown %[1]s %[2]s', or to its group",
			userName(), path)
	case err != nil:
		r.add(key, "%v", err)
	default:
		return f.Close() == nil
	}
	return false
}
