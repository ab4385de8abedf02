package admin

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// Suppressions keeps the suppression list: addresses to which mail of a domain's senders does not go.
type Suppressions interface {
	// Suppressed lists it by domain and address.
	Suppressed(ctx context.Context, q SuppressedQuery) ([]Suppressed, error)
	// Suppress puts an address on it, or prolongs its time; Invalid.
	Suppress(ctx context.Context, by By, s SuppressAdd) error
	// Unsuppress takes one off; NotFound.
	Unsuppress(ctx context.Context, by By, domain, address string) error
}

// Suppressed is an address on the suppression list.
type Suppressed struct {
	Domain  string `json:"domain" doc:"local domain of the senders"`
	Address string `json:"address"`
	Since   Time   `json:"since"`
	Expires Time   `json:"expires"`
	Reply   string `json:"reply,omitempty" doc:"what a host said of it"`
	ID      string `json:"id,omitempty" doc:"of the message that it said it to; empty: an operator wants it"`
	Who     string `json:"who,omitempty"`
	Why     string `json:"why,omitempty"`
}

// SuppressedQuery asks for a part of the list.
type SuppressedQuery struct {
	Domain string `query:"domain" doc:"of the senders; empty: all"`
	From   string `query:"from" doc:"with domain: the address to begin with"`
	Limit  int    `query:"limit" minimum:"0" maximum:"10000" doc:"at most so many; 0: 1000"`
}

// SuppressAdd puts an address on the list.
type SuppressAdd struct {
	Domain         string `json:"domain" doc:"local domain of the senders"`
	Address        string `json:"address"`
	ExpiresSeconds int64  `json:"expires_seconds,omitempty" minimum:"0" doc:"0: for as long as the domain says, or 30 days"`
}

type suppressedInput struct {
	Reading
	SuppressedQuery
}

type suppressInput struct {
	Changing
	Body SuppressAdd
}

type unsuppressInput struct {
	Changing
	Domain  string `path:"domain"`
	Address string `path:"address"`
}

func (s *server) registerSuppressions() {
	p := s.Ports.Suppressions
	handle(s, http.MethodGet, "/v1/suppressed", "Addresses to which a domain's mail does not go",
		func(ctx context.Context, in *suppressedInput) (*body[[]Suppressed], error) {
			return answerList(p.Suppressed(ctx, in.SuppressedQuery))
		})
	handle(s, http.MethodPost, "/v1/suppressed", "Let a domain's mail go to an address no more",
		func(ctx context.Context, in *suppressInput) (*nothing, error) {
			return &nothing{}, p.Suppress(ctx, in.by(ctx), in.Body)
		})
	handle(s, http.MethodDelete, "/v1/suppressed/{domain}/{address}", "Let a domain's mail go to an address again",
		func(ctx context.Context, in *unsuppressInput) (*nothing, error) {
			return &nothing{}, p.Unsuppress(ctx, in.by(ctx), in.Domain, in.Address)
		})
}

var _ Suppressions = (*Client)(nil)

// Suppressed implements Suppressions.
func (c *Client) Suppressed(ctx context.Context, q SuppressedQuery) (out []Suppressed, err error) {
	limit := ""
	if q.Limit > 0 {
		limit = strconv.Itoa(q.Limit)
	}
	err = c.call(ctx, get("/v1/suppressed", url.Values{}).set("domain", q.Domain).set("from", q.From).set("limit", limit),
		&out)
	return out, err
}

// Suppress implements Suppressions.
func (c *Client) Suppress(ctx context.Context, by By, s SuppressAdd) error {
	return c.change(ctx, http.MethodPost, "/v1/suppressed", by, s, nil)
}

// Unsuppress implements Suppressions.
func (c *Client) Unsuppress(ctx context.Context, by By, domain, address string) error {
	return c.change(ctx, http.MethodDelete, "/v1/suppressed/"+url.PathEscape(domain)+"/"+url.PathEscape(address), by, nil,
		nil)
}
