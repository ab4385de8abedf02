package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	_ "embed"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"go.uber.org/zap"
)

// Options are what a node gives to its admin server.
type Options struct {
	Ports Ports
	// Token returns the bearer tokens, as the token file holds them: one on a
	// line, alone (its bearer is called admin) or behind a name and a space.
	// It is called for each request and must be cheap. Nil or empty: no token
	// is asked for, and only requests to an IP address or localhost are taken
	// (a web page can not reach those under another name).
	Token func() string
	// Ready returns nil where the node may take traffic, else the reason.
	Ready func() error
	// Barrier waits until local reads show everything that was committed
	// before the call. It serves ?consistent=true; nil ignores that.
	Barrier func(context.Context) error
	// Metrics answers /metrics; nil: 404.
	Metrics http.Handler
	// Profile answers /debug/pprof/, with the token only; nil: 404.
	Profile http.Handler
	Log     *zap.Logger
	Version string
}

// NewServer returns the handler of the admin listener. It starts no goroutine
// and keeps no state.
func NewServer(o Options) http.Handler {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Token == nil {
		o.Token = func() string { return "" }
	}
	s := &server{Options: o, mux: http.NewServeMux()}
	s.api = humago.New(s.mux, s.apiConfig())
	s.registerAll()
	s.registerPlain()
	return s.recovered(s.logged(http.NewCrossOriginProtection().Handler(s.authorised(s.mux))))
}

type server struct {
	Options
	mux *http.ServeMux
	api huma.API
}

func (s *server) apiConfig() huma.Config {
	c := huma.DefaultConfig("Relay admin API", s.Version)
	c.Info.Description = "Any node answers for the whole cluster. Times are RFC 3339 in UTC, sizes octets, durations seconds. " +
		"Errors are RFC 9457 problem documents."
	c.DocsPath, c.SchemasPath = "", "" // the documentation page would load foreign scripts
	c.CreateHooks = nil                // no $schema member in answers
	c.RejectUnknownQueryParameters = true
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer"}}
	c.Security = []map[string][]string{{"token": {}}}
	c.Transformers = []huma.Transformer{oneProblem, noNulls}
	return c
}

// oneProblem turns the library's own errors into ours.
func oneProblem(_ huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	detail := m.Detail
	if len(m.Errors) > 0 {
		var parts []string
		for _, e := range m.Errors {
			parts = append(parts, strings.TrimPrefix(e.Location+": ", ": ")+e.Message)
		}
		detail = strings.Join(parts, "; ")
	}
	return Problem(m.Status, detail, "/openapi.json describes what is expected"), nil
}

// registerPlain adds what is not part of the described API.
func (s *server) registerPlain() {
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") })
	s.mux.HandleFunc("GET /readyz", s.readyz)
	s.mux.HandleFunc("GET /{$}", page)
	if s.Metrics != nil {
		s.mux.Handle("GET /metrics", s.Metrics)
	}
	if s.Profile != nil {
		s.mux.Handle("GET /debug/pprof/", s.Profile)
	}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, Problem(http.StatusNotFound, "there is no "+r.Method+" "+r.URL.Path, "/openapi.json lists what there is"))
	})
}

func (s *server) readyz(w http.ResponseWriter, _ *http.Request) {
	if s.Ready != nil {
		if err := s.Ready(); err != nil {
			plain(w, http.StatusServiceUnavailable, "not ready: "+err.Error())
			return
		}
	}
	plain(w, http.StatusOK, "ready")
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n"))
}

//go:embed page.html
var pageHTML []byte

func page(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	_, _ = w.Write(pageHTML)
}

// ---------------------------------------------------------------- who asks

type whoKey struct{}

// authorised lets through what needs no token, and what bears one.
func (s *server) authorised(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tokens := s.Token()
		if strings.TrimSpace(tokens) == "" && !directHost(r.Host) {
			writeProblem(w, Problem(http.StatusForbidden, "without a token this API answers to an IP address or localhost only, not to "+r.Host,
				"set admin.token_file on the node"))
			return
		}
		who, ok := bearer(tokens, r.Header.Get("Authorization"))
		if !ok && !open(r) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="relay"`)
			writeProblem(w, Problem(http.StatusUnauthorized, "this needs the admin token of the node",
				"give it with --token, --token-file or RELAY_TOKEN"))
			return
		}
		if r.URL.Query().Get("consistent") == "true" && s.Barrier != nil {
			if err := s.Barrier(r.Context()); err != nil {
				writeProblem(w, s.problem(r.Context(), err))
				return
			}
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), whoKey{}, who)))
	})
}

// open reports whether a request needs no token: probes and the page (which
// holds no data) for everyone, metrics and description for this host.
func open(r *http.Request) bool {
	switch r.URL.Path {
	case "/", "/healthz", "/readyz":
		return true
	case "/metrics", "/openapi.json", "/openapi.yaml":
		peer, err := netip.ParseAddrPort(r.RemoteAddr)
		return err == nil && peer.Addr().Unmap().IsLoopback()
	}
	return false
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
	if strings.TrimSpace(tokens) == "" {
		return "admin", true
	}
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

// ---------------------------------------------------------------- around each request

func (s *server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			switch p := recover(); {
			case p == nil:
			case p == http.ErrAbortHandler:
				panic(p)
			default:
				s.Log.Error("admin request panicked", zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.Any("panic", p), zap.Stack("stack"))
				writeProblem(w, internal())
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// logged writes one line for each request: changes as info, reads as debug.
func (s *server) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		seen := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(seen, r)
		level := zap.InfoLevel
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			level = zap.DebugLevel
		}
		s.Log.Log(level, "admin request", zap.String("remote", r.RemoteAddr), zap.String("method", r.Method),
			zap.String("path", r.URL.Path), zap.Int("status", seen.status), zap.Duration("took", time.Since(began)))
	})
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// problem makes the answer for a port's error; what is not an *Error is our
// own fault and is logged, not sent.
func (s *server) problem(ctx context.Context, err error) *Error {
	if e, ok := asError(err); ok {
		return e
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return Unknown("the node did not get an answer in time")
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return Problem(499, "the client went away", "")
	}
	s.Log.Error("admin request failed", zap.Error(err))
	return internal()
}

func internal() *Error {
	return Problem(http.StatusInternalServerError, "the node could not do this", "its log says why")
}

func writeProblem(w http.ResponseWriter, e *Error) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(e.Status)
	_ = json.NewEncoder(w).Encode(e)
}
