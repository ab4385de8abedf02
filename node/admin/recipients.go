package admin

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// Recipients keeps the lists of the recipients that routed domains have.
type Recipients interface {
	// Recipients lists those of a domain behind one of them, in order, at most limit: of a short page nothing follows.
	Recipients(ctx context.Context, domain, after string, limit int) ([]string, error)
	// ChangeRecipients adds and removes, at most MaxRecipients in all, and returns how many came or went; Invalid.
	ChangeRecipients(ctx context.Context, by By, domain string, c RecipientChange) (uint64, error)
}

// MaxRecipients bounds one page of a list, and one change of it.
const MaxRecipients = 1000

// RecipientChange is what comes to a list of recipients, and what goes. A bare local part is one of the domain.
type RecipientChange struct {
	Add    []string `json:"add,omitempty" required:"false" maxItems:"1000" doc:"addresses of the domain, or their local parts"`
	Remove []string `json:"remove,omitempty" required:"false" maxItems:"1000"`
}

// RecipientsChanged says what a RecipientChange did.
type RecipientsChanged struct {
	Changed uint64 `json:"changed" doc:"how many came or went; those that were there, or were not, do not count"`
}

type recipientsInput struct {
	Reading
	Domain string `path:"domain"`
	After  string `query:"after" doc:"the last address of the page before"`
	Limit  int    `query:"limit" minimum:"0" maximum:"1000" doc:"0: 1000"`
}

type recipientsChange struct {
	Changing
	Domain string `path:"domain"`
	Body   RecipientChange
}

func (s *server) registerRecipients() {
	p := s.Ports.Routes
	handle(s, http.MethodGet, "/v1/routes/{domain}/recipients", "The recipients of a routed domain",
		func(ctx context.Context, in *recipientsInput) (*body[[]string], error) {
			return answerList(p.Recipients(ctx, in.Domain, in.After, in.Limit))
		})
	handle(s, http.MethodPost, "/v1/routes/{domain}/recipients", "Change the recipients of a routed domain",
		func(ctx context.Context, in *recipientsChange) (*body[*RecipientsChanged], error) {
			n, err := p.ChangeRecipients(ctx, in.by(ctx), in.Domain, in.Body)
			return answer(&RecipientsChanged{n}, err)
		})
}

func recipientsPath(domain string) string {
	return "/v1/routes/" + url.PathEscape(domain) + "/recipients"
}

// Recipients implements Recipients.
func (c *Client) Recipients(ctx context.Context, domain, after string, limit int) (out []string, err error) {
	page := get(recipientsPath(domain), url.Values{}).set("after", after).set("limit", strconv.Itoa(limit))
	err = c.call(ctx, page, &out)
	return out, err
}

// ChangeRecipients implements Recipients.
func (c *Client) ChangeRecipients(ctx context.Context, by By, domain string, r RecipientChange) (uint64, error) {
	out := new(RecipientsChanged)
	err := c.change(ctx, http.MethodPost, recipientsPath(domain), by, r, out)
	return out.Changed, err
}
