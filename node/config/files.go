package config

import (
	"crypto/tls"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// checkFiles reports files that are named but can not be used.
func (c *Config) checkFiles(r *report) {
	c.checkCertificate(r)
	c.checkTokenFile(r)
	checkSecret(r, "cluster.join_token_file", c.Cluster.JoinTokenFile)
	c.checkDataDir(r)
}

func (c *Config) checkCertificate(r *report) {
	cert := readable(r, "tls.cert", c.TLS.Cert)
	key := readable(r, "tls.key", c.TLS.Key)
	if !cert || !key {
		return
	}
	if _, err := tls.LoadX509KeyPair(c.TLS.Cert, c.TLS.Key); err != nil {
		r.add("tls.cert", "%s and %s are not a certificate and its key: %s",
			c.TLS.Cert, c.TLS.Key, strings.TrimPrefix(err.Error(), "tls: "))
	}
}

// checkSecret wants a file with something in it.
func checkSecret(r *report, key, path string) {
	if !readable(r, key, path) {
		return
	}
	if data, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(data)) == "" {
		r.add(key, "the file %s is empty", path)
	}
}

// readable reports whether a file is named and can be read.
func readable(r *report, key, path string) bool {
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
		r.add(key, "there is no file %s", path)
	case errors.Is(err, fs.ErrPermission):
		r.add(key, "the file %s may not be read by this user", path)
	case err != nil:
		r.add(key, "%v", err)
	default:
		return f.Close() == nil
	}
	return false
}
