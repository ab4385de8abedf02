// Package link finds a node of the cluster, and the admin token that it wants.
package link

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"relay/cmd/internal/listener"
	"relay/node/admin"
)

// Misuse is an error of the command line.
type Misuse struct{ error }

// Unwrap returns what is wrong with it.
func (m *Misuse) Unwrap() error { return m.error }

// Link is how a node is found.
type Link struct {
	addrs      []string
	token      string
	tokenFile  string
	CA         string // file; empty: RELAY_CA, or the system's
	consistent bool
}

// Flags adds its flags to a command and those below it.
func (l *Link) Flags(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringSliceVar(&l.addrs, "addr", nil, "URL of a node's admin API, several with commas (RELAY_ADDR)")
	f.StringVar(&l.token, "token", "", "admin token (RELAY_TOKEN)")
	f.StringVar(&l.tokenFile, "token-file", "", "file with the admin token (RELAY_TOKEN_FILE)")
	f.StringVar(&l.CA, "ca", "", "PEM file of the authority that signed the nodes' certificates (RELAY_CA)")
	f.BoolVar(&l.consistent, "consistent", false, "show everything committed before, at the cost of a round to a majority")
}

// Client connects to the nodes named by flags, or the environment, or to
// those that may run on this machine.
func (l *Link) Client(getenv func(string) string) (*admin.Client, error) {
	token, err := l.secret(getenv)
	if err != nil {
		return nil, err
	}
	addrs := l.addrs
	if len(addrs) == 0 {
		addrs = strings.FieldsFunc(getenv("RELAY_ADDR"), func(r rune) bool { return r == ',' || r == ' ' })
	}
	if len(addrs) == 0 {
		addrs = []string{
			"http://127.0.0.1:7180", "http://127.0.0.1:12180", "http://127.0.0.1:12280", "http://127.0.0.1:12380",
		}
	}
	o := admin.ClientOptions{Addrs: addrs, Token: token, FindToken: FindToken, Consistent: l.consistent}
	if ca := cmp.Or(l.CA, getenv("RELAY_CA")); ca != "" {
		if o.HTTP, err = trusting(ca); err != nil {
			return nil, err
		}
	}
	c, err := admin.NewClient(o)
	if err != nil {
		return nil, &Misuse{err}
	}
	return c, nil
}

// secret returns the token: the flags come before the environment.
func (l *Link) secret(getenv func(string) string) (string, error) {
	switch {
	case l.token != "" && l.tokenFile != "":
		return "", &Misuse{errors.New("--token and --token-file are both given")}
	case l.token != "":
		return l.token, nil
	case l.tokenFile != "":
		return readToken(l.tokenFile)
	case getenv("RELAY_TOKEN") != "":
		return getenv("RELAY_TOKEN"), nil
	case getenv("RELAY_TOKEN_FILE") != "":
		return readToken(getenv("RELAY_TOKEN_FILE"))
	}
	return "", nil
}

// readToken takes the first token of a file as nodes use it: one on a line,
// alone or behind a name.
func readToken(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("the token file can not be read: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if strings.ContainsFunc(line, func(r rune) bool {
			return r > '~' || r < ' ' && r != '\n' && r != '\r' && r != '\t'
		}) {
			break
		}
		return words[len(words)-1], nil
	}
	return "", fmt.Errorf("the token file %s is empty, or holds no token", path)
}

// FindToken is asked for the token of a node that wants one where none was given.
// Of a node on this machine it reads the file that the node names. That must be
// called admin.token, so that no program that waits at a node's port gets at
// other secrets, and what listens at the port must run as a user who may read the
// file, or one that waits there while the node is down would get its content. A node that
// names none may be of a dev cluster, whose token is
// no secret.
func FindToken(addr, file string) (string, error) {
	u, err := url.Parse(addr)
	if err != nil {
		return "", nil
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if u.Hostname() != "localhost" && (err != nil || !ip.Unmap().IsLoopback()) {
		return "", nil
	}
	switch {
	case file == "":
		return "dev", nil
	case !filepath.IsAbs(file) || filepath.Base(file) != "admin.token":
		return "", fmt.Errorf("the node at %s wants its admin token, which is in %q; give that with --token-file", addr, file)
	}
	token, err := readToken(file)
	if errors.Is(err, fs.ErrPermission) {
		return "", fmt.Errorf("the node at %s wants its admin token, and this user may not read %s; "+
			"run relayctl as root or as the user of the node, or give the token with --token-file or RELAY_TOKEN", addr, file)
	}
	if err != nil {
		return "", err
	}
	if err := listener.MayHear(portOf(u), file); err != nil {
		return "", fmt.Errorf("the program at %s is not told the admin token, because it may not be the node (%w); "+
			"if it is, give the token with --token-file %s", addr, err, file)
	}
	return token, nil
}

// portOf is the port of a URL.
func portOf(u *url.URL) uint16 {
	if n, err := strconv.ParseUint(u.Port(), 10, 16); err == nil {
		return uint16(n)
	}
	if u.Scheme == "https" {
		return 443
	}
	return 80
}

// trusting makes an HTTP client for a private authority.
func trusting(file string) (*http.Client, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("the CA file can not be read: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("there is no certificate in " + file)
	}
	return admin.DefaultHTTP(func(t *http.Transport) {
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}), nil
}
