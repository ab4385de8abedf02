// Package oauth fetches and renews access tokens (RFC 6749) with which the relay logs in at hosts: by client
// credentials, as Microsoft 365 wants them, by a refresh token, or by a service account's key (RFC 7523), as Google
// wants it.
package oauth

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	fetchTime   = 20 * time.Second // for one answer of the token server
	maxAnswer   = 64 << 10
	againAfter  = 30 * time.Second // a failed fetch is not tried again before
	renewBefore = time.Minute      // the end of a token
	unknownLife = 5 * time.Minute  // of a token whose end the server does not tell
)

// Credential is what a token is had for. Its form in JSON is the file that an operator gives; that of a Google service
// account is read as it is.
type Credential struct {
	TokenURL     string `json:"token_url"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	Scope        string `json:"scope"`
	RefreshToken string `json:"refresh_token"`
	CA           string `json:"ca"` // certificates in PEM that count in place of the system's

	// Of a service account:
	TokenURI     string `json:"token_uri"`
	ClientEmail  string `json:"client_email"`
	PrivateKey   string `json:"private_key"` // RSA, in PEM
	PrivateKeyID string `json:"private_key_id"`
}

// googleMail is what a service account asks for where its file, as Google makes it, says nothing.
const googleMail = "https://mail.google.com/"

// Parse reads a credential and checks that it is whole.
func Parse(text []byte) (*Credential, error) {
	c := &Credential{}
	if err := json.Unmarshal(text, c); err != nil {
		return nil, fmt.Errorf("it is not JSON: %w", err)
	}
	if c.TokenURL == "" {
		c.TokenURL = c.TokenURI
	}
	u, err := url.Parse(c.TokenURL)
	if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) {
		return nil, errors.New("token_url is no https:// address")
	}
	if c.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(c.CA)) {
		return nil, errors.New("ca has no certificate in PEM")
	}
	switch {
	case c.PrivateKey != "":
		if c.ClientEmail == "" {
			return nil, errors.New("a private_key goes with client_email")
		}
		if c.Scope == "" {
			c.Scope = googleMail
		}
		_, err := c.key()
		return c, err
	case c.ClientID == "":
		return nil, errors.New("client_id is missing")
	case c.RefreshToken == "" && c.ClientSecret == "":
		return nil, errors.New("there is neither client_secret nor refresh_token nor private_key")
	}
	return c, nil
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

func (c *Credential) key() (*rsa.PrivateKey, error) {
	block, _ := pem.Decode([]byte(c.PrivateKey))
	if block == nil {
		return nil, errors.New("private_key is not in PEM")
	}
	if k, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return k, nil
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if k, ok := any.(*rsa.PrivateKey); ok {
		return k, nil
	}
	return nil, fmt.Errorf("private_key is no RSA key: %w", errors.Join(err, errors.ErrUnsupported))
}

// Refused is a token server's no.
type Refused struct{ Host, Text string }

func (r *Refused) Error() string { return r.Host + " gave no token: " + r.Text }

// Tokens has the access token of one account. Its methods may be called concurrently.
type Tokens struct {
	c      *Credential
	user   string
	client *http.Client

	turn  chan struct{} // one fetches at a time
	mu    sync.Mutex
	token string
	until time.Time // the token is good; with err: there is no other try before
	err   error
}

// New makes the tokens of an account.
func New(c *Credential, user string) *Tokens {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment}
	if c.CA != "" {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM([]byte(c.CA))
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	t.DisableKeepAlives = true // it is an hour to the next question
	return &Tokens{c: c, user: user, turn: make(chan struct{}, 1), client: &http.Client{Transport: t, Timeout: fetchTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// Token returns a token that is good, fetching one if need be. fetched says that it is new. A *Refused is the server's
// word.
func (t *Tokens) Token(ctx context.Context) (token string, fetched bool, err error) {
	if token, err := t.known(); token != "" || err != nil {
		return token, false, err
	}
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return "", false, ctx.Err()
	}
	if token, err := t.known(); token != "" || err != nil {
		return token, false, err
	}
	token, life, err := t.fetch(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.token, t.err = token, err
	switch {
	case ctx.Err() != nil && err != nil:
		t.err = nil // nobody's fault but the caller's
	case err != nil:
		t.until = time.Now().Add(againAfter)
	default:
		t.until = time.Now().Add(max(life-renewBefore, life/2))
	}
	return token, true, err
}

// known is the token while it is good, or why there is none for now.
func (t *Tokens) known() (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !time.Now().Before(t.until) {
		return "", nil
	}
	return t.token, t.err
}

// Forget drops a token that a host did not take.
func (t *Tokens) Forget(token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token == token {
		t.token, t.until, t.err = "", time.Time{}, nil
	}
}

func (t *Tokens) fetch(ctx context.Context) (token string, life time.Duration, err error) {
	form, err := t.form(time.Now())
	if err != nil {
		return "", 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.c.TokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	resp, err := t.client.Do(req)
	if err != nil {
		return "", 0, fmt.Errorf("no answer of the token server: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return "", 0, fmt.Errorf("no answer of the token server: %w", err)
	}
	var a struct {
		Token       string  `json:"access_token"`
		Life        float64 `json:"expires_in"`
		Error       string  `json:"error"`
		Description string  `json:"error_description"`
	}
	err = json.Unmarshal(body, &a)
	switch {
	case resp.StatusCode >= 400 && resp.StatusCode < 500 && resp.StatusCode != 429:
		words := strings.TrimSpace(a.Error + " " + a.Description)
		return "", 0, &Refused{Host: req.URL.Host, Text: strings.TrimSpace(resp.Status + " " + words)}
	case resp.StatusCode != http.StatusOK:
		return "", 0, fmt.Errorf("the token server says %s", resp.Status)
	case err != nil || a.Token == "" || strings.ContainsAny(a.Token, "\x00\x01\r\n"):
		return "", 0, errors.New("the token server's answer has no token")
	case a.Life <= 0:
		return a.Token, unknownLife, nil
	}
	return a.Token, time.Duration(min(a.Life, 86400) * float64(time.Second)), nil
}

// form is what the token server is asked.
func (t *Tokens) form(now time.Time) (url.Values, error) {
	c := t.c
	v := url.Values{}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	switch {
	case c.PrivateKey != "":
		assertion, err := t.assertion(now)
		if err != nil {
			return nil, err
		}
		set("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer")
		set("assertion", assertion)
		return v, nil
	case c.RefreshToken != "":
		set("grant_type", "refresh_token")
		set("refresh_token", c.RefreshToken)
	default:
		set("grant_type", "client_credentials")
	}
	set("client_id", c.ClientID)
	set("client_secret", c.ClientSecret)
	set("scope", c.Scope)
	return v, nil
}

// assertion is a JWT (RFC 7523 §3) by which a service account speaks for the user.
func (t *Tokens) assertion(now time.Time) (string, error) {
	key, err := t.c.key()
	if err != nil {
		return "", err
	}
	head := map[string]any{"alg": "RS256", "typ": "JWT"}
	if t.c.PrivateKeyID != "" {
		head["kid"] = t.c.PrivateKeyID
	}
	var parts []string
	for _, part := range []map[string]any{head, {"iss": t.c.ClientEmail, "sub": t.user, "scope": t.c.Scope,
		"aud": t.c.TokenURL, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}} {
		text, err := json.Marshal(part)
		if err != nil {
			return "", err
		}
		parts = append(parts, base64.RawURLEncoding.EncodeToString(text))
	}
	signed := strings.Join(parts, ".")
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature), err
}
