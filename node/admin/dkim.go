package admin

import (
	"context"
	"net/http"
	"net/url"
)

// Signers keeps the DKIM keys of local domains.
type Signers interface {
	// Signers returns all keys, retired ones too.
	Signers(ctx context.Context) ([]Signer, error)
	// AddSigner makes a key. With Rotate the domain's older keys of the same
	// algorithm stop signing in the same step.
	AddSigner(ctx context.Context, by By, s SignerAdd) (*Signer, error)
	// ActivateSigner has a key sign from now on, and its domain's others of the
	// same algorithm no more.
	ActivateSigner(ctx context.Context, by By, domain, selector string) (*Signer, error)
	RemoveSigner(ctx context.Context, by By, domain, selector string) error
}

// Signer is one DKIM key, without its secret part.
type Signer struct {
	Domain    string `json:"domain"`
	Selector  string `json:"selector"`
	Algorithm string `json:"algorithm" enum:"rsa,ed25519"`
	Created   Time   `json:"created"`
	Retired   bool   `json:"retired" doc:"no longer signs; keep its DNS record for some days"`
	Waiting   bool   `json:"waiting" doc:"is to take the place of the key that signs, once its record is in DNS"`
	Name      string `json:"name" doc:"where its DNS record stands"`
	Record    string `json:"record" doc:"the TXT record that DNS must have"`
}

// SignerAdd asks for a new key.
type SignerAdd struct {
	Domain    string `json:"domain" minLength:"1"`
	Selector  string `json:"selector" required:"false" doc:"empty: made of the date"`
	Algorithm string `json:"algorithm" required:"false" doc:"rsa (the default) or ed25519"`
	Rotate    bool   `json:"rotate" required:"false" doc:"the new key takes the place of those of the same algorithm"`
	Wait      bool   `json:"wait" required:"false" doc:"with rotate: only once its record is in DNS, or when it is activated"`
}

type signerInput struct {
	Changing
	Body SignerAdd
}

type signerRemove struct {
	Changing
	Domain   string `path:"domain"`
	Selector string `path:"selector"`
}

func (s *server) registerSigners() {
	p := s.Ports.Signers
	handle(s, http.MethodGet, "/v1/dkim", "The DKIM keys", func(ctx context.Context, _ *none) (*body[[]Signer], error) {
		return answerList(p.Signers(ctx))
	})
	handle(s, http.MethodPost, "/v1/dkim", "Make a DKIM key",
		func(ctx context.Context, in *signerInput) (*body[*Signer], error) {
			return answer(p.AddSigner(ctx, in.by(ctx), in.Body))
		})
	handle(s, http.MethodPost, "/v1/dkim/{domain}/{selector}/activate", "Let a DKIM key sign in place of the others",
		func(ctx context.Context, in *signerRemove) (*body[*Signer], error) {
			return answer(p.ActivateSigner(ctx, in.by(ctx), in.Domain, in.Selector))
		})
	handle(s, http.MethodDelete, "/v1/dkim/{domain}/{selector}", "Remove a DKIM key",
		func(ctx context.Context, in *signerRemove) (*nothing, error) {
			return &nothing{}, p.RemoveSigner(ctx, in.by(ctx), in.Domain, in.Selector)
		})
}

var _ Signers = (*Client)(nil)

// Signers implements Signers.
func (c *Client) Signers(ctx context.Context) (out []Signer, err error) {
	err = c.call(ctx, get("/v1/dkim", nil), &out)
	return out, err
}

// AddSigner implements Signers.
func (c *Client) AddSigner(ctx context.Context, by By, s SignerAdd) (*Signer, error) {
	out := new(Signer)
	return out, c.change(ctx, http.MethodPost, "/v1/dkim", by, s, out)
}

// ActivateSigner implements Signers.
func (c *Client) ActivateSigner(ctx context.Context, by By, domain, selector string) (*Signer, error) {
	out := new(Signer)
	return out, c.change(ctx, http.MethodPost,
		"/v1/dkim/"+url.PathEscape(domain)+"/"+url.PathEscape(selector)+"/activate", by, nil, out)
}

// RemoveSigner implements Signers.
func (c *Client) RemoveSigner(ctx context.Context, by By, domain, selector string) error {
	return c.change(ctx, http.MethodDelete, "/v1/dkim/"+url.PathEscape(domain)+"/"+url.PathEscape(selector), by, nil, nil)
}
