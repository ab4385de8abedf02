package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"go.uber.org/zap"

	"relay/smtp/printable"
)

// TokenFileHeader is the field of a 401 answer that names the file with the
// token. Only clients of the same machine see it.
const TokenFileHeader = "Relay-Token-File"

type whoKey struct{}

// authorised lets through what needs no token, and what bears one.
func (s *server) authorised(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, problem := s.judge(w, r)
		if problem != nil {
			writeProblem(w, problem)
			return
		}
		if who != "" && r.URL.Query().Get("consistent") == "true" && s.Barrier != nil {
			if err := s.Barrier(r.Context()); err != nil {
				writeProblem(w, s.problem(r.Context(), err))
				return
			}
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), whoKey{}, who)))
	})
}

// judge finds who asks, or why the request is refused. A wrong token is
// answered after a while.
func (s *server) judge(w http.ResponseWriter, r *http.Request) (who string, refused *Error) {
	given := r.Header.Get("Authorization")
	if given == "" || s.Anonymous() && sameMachine(r) && strings.TrimSpace(s.Token()) == "" {
		return s.anonymous(w, r)
	}
	turn, ok := s.guard.begin(r.RemoteAddr)
	if !ok {
		w.Header().Set("Retry-After", "5")
		return "", Problem(http.StatusTooManyRequests, "too many wrong tokens came from "+turn.net.String(),
			"try again in some seconds")
	}
	defer turn.end()
	if who, ok := bearer(s.Token(), given); ok {
		return who, nil
	}
	s.TokenFailed()
	count, delay := turn.failed()
	s.Log.Warn("wrong admin token", zap.String("remote", r.RemoteAddr), zap.String("method", r.Method),
		pathOf(r), zap.Int("from_there", count), zap.Duration("delay", delay))
	turn.wait(r.Context(), delay)
	if open(r) {
		return "", nil
	}
	return "", unauthorised(w, "this is not an admin token of the node")
}

// pathOf is what was asked for, as a log may show it: strangers choose it.
func pathOf(r *http.Request) zap.Field { return zap.String("path", printable.Text(r.URL.Path, 255)) }

// anonymous judges a request without a token.
func (s *server) anonymous(w http.ResponseWriter, r *http.Request) (who string, refused *Error) {
	if s.Anonymous() && sameMachine(r) {
		if directHost(r.Host) {
			return "admin", nil
		}
		if !open(r) {
			return "", Problem(http.StatusForbidden,
				"without a token this API answers to an IP address or localhost only, not to "+r.Host,
				"set admin.token_file on the node")
		}
	}
	if open(r) {
		return "", nil
	}
	if sameMachine(r) && directHost(r.Host) && s.TokenFile != "" {
		w.Header().Set(TokenFileHeader, s.TokenFile)
	}
	return "", unauthorised(w, "this needs the admin token of the node")
}

func unauthorised(w http.ResponseWriter, detail string) *Error {
	w.Header().Set("WWW-Authenticate", `Bearer realm="relay"`)
	return Problem(http.StatusUnauthorized, detail, "give it with --token, --token-file or RELAY_TOKEN")
}

// open reports whether a request needs no token: probes and the page (which
// holds no data) for everyone, metrics for this machine.
func open(r *http.Request) bool {
	switch r.URL.Path {
	case "/", "/healthz", "/readyz":
		return true
	case "/metrics":
		return sameMachine(r)
	}
	return false
}

// sameMachine reports whether a request comes from this machine, and not by a
// proxy on it.
func sameMachine(r *http.Request) bool {
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
		if _, ok := r.Header[name]; ok {
			return false
		}
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && peer.Addr().Unmap().IsLoopback()
}

// directHost reports whether a Host header can not be the name of a web site
// that was made to resolve to this machine.
func directHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || host == "localhost"
}

// bearer finds who bears the token. The comparison takes the same time
// whatever the token is.
func bearer(tokens, header string) (who string, ok bool) {
	scheme, secret, _ := strings.Cut(header, " ")
	given := sha256.Sum256([]byte(strings.TrimSpace(secret)))
	for line := range strings.Lines(tokens) {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		name := "admin"
		if len(words) > 1 {
			name = words[0]
		}
		want := sha256.Sum256([]byte(words[len(words)-1]))
		if subtle.ConstantTimeCompare(given[:], want[:]) == 1 && strings.EqualFold(scheme, "bearer") {
			who, ok = name, true
		}
	}
	return who, ok
}
