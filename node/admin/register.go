package admin

import (
	"context"
	"crypto/sha256"
	"net/http"
	"net/url"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/oklog/ulid/v2"
)

// Reading is part of every question. Its like are exported only because the
// library looks into exported parts of an input.
type Reading struct {
	Consistent bool `query:"consistent" doc:"wait until this node shows everything committed before the question"`
}

// Changing is part of every request that changes something.
type Changing struct {
	Why       string `query:"why" doc:"for the audit log"`
	WhyHeader string `header:"Relay-Why" doc:"the same, percent-encoded"`
	Request   string `header:"Idempotency-Key" doc:"a change that arrives twice with the same key is made once"`
}

// by says who asks. A request without a key gets one.
func (c Changing) by(ctx context.Context) By {
	who, _ := ctx.Value(whoKey{}).(string)
	b := By{Who: who, Why: c.Why, Request: requestID(c.Request)}
	if b.Why == "" {
		b.Why = c.WhyHeader
		if text, err := url.PathUnescape(c.WhyHeader); err == nil {
			b.Why = text
		}
	}
	return b
}

// requestID returns a ULID: the key itself, one made of the key, or a new one.
func requestID(key string) string {
	if key == "" {
		return ulid.Make().String()
	}
	if id, err := ulid.ParseStrict(key); err == nil {
		return id.String()
	}
	sum := sha256.Sum256([]byte(key))
	sum[0] &= 0x7f
	return ulid.ULID(sum[:16]).String()
}

// DryChanging is a change that can be tried first.
type DryChanging struct {
	Changing
	DryRun bool `query:"dry_run" doc:"only say what would happen"`
}

// body is an answer.
type body[T any] struct{ Body T }

// nothing is the answer where there is nothing to say: 204.
type nothing struct{}

// none is the absence of further input.
type none struct{ Reading }

// handle registers one operation. The port's errors become problems.
func handle[I, O any](s *server, method, path, summary string, h func(context.Context, *I) (*O, error)) {
	handleOp(s, huma.Operation{Method: method, Path: path, Summary: summary}, h)
}

func handleOp[I, O any](s *server, op huma.Operation, h func(context.Context, *I) (*O, error)) {
	op.OperationID = huma.GenerateOperationID(op.Method, op.Path, new(O))
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	s.problems(&op)
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := h(ctx, in)
		if err != nil {
			return nil, s.problem(ctx, err)
		}
		return out, nil
	})
}

// problems declares how an operation may fail.
func (s *server) problems(op *huma.Operation) {
	fails := map[string]string{
		"400":     "The request cannot be read.",
		"401":     "The token is missing or wrong.",
		"422":     "A value is not what is expected; the detail names it.",
		"503":     "The node has no majority of the cluster in reach.",
		"default": "Another problem; the detail says which.",
	}
	if strings.Contains(op.Path, "{") {
		fails["404"] = "There is no such thing."
	}
	if op.Method != http.MethodGet {
		fails["409"] = "The state of things does not allow it; the detail says what to do first."
	}
	schema := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Error](), true, "Problem")
	for status, words := range fails {
		op.Responses[status] = &huma.Response{
			Description: words, Content: map[string]*huma.MediaType{"application/problem+json": {Schema: schema}},
		}
	}
}

// answer wraps a port's answer.
func answer[T any](v *T, err error) (*body[*T], error) {
	if err != nil {
		return nil, err
	}
	return &body[*T]{v}, nil
}

// answerList wraps a port's list.
func answerList[T any](v []T, err error) (*body[[]T], error) {
	if err != nil {
		return nil, err
	}
	return &body[[]T]{v}, nil
}

// offer registers the operations of a port, or says 501 where there is none.
func (s *server) offer(has bool, what string, register func(), paths ...string) {
	if has {
		register()
		return
	}
	absent := func(w http.ResponseWriter, _ *http.Request) { writeProblem(w, Unsupported(what)) }
	for _, path := range paths {
		s.mux.HandleFunc(path, absent)
	}
}

func (s *server) registerAll() {
	p := s.Ports
	s.offer(p.Cluster != nil, "membership", s.registerCluster,
		"/v1/status", "/v1/nodes", "/v1/nodes/", "/v1/transfer", "/v1/verify")
	s.offer(p.Domains != nil, "domains", s.registerDomains, "/v1/domains", "/v1/domains/")
	s.offer(p.Users != nil, "users", s.registerUsers, "/v1/users", "/v1/users/")
	s.offer(p.Aliases != nil, "aliases", s.registerAliases, "/v1/aliases", "/v1/aliases/")
	s.offer(p.Signers != nil, "signing keys", s.registerSigners, "/v1/dkim", "/v1/dkim/")
	s.offer(p.Routes != nil, "routes", s.registerRoutes, "/v1/routes", "/v1/routes/")
	s.offer(p.Rules != nil, "rules", s.registerRules, "/v1/rules", "/v1/rules/")
	s.offer(p.Suppressions != nil, "the suppression list", s.registerSuppressions, "/v1/suppressed", "/v1/suppressed/")
	s.offer(p.Policy != nil, "settings", s.registerPolicy, "/v1/settings")
	s.offer(p.Queue != nil, "the queue", s.registerQueue, "/v1/queue", "/v1/queue/")
	s.offer(p.History != nil, "history", s.registerHistory, "/v1/trace", "/v1/trace/")
	s.offer(p.Mailboxes != nil, "mailboxes", s.registerMailboxes,
		"/v1/mailboxes", "/v1/mailboxes/{user}", "/v1/mailboxes/{user}/lock")
	s.offer(p.Content != nil, "reading and filling mailboxes", s.registerContent,
		"/v1/mailboxes/{user}/messages", "/v1/mailboxes/{user}/messages/{uid}", "/v1/mailboxes/{user}/import")
	s.offer(p.Mail != nil, "sending", s.registerMail, "/v1/messages")
	s.offer(p.Audit != nil, "the audit log", s.registerAudit, "/v1/audit")
	s.offer(p.Events != nil, "events", s.registerEvents, "/v1/events")
	s.offer(p.Doctor != nil, "the doctor", s.registerDoctor, "/v1/doctor")
}
