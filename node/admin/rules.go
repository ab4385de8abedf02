package admin

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// Rules keeps the standing rules.
type Rules interface {
	// Rules lists them in the order in which they count.
	Rules(ctx context.Context) ([]Rule, error)
	// Rule returns one; NotFound.
	Rule(ctx context.Context, id uint64) (*Rule, error)
	// AddRule makes a rule, which holds for what waits and for what comes; Invalid. With DryRun it says what of the
	// waiting mail the rule would decide on.
	AddRule(ctx context.Context, by By, r RuleAdd) (*RuleAdded, error)
	// RemoveRule: NotFound.
	RemoveRule(ctx context.Context, by By, id uint64) error
	// TestRules says which rules hold for an envelope, or for the recipients of a waiting message; Invalid, NotFound.
	TestRules(ctx context.Context, e RuleEnvelope) (*RuleTest, error)
}

// Actions of rules.
const (
	RuleHold     = "hold"
	RuleSuspend  = "suspend"
	RuleRedirect = "redirect"
	RuleBounce   = "bounce"
	RuleDiscard  = "discard"
	RuleCopy     = "copy"
)

// RuleActions are all actions of rules.
func RuleActions() []string {
	return []string{RuleHold, RuleSuspend, RuleRedirect, RuleBounce, RuleDiscard, RuleCopy}
}

// RuleMatch says what mail a rule is about: all that is given must be so.
type RuleMatch struct {
	Domain    string `json:"domain,omitempty" required:"false" doc:"of the recipient; *.example.com for all below"`
	Sender    string `json:"sender,omitempty" required:"false" doc:"address, @domain, or <> for the null path"`
	Recipient string `json:"recipient,omitempty" required:"false" doc:"address or @domain, after aliases"`
	Client    string `json:"client,omitempty" required:"false" doc:"address or network of the client that handed it in"`
	User      string `json:"user,omitempty" required:"false" doc:"account that handed it in"`
	Site      string `json:"site,omitempty" required:"false" doc:"not offered yet"`
	All       bool   `json:"all,omitempty" required:"false" doc:"all mail, where nothing else is given"`
}

// Rule is a standing rule. The first that matches counts: of the lowest order, then the oldest.
type Rule struct {
	ID     uint64 `json:"id"`
	Order  uint32 `json:"order"`
	Action string `json:"action" enum:"hold,suspend,redirect,bounce,discard,copy"`
	RuleMatch
	To      string `json:"to,omitempty" doc:"of redirect the hop, of copy the address"`
	Reason  string `json:"reason,omitempty" doc:"for the sender"`
	Expires Time   `json:"expires" doc:"when it ends; null: it does not"`
	Created Time   `json:"created"`
	Who     string `json:"who"`
	Why     string `json:"why"`
}

// RuleOrder is the order of a rule that was given none, RuleOrderMost the highest.
const (
	RuleOrder     = 1000
	RuleOrderMost = 1_000_000
)

// RuleAdd asks for a rule.
type RuleAdd struct {
	Action string `json:"action" enum:"hold,suspend,redirect,bounce,discard,copy"`
	RuleMatch
	Order          *uint32 `json:"order,omitempty" doc:"the lowest that matches counts, 1000000 at most; absent: 1000"`
	To             string  `json:"to,omitempty" doc:"of redirect the hop, as in routes; of copy the address"`
	Reason         string  `json:"reason,omitempty" doc:"for the sender, with bounce and suspend"`
	ExpiresSeconds int64   `json:"expires_seconds,omitempty" minimum:"0" doc:"it ends after so long; 0: it does not"`
	DryRun         bool    `json:"dry_run,omitempty" doc:"only say what of the waiting mail it would decide on"`
}

// RuleAdded is the rule that was made, or what it would do.
type RuleAdded struct {
	Rule
	DryRun     bool           `json:"dry_run"`
	Messages   uint64         `json:"messages" doc:"with dry_run: waiting messages with a recipient that it would decide on"`
	Recipients uint64         `json:"recipients"`
	Bytes      uint64         `json:"bytes" doc:"of these messages"`
	Examples   []QueueMessage `json:"examples" doc:"with dry_run: the oldest of them, at most 10"`
}

// RuleEnvelope is what rules see: of the recipients of a waiting message by its id, or of mail that may come.
type RuleEnvelope struct {
	ID        string `query:"id" doc:"of a waiting message, or so much of its end that no other has the same"`
	Sender    string `query:"sender" doc:"reverse-path; empty or <>: the null path"`
	Recipient string `query:"recipient"`
	Client    string `query:"client" doc:"IP address"`
	User      string `query:"user"`
}

// RuleTest says what the rules make of recipients.
type RuleTest struct {
	Results []RuleResult `json:"results"`
}

// RuleResult says what the rules make of one recipient.
type RuleResult struct {
	Recipient string `json:"recipient"`
	Rule      *Rule  `json:"rule" doc:"the first of the rules on the queue that holds for it; null: none does"`
	Copy      *Rule  `json:"copy" doc:"the first that copies and would hold for it when it is taken in; null: none does"`
}

type ruleInput struct {
	Changing
	Body RuleAdd
}

type ruleID struct {
	Reading
	ID uint64 `path:"id"`
}

type ruleRemove struct {
	Changing
	ID uint64 `path:"id"`
}

type ruleTest struct {
	Reading
	RuleEnvelope
}

func (s *server) registerRules() {
	p := s.Ports.Rules
	handle(s, http.MethodGet, "/v1/rules", "The standing rules, in their order",
		func(ctx context.Context, _ *none) (*body[[]Rule], error) { return answerList(p.Rules(ctx)) })
	handle(s, http.MethodPost, "/v1/rules", "Make a standing rule",
		func(ctx context.Context, in *ruleInput) (*body[*RuleAdded], error) {
			return answer(p.AddRule(ctx, in.by(ctx), in.Body))
		})
	handle(s, http.MethodGet, "/v1/rules/test", "Which rules hold for an envelope",
		func(ctx context.Context, in *ruleTest) (*body[*RuleTest], error) {
			return answer(p.TestRules(ctx, in.RuleEnvelope))
		})
	handle(s, http.MethodGet, "/v1/rules/{id}", "One standing rule",
		func(ctx context.Context, in *ruleID) (*body[*Rule], error) { return answer(p.Rule(ctx, in.ID)) })
	handle(s, http.MethodDelete, "/v1/rules/{id}", "Remove a standing rule",
		func(ctx context.Context, in *ruleRemove) (*nothing, error) {
			return &nothing{}, p.RemoveRule(ctx, in.by(ctx), in.ID)
		})
}

var _ Rules = (*Client)(nil)

// Rules implements Rules.
func (c *Client) Rules(ctx context.Context) (out []Rule, err error) {
	err = c.call(ctx, get("/v1/rules", nil), &out)
	return out, err
}

func rulePath(id uint64) string { return "/v1/rules/" + strconv.FormatUint(id, 10) }

// Rule implements Rules.
func (c *Client) Rule(ctx context.Context, id uint64) (*Rule, error) {
	out := new(Rule)
	return out, c.call(ctx, get(rulePath(id), nil), out)
}

// AddRule implements Rules.
func (c *Client) AddRule(ctx context.Context, by By, r RuleAdd) (*RuleAdded, error) {
	out := new(RuleAdded)
	return out, c.change(ctx, http.MethodPost, "/v1/rules", by, r, out)
}

// RemoveRule implements Rules.
func (c *Client) RemoveRule(ctx context.Context, by By, id uint64) error {
	return c.change(ctx, http.MethodDelete, rulePath(id), by, nil, nil)
}

// TestRules implements Rules.
func (c *Client) TestRules(ctx context.Context, e RuleEnvelope) (*RuleTest, error) {
	out := new(RuleTest)
	return out, c.call(ctx, get("/v1/rules/test", url.Values{}).set("id", e.ID).set("sender", e.Sender).
		set("recipient", e.Recipient).set("client", e.Client).set("user", e.User), out)
}
