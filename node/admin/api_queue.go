package admin

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

type queueInput struct {
	Reading
	QueueFilter
	Sort  string `query:"sort" enum:"created,-created,size,-size,attempts,-attempts,next_attempt,-next_attempt,sender,-sender,domain,-domain" default:"created"`
	After string `query:"after" doc:"cursor: the Relay-Next header of the page before"`
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"1000"`
}

type countInput struct {
	Reading
	QueueFilter
}

type queueOutput struct {
	Next string `header:"Relay-Next" doc:"cursor of the next page; absent on the last"`
	Body []QueueMessage
}

type idInput struct {
	Reading
	ID string `path:"id" doc:"whole, or so much of its end that no other message has the same"`
}

type actionInput struct {
	Changing
	Body QueueAction
}

func (s *server) registerQueue() {
	q := s.Ports.Queue
	handle(s, http.MethodGet, "/v1/queue", "One page of the waiting mail",
		func(ctx context.Context, in *queueInput) (*queueOutput, error) {
			messages, next, err := q.Queue(ctx, QueuePage{
				Filter: in.QueueFilter, Sort: in.Sort, After: in.After, Limit: in.Limit,
			})
			return &queueOutput{Next: next, Body: messages}, err
		})
	handle(s, http.MethodGet, "/v1/queue/count", "How much waiting mail there is",
		func(ctx context.Context, in *countInput) (*body[*Count], error) {
			return answer(q.CountQueue(ctx, in.QueueFilter))
		})
	handle(s, http.MethodGet, "/v1/queue/stats", "Destinations by age",
		func(ctx context.Context, _ *none) (*body[*QueueStats], error) {
			return answer(q.Stats(ctx))
		})
	handleOp(s, huma.Operation{
		Method: http.MethodPost, Path: "/v1/queue/actions", MaxBodyBytes: 16 << 20,
		Summary: "Retry, hold, release, remove, bounce or reroute mail",
	}, func(ctx context.Context, in *actionInput) (*body[*QueueActionResult], error) {
		if err := in.Body.check(); err != nil {
			return nil, err
		}
		return answer(q.Manage(ctx, in.by(ctx), in.Body))
	})
	handle(s, http.MethodGet, "/v1/queue/{id}", "One waiting message",
		func(ctx context.Context, in *idInput) (*body[*QueueDetail], error) {
			return answer(q.Message(ctx, in.ID))
		})
	handleOp(s, raw("/v1/queue/{id}/message", "The message itself"),
		func(ctx context.Context, in *idInput) (*huma.StreamResponse, error) {
			return stream(q.Open(ctx, in.ID))
		})
}

// check refuses what is not said clearly: an empty list of ids must never
// come to mean the whole queue.
func (a QueueAction) check() error {
	switch {
	case a.All && len(a.IDs) > 0:
		return Invalid("give either ids or all, not both")
	case !a.All && len(a.IDs) == 0:
		return Invalid("name messages by ids, or set all to act on what the filter matches")
	case !a.All && !a.Filter.Empty():
		return Invalid("a filter acts only with all set")
	case a.Action == ActionReroute && a.Route == "":
		return Invalid("reroute needs a route")
	}
	return nil
}

// raw describes an operation that answers with a message.
func raw(path, summary string) huma.Operation {
	return huma.Operation{Method: http.MethodGet, Path: path, Summary: summary,
		Responses: map[string]*huma.Response{"200": {
			Description: "the message as stored, CRLF line ends",
			Content: map[string]*huma.MediaType{"message/rfc822": {
				Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"},
			}},
		}}}
}

// stream sends a message as it is and closes it.
func stream(message io.ReadCloser, size int64, err error) (*huma.StreamResponse, error) {
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		defer message.Close()
		ctx.SetHeader("Content-Type", "message/rfc822")
		ctx.SetHeader("X-Content-Type-Options", "nosniff")
		if size >= 0 {
			ctx.SetHeader("Content-Length", strconv.FormatInt(size, 10))
		}
		if n, err := io.Copy(ctx.BodyWriter(), message); err != nil || size >= 0 && n != size {
			panic(http.ErrAbortHandler) // a cut answer must not look whole
		}
	}}, nil
}

// Matching says which messages are looked for.
type Matching struct {
	Reading
	MessageID string `query:"message_id"`
	From      string `query:"from" doc:"address, @domain or part with *"`
	To        string `query:"to" doc:"address, @domain or part with *"`
	Client    string `query:"client" doc:"address or network of the client that handed it in"`
	User      string `query:"user" doc:"login: address, @domain, local part, or part with *"`
	Helo      string `query:"helo" doc:"what the client called itself; may have *"`
	Since     string `query:"since" format:"date-time" doc:"accepted at or after"`
	Until     string `query:"until" format:"date-time" doc:"accepted before"`
}

// query is what was asked for.
func (in *Matching) query() (q TraceQuery, err error) {
	q = TraceQuery{
		MessageID: strings.Trim(in.MessageID, "<>"), From: in.From, To: in.To, Client: in.Client,
		User: in.User, Helo: in.Helo,
	}
	if q.Since, err = instant(in.Since); err != nil {
		return q, err
	}
	q.Until, err = instant(in.Until)
	return q, err
}

type traceInput struct {
	Matching
	Before string `query:"before" doc:"only messages older than the one with this id: the last of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

func (s *server) registerHistory() {
	h := s.Ports.History
	handle(s, http.MethodGet, "/v1/trace", "The newest messages that match",
		func(ctx context.Context, in *traceInput) (*body[[]Trace], error) {
			q, err := in.query()
			if err != nil {
				return nil, err
			}
			q.Before, q.Limit = in.Before, in.Limit
			return answerList(h.Find(ctx, q))
		})
	handle(s, http.MethodGet, "/v1/trace/count", "How many messages match",
		func(ctx context.Context, in *Matching) (*body[*Count], error) {
			q, err := in.query()
			if err != nil {
				return nil, err
			}
			return answer(h.CountFound(ctx, q))
		})
	handle(s, http.MethodGet, "/v1/trace/{id}", "The timeline of one message",
		func(ctx context.Context, in *idInput) (*body[*Trace], error) {
			return answer(h.Trace(ctx, in.ID))
		})
}

// instant reads an optional RFC 3339 time.
func instant(text string) (t Time, err error) {
	if text == "" {
		return t, nil
	}
	if err := t.UnmarshalJSON([]byte(strconv.Quote(text))); err != nil {
		return t, Invalid("%v", err)
	}
	return t, nil
}
