package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

type mailboxInput struct {
	Reading
	User string `path:"user"`
}

type unlockInput struct {
	Changing
	User  string `path:"user"`
	Token uint64 `query:"token" doc:"fencing token of the lock that is meant: later ones stay; default: the lock of now"`
}

func (s *server) registerMailboxes() {
	m := s.Ports.Mailboxes
	handle(s, http.MethodGet, "/v1/mailboxes", "The maildrops",
		func(ctx context.Context, _ *none) (*body[[]Mailbox], error) {
			return answerList(m.Mailboxes(ctx))
		})
	handle(s, http.MethodGet, "/v1/mailboxes/{user}", "One maildrop with its messages",
		func(ctx context.Context, in *mailboxInput) (*body[*MailboxDetail], error) {
			return answer(m.Mailbox(ctx, in.User))
		})
	handle(s, http.MethodDelete, "/v1/mailboxes/{user}/lock", "Break the lock of a maildrop",
		func(ctx context.Context, in *unlockInput) (*body[*Unlocked], error) {
			return answer(m.Unlock(ctx, in.by(ctx), in.User, in.Token))
		})
}

type mailInput struct {
	Reading
	User string `path:"user"`
	UID  uint64 `path:"uid"`
}

type mailPut struct {
	Changing
	Upload
	User     string `path:"user"`
	Received string `query:"received" format:"date-time" doc:"when it arrived; default: now"`
}

type stored struct {
	ID string `json:"id"`
}

func (s *server) registerContent() {
	c := s.Ports.Content
	handleOp(s, raw("/v1/mailboxes/{user}/messages/{uid}", "One message of a maildrop"),
		func(ctx context.Context, in *mailInput) (*huma.StreamResponse, error) {
			return stream(c.OpenMail(ctx, in.User, in.UID))
		})
	op := huma.Operation{
		Method: http.MethodPost, Path: "/v1/mailboxes/{user}/messages", Summary: "Put a message into a maildrop as it is",
	}
	defer s.accepts(op.Path, "message/rfc822")
	handleOp(s, op, func(ctx context.Context, in *mailPut) (*body[*stored], error) {
		received, err := instant(in.Received)
		if err != nil {
			return nil, err
		}
		id, err := c.PutMail(ctx, in.by(ctx), in.User, received, in.content)
		return &body[*stored]{&stored{id}}, err
	})
	s.registerImport()
}

// Upload takes the request's content as a stream: a message of 50 MB must not
// stand in memory here.
type Upload struct {
	content io.Reader
	kind    string // media type

	boundary string // of a multipart one
}

// Resolve implements huma.Resolver.
func (u *Upload) Resolve(ctx huma.Context) []error {
	u.content = ctx.BodyReader()
	kind, params, _ := mime.ParseMediaType(ctx.Header("Content-Type"))
	u.kind, u.boundary = kind, params["boundary"]
	return nil
}

// accepts describes the request body of a POST that Upload reads. It comes
// after the registration, or else the library would read the body itself.
func (s *server) accepts(path string, kinds ...string) {
	content := map[string]*huma.MediaType{}
	for _, kind := range kinds {
		schema := &huma.Schema{Type: huma.TypeString, Format: "binary"}
		if kind == "application/json" {
			schema = s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Letter](), true, "Letter")
		}
		content[kind] = &huma.MediaType{Schema: schema}
	}
	s.api.OpenAPI().Paths[path].Post.RequestBody = &huma.RequestBody{Required: true, Content: content}
}

type sendInput struct {
	Changing
	Upload
	From string   `query:"from" doc:"reverse-path, empty for the null path; with message/rfc822"`
	To   []string `query:"to,explode" doc:"recipients; with message/rfc822"`
}

func (s *server) registerMail() {
	op := huma.Operation{Method: http.MethodPost, Path: "/v1/messages", Summary: "Hand in a message, whole or in parts"}
	defer s.accepts(op.Path, "application/json", "message/rfc822")
	handleOp(s, op, func(ctx context.Context, in *sendInput) (*body[*Receipt], error) {
		envelope, message, err := in.message()
		if err != nil {
			return nil, err
		}
		return answer(s.Ports.Mail.Send(ctx, in.by(ctx), envelope, message))
	})
}

func (in *sendInput) message() (Envelope, io.Reader, error) {
	e, message := Envelope{Sender: in.From, Recipients: in.To}, in.content
	switch in.kind {
	case "message/rfc822":
	case "application/json", "":
		var l Letter
		if err := strictJSON(in.content, &l); err != nil {
			return e, nil, Invalid("the letter can not be read: %v", err)
		}
		text, err := l.Compose(time.Now())
		if err != nil {
			return e, nil, Invalid("%v", err)
		}
		e, message = l.envelope(), bytes.NewReader(text)
	default:
		return e, nil, Problem(http.StatusUnsupportedMediaType,
			"a message is message/rfc822 or application/json, not "+in.kind, "")
	}
	e.Sender = strings.TrimSuffix(strings.TrimPrefix(e.Sender, "<"), ">")
	if len(e.Recipients) == 0 {
		return e, nil, Invalid("there is no recipient")
	}
	return e, message, nil
}

// maxLetter bounds a letter in JSON, which is held in memory.
const maxLetter = 64 << 20

func strictJSON(r io.Reader, into any) error {
	d := json.NewDecoder(io.LimitReader(r, maxLetter))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

type auditInput struct {
	Reading
	Since  string `query:"since" format:"date-time"`
	Before uint64 `query:"before" doc:"only entries of a lower index: that of the last of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"10000" default:"100"`
}

type auditCountInput struct {
	Reading
	Since string `query:"since" format:"date-time"`
}

func (s *server) registerAudit() {
	handle(s, http.MethodGet, "/v1/audit", "Who changed what, newest first",
		func(ctx context.Context, in *auditInput) (*body[[]AuditEntry], error) {
			since, err := instant(in.Since)
			if err != nil {
				return nil, err
			}
			return answerList(s.Ports.Audit.Audit(ctx, AuditQuery{Since: since, Before: in.Before, Limit: in.Limit}))
		})
	handle(s, http.MethodGet, "/v1/audit/count", "How many changes there are",
		func(ctx context.Context, in *auditCountInput) (*body[*Count], error) {
			since, err := instant(in.Since)
			if err != nil {
				return nil, err
			}
			return answer(s.Ports.Audit.CountAudit(ctx, AuditQuery{Since: since}))
		})
}
