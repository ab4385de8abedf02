package oauth

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// server gives tokens t1, t2 and so on, or answers as it is told.
type server struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []url.Values
	status int
	answer string
}

func newServer(t *testing.T) *server {
	s := &server{}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		_ = r.ParseForm()
		s.asked = append(s.asked, r.PostForm)
		if s.status != 0 {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(s.status)
			fmt.Fprint(w, s.answer)
			return
		}
		fmt.Fprintf(w, `{"access_token":"t%d","token_type":"Bearer","expires_in":3600}`, len(s.asked))
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) says(status int, answer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.answer = status, answer
}

func (s *server) questions() []url.Values {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// tokens makes those of a credential at this server.
func (s *server) tokens(t *testing.T, with map[string]string) *Tokens {
	t.Helper()
	all := map[string]string{"token_url": s.URL + "/token",
		"ca": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))}
	for k, v := range with {
		all[k] = v
	}
	text, err := json.Marshal(all)
	require.NoError(t, err)
	c, err := Parse(text)
	require.NoError(t, err)
	return New(c, "relay@example.net")
}

var secret = map[string]string{"client_id": "id", "client_secret": "secret", "scope": "a b"}

// TestTokens: one is fetched, kept while it is good, and fetched anew behind Forget and its end.
func TestTokens(t *testing.T) {
	s := newServer(t)
	k := s.tokens(t, secret)
	get := func() string {
		token, _, err := k.Token(t.Context())
		require.NoError(t, err)
		return token
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { _, _, _ = k.Token(t.Context()) })
	}
	all.Wait()
	require.Equal(t, "t1", get())
	require.Equal(t, []url.Values{{"grant_type": {"client_credentials"}, "client_id": {"id"}, "client_secret": {"secret"},
		"scope": {"a b"}}}, s.questions(), "it is fetched once")
	k.Forget("another")
	require.Equal(t, "t1", get())
	k.Forget("t1")
	require.Equal(t, "t2", get())
	require.WithinDuration(t, time.Now().Add(time.Hour-renewBefore), k.until, 10*time.Minute)
	k.until = time.Now()
	require.Equal(t, "t3", get())
}

// TestRefreshToken: what it asks.
func TestRefreshToken(t *testing.T) {
	s := newServer(t)
	_, _, err := s.tokens(t, map[string]string{"client_id": "id", "refresh_token": "r"}).Token(t.Context())
	require.NoError(t, err)
	require.Equal(t, []url.Values{{"grant_type": {"refresh_token"}, "client_id": {"id"}, "refresh_token": {"r"}}},
		s.questions())
}

// TestServiceAccount: the assertion is signed, and speaks for the user.
func TestServiceAccount(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	s := newServer(t)
	k := s.tokens(t, map[string]string{"type": "service_account", "client_email": "robot@example.net",
		"private_key_id": "k1", "private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))})
	_, _, err = k.Token(t.Context())
	require.NoError(t, err)
	asked := s.questions()[0]
	require.Equal(t, "urn:ietf:params:oauth:grant-type:jwt-bearer", asked.Get("grant_type"))
	parts := strings.Split(asked.Get("assertion"), ".")
	require.Len(t, parts, 3)
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	require.NoError(t, err)
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	require.NoError(t, rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, sum[:], signature))
	read := func(part string) (m map[string]any) {
		text, err := base64.RawURLEncoding.DecodeString(part)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &m))
		return m
	}
	require.Equal(t, map[string]any{"alg": "RS256", "typ": "JWT", "kid": "k1"}, read(parts[0]))
	claims := read(parts[1])
	require.Equal(t, "robot@example.net", claims["iss"])
	require.Equal(t, "relay@example.net", claims["sub"])
	require.Equal(t, googleMail, claims["scope"])
	require.Equal(t, s.URL+"/token", claims["aud"])
	require.EqualValues(t, 3600, claims["exp"].(float64)-claims["iat"].(float64))
}

// TestNoToken: the server's no is told apart from what passes, and neither is asked for again at once.
func TestNoToken(t *testing.T) {
	for name, c := range map[string]struct {
		status  int
		answer  string
		refused bool
		want    string
	}{
		"refused":   {400, `{"error":"invalid_client","error_description":"who are you?"}`, true, "invalid_client who are you?"},
		"bare":      {401, "", true, "401 Unauthorized"},
		"too many":  {429, "", false, "429"},
		"down":      {503, "", false, "503"},
		"elsewhere": {302, "", false, "302"},
		"no JSON":   {200, "<html>", false, "no token"},
		"no token":  {200, "{}", false, "no token"},
		"injected":  {200, `{"access_token":"a\u0001user=root"}`, false, "no token"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			s.says(c.status, c.answer)
			k := s.tokens(t, secret)
			for range 2 {
				_, _, err := k.Token(t.Context())
				require.ErrorContains(t, err, c.want)
				_, refused := err.(*Refused)
				require.Equal(t, c.refused, refused)
			}
			require.Len(t, s.questions(), 1)
			s.says(0, "")
			k.until = time.Now()
			token, _, err := k.Token(t.Context())
			require.NoError(t, err)
			require.Equal(t, "t2", token)
		})
	}
	s := newServer(t)
	k := s.tokens(t, secret)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := k.Token(gone)
	require.Error(t, err)
	_, _, err = k.Token(t.Context())
	require.NoError(t, err, "who hangs up spoils nothing")
}

// TestParse: what lacks something is refused before it is kept.
func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"x":                                     "not JSON",
		`{"client_id":"a","client_secret":"b"}`: "token_url",
		`{"token_url":"http://example.net/t","client_id":"a","client_secret":"b"}`:        "token_url",
		`{"token_url":"https://example.net/t","client_secret":"b"}`:                       "client_id",
		`{"token_url":"https://example.net/t","client_id":"a"}`:                           "neither client_secret",
		`{"token_uri":"https://example.net/t","client_email":"a","private_key":"b"}`:      "not in PEM",
		`{"token_uri":"https://example.net/t","private_key":"b"}`:                         "client_email",
		`{"token_url":"https://example.net","client_id":"a","client_secret":"b","ca":""}`: "",
		`{"token_url":"http://127.0.0.1:1/t","client_id":"a","client_secret":"b"}`:        "",
		`{"token_url":"https://e.net","client_id":"a","refresh_token":"b","ca":"x"}`:      "ca has no",
	} {
		_, err := Parse([]byte(text))
		if want == "" {
			require.NoError(t, err, text)
			continue
		}
		require.ErrorContains(t, err, want, text)
	}
}
