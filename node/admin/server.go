package admin

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"net/http"
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
	// It is called for each request and must be cheap. Nil or empty: there is
	// none.
	Token func() string
	// TokenFile is the file that the tokens are in; programs of this machine
	// that come without one are told of it. Empty: none.
	TokenFile string
	// Anonymous reports whether clients of this machine need no token. Only
	// their requests to an IP address or localhost count: a web page can not
	// reach those under another name. Nil: they need one.
	Anonymous func() bool
	// TokenFailed hears of each wrong token, for a counter. Nil: nobody does.
	TokenFailed func()
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

// NewServer returns the handler of the admin listener. It starts no goroutine,
// and keeps nothing but who gave wrong tokens lately.
func NewServer(o Options) http.Handler {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Token == nil {
		o.Token = func() string { return "" }
	}
	if o.Anonymous == nil {
		o.Anonymous = func() bool { return false }
	}
	if o.TokenFailed == nil {
		o.TokenFailed = func() {}
	}
	s := &server{Options: o, mux: http.NewServeMux(), guard: newGuard()}
	s.api = humago.New(s.mux, s.apiConfig())
	s.registerAll()
	for _, unused := range []string{"ErrorModel", "ErrorDetail"} { // the library's; Problem is in their place
		delete(s.api.OpenAPI().Components.Schemas.Map(), unused)
	}
	s.registerPlain()
	return timed(s.recovered(s.logged(http.NewCrossOriginProtection().Handler(s.authorised(s.mux)))))
}

type server struct {
	Options
	mux   *http.ServeMux
	api   huma.API
	guard *guard
}

func (s *server) apiConfig() huma.Config {
	c := huma.DefaultConfig("Relay admin API", s.Version)
	c.Info.Description = "Any node answers for the whole cluster. Times are RFC 3339 in UTC, sizes octets, " +
		"durations seconds. " +
		"Errors are RFC 9457 problem documents."
	c.Info.License = &huma.License{Name: "MIT", Identifier: "MIT"}
	c.Servers = []*huma.Server{{URL: "/", Description: "the node that is asked"}}
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
			parts = append(parts, plainPath(e.Location)+plainWish(e.Message))
		}
		detail = strings.Join(parts, "; ")
	}
	return Problem(m.Status, detail, "/openapi.json describes what is expected"), nil
}

// plainWish says what a value has to be.
func plainWish(message string) string {
	what, ok := strings.CutPrefix(message, "expected ")
	if !ok || strings.HasPrefix(what, "required") {
		return message
	}
	return "has to be " + what
}

// plainPath names a value by its last name, without the way through the request.
func plainPath(location string) string {
	if location == "" {
		return ""
	}
	return location[strings.LastIndexByte(location, '.')+1:] + " "
}

// NewHealth returns the handler of a port for balancers: /healthz and /readyz,
// without a token and without anything else. Ready is as in Options.
func NewHealth(ready func() error) http.Handler {
	s := &server{Options: Options{Ready: ready}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	return mux
}

func healthz(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") }

// registerPlain adds what is not part of the described API.
func (s *server) registerPlain() {
	s.mux.HandleFunc("GET /healthz", healthz)
	s.mux.HandleFunc("GET /readyz", s.readyz)
	s.mux.HandleFunc("GET /{$}", page)
	if s.Metrics != nil {
		s.mux.Handle("GET /metrics", s.Metrics)
	}
	if s.Profile != nil {
		s.mux.Handle("GET /debug/pprof/", s.Profile)
	}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, Problem(http.StatusNotFound, "there is no "+r.Method+" "+r.URL.Path,
			"/openapi.json lists what there is"))
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
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "+
		"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	_, _ = w.Write(pageHTML)
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
				s.Log.Error("admin request panicked", zap.String("method", r.Method), pathOf(r),
					zap.Any("panic", p), zap.Stack("stack"))
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
			pathOf(r), zap.Int("status", seen.status), zap.Duration("took", time.Since(began)))
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

// problem makes the answer for a port's error; an error that is no *Error is our own
// fault and is logged, not sent.
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
