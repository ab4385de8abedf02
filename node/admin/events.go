package admin

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Names of events beside those of the history.
const (
	EventAdmin  = "admin"  // an operator's change; Detail is the line of the audit log
	EventMissed = "missed" // not an event: the watcher was too slow, or the node caught up by a snapshot
)

// eventWords are the names of all events; EventMissed is none.
func eventWords() []string {
	return []string{"accepted", "delivered", "deferred", "bounced", "expired", "redirected", "discarded", "held",
		"released", "retried", "rerouted", "deleted", "removed", "notified", "notice undeliverable", "copy not made",
		EventAdmin}
}

// StreamEvent is one event, a line of what GET /v1/events sends.
type StreamEvent struct {
	ID      string `json:"id" doc:"CLUSTER/INDEX.N, the same on every node and for ever"`
	Message string `json:"message" doc:"id of the message; empty for an operator's change"`
	Sender  string `json:"sender"`
	TraceEvent
	Missed uint64 `json:"missed,omitempty" required:"false" doc:"with what missed: so many events are missing here; absent: not known how many"`
}

// Missed is the line in place of n events that a watcher does not see; 0: nobody knows how many.
func Missed(n uint64) StreamEvent {
	e := StreamEvent{Missed: n}
	e.What, e.Detail = EventMissed, "the watcher reads too slowly"
	if n == 0 {
		e.Detail = "the node took over a snapshot of the state"
	}
	return e
}

// EventFilter selects events. Of several values of one kind one has to fit, and every kind
// that has values; an empty filter lets all events pass. EventMissed passes always.
type EventFilter struct {
	Events     []string // names of events
	Messages   []string // ids
	Senders    []string // patterns, see MatchAddress
	Recipients []string // patterns, see MatchAddress
	Domains    []string // of recipients; * for any run of characters
	Classes    []string // of replies
	Nodes      []string // that made the event
	Who        []string // operators
}

// eventKinds are the keys of a filter's text.
func (f *EventFilter) kinds() []eventKind {
	return []eventKind{
		{"event", &f.Events}, {"message", &f.Messages}, {"sender", &f.Senders}, {"recipient", &f.Recipients},
		{"domain", &f.Domains}, {"class", &f.Classes}, {"node", &f.Nodes}, {"who", &f.Who},
	}
}

type eventKind struct {
	key    string
	values *[]string
}

// ParseEventFilter reads texts of the form KEY=VALUE[,VALUE…].
func ParseEventFilter(texts []string) (f EventFilter, err error) {
	kinds := f.kinds()
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.key
	}
	for _, text := range texts {
		key, values, ok := strings.Cut(text, "=")
		at := slices.Index(names, strings.TrimSpace(key))
		if !ok || at < 0 || strings.TrimSpace(values) == "" {
			return f, Invalid("filter %q is not KEY=VALUE with one of the keys %s", text, strings.Join(names, ", "))
		}
		for value := range strings.SplitSeq(values, ",") {
			value = strings.TrimSpace(value)
			if value == "" {
				return f, Invalid("filter %q has an empty value", text)
			}
			*kinds[at].values = append(*kinds[at].values, value)
		}
	}
	for _, what := range f.Events {
		if all := eventWords(); !slices.Contains(all, what) {
			return f, Invalid("there is no event %q: the events are %s", what, strings.Join(all, ", "))
		}
	}
	return f, nil
}

// Matches reports whether the filter lets an event pass.
func (f *EventFilter) Matches(e *StreamEvent) bool {
	if e.What == EventMissed {
		return true
	}
	_, domain, _ := strings.Cut(e.Recipient, "@")
	return anyOf(f.Events, e.What, same) && anyOf(f.Messages, e.Message, strings.EqualFold) &&
		(len(f.Senders) == 0 || e.Message != "") && anyOf(f.Senders, e.Sender, MatchAddress) &&
		(len(f.Recipients) == 0 || e.Recipient != "") && anyOf(f.Recipients, e.Recipient, MatchAddress) &&
		anyOf(f.Domains, domain, matchDomain) && anyOf(f.Classes, e.Class, same) && anyOf(f.Nodes, e.Node, same) &&
		anyOf(f.Who, e.Who, strings.EqualFold)
}

func same(a, b string) bool { return a == b }

// anyOf reports whether a value fits one of the patterns, or there are none.
func anyOf(patterns []string, value string, fits func(pattern, value string) bool) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool { return fits(p, value) })
}

type eventsInput struct {
	Reading
	Filter []string `query:"filter,explode" doc:"KEY=VALUE[,VALUE…] with the keys event, message, sender, recipient, domain, class, node and who; of one key one value has to fit, and every key"`
}

// lineWithin is how long a client may take to accept a line.
const lineWithin = 30 * time.Second

func (s *server) registerEvents() {
	op := huma.Operation{Method: http.MethodGet, Path: "/v1/events",
		Summary: "What happens from now on, a line of JSON each",
		Responses: map[string]*huma.Response{"200": {
			Description: "events in the order in which the cluster decided them, each a JSON object on a line of its own; " +
				"an empty line after 15 s without one. The answer ends when the node stops.",
			Content: map[string]*huma.MediaType{"application/x-ndjson": {
				Schema: s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[StreamEvent](), true, "StreamEvent"),
			}},
		}}}
	handleOp(s, op, func(ctx context.Context, in *eventsInput) (*huma.StreamResponse, error) {
		f, err := ParseEventFilter(in.Filter)
		if err != nil {
			return nil, err
		}
		events, err := s.Ports.Events.Events(ctx, f)
		if err != nil {
			return nil, err
		}
		return &huma.StreamResponse{Body: func(c huma.Context) {
			defer events.Close()
			c.SetHeader("Content-Type", "application/x-ndjson")
			c.SetHeader("Cache-Control", "no-store")
			c.SetHeader("X-Accel-Buffering", "no")
			sendEvents(c.Context(), c.BodyWriter(), events)
		}}, nil
	})
}

// sendEvents writes events until they end or the client goes.
func sendEvents(ctx context.Context, w io.Writer, events EventStream) {
	var on *http.ResponseController
	if rw, ok := w.(http.ResponseWriter); ok {
		on = http.NewResponseController(rw)
		rw.WriteHeader(http.StatusOK)
		_ = on.Flush()
	}
	lines := json.NewEncoder(w)
	for {
		list, err := events.Next(ctx)
		if err != nil {
			return
		}
		if on != nil {
			_ = on.SetWriteDeadline(time.Now().Add(lineWithin))
		}
		if len(list) == 0 {
			_, err = io.WriteString(w, "\n")
		}
		for i := range list {
			if err == nil {
				err = lines.Encode(&list[i])
			}
		}
		if on != nil && err == nil {
			err = on.Flush()
		}
		if err != nil {
			return
		}
	}
}

// Events implements Events: what happens from now on, as one of the nodes tells it.
func (c *Client) Events(ctx context.Context, f EventFilter) (EventStream, error) {
	r := get("/v1/events", map[string][]string{})
	for _, k := range f.kinds() {
		if len(*k.values) > 0 {
			r.query.Add("filter", k.key+"="+strings.Join(*k.values, ","))
		}
	}
	body, _, err := c.open(ctx, r)
	if err != nil {
		return nil, err
	}
	return &eventLines{body: body, in: json.NewDecoder(body)}, nil
}

// eventLines are the events of an answer.
type eventLines struct {
	body io.ReadCloser
	in   *json.Decoder
}

// Next implements EventStream. The context of Client.Events ends it.
func (e *eventLines) Next(context.Context) ([]StreamEvent, error) {
	var one StreamEvent
	if err := e.in.Decode(&one); err != nil {
		return nil, err
	}
	return []StreamEvent{one}, nil
}

// Close implements EventStream.
func (e *eventLines) Close() { _ = e.body.Close() }
