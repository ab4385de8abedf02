package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// The client is a node's ports at a distance.
var (
	_ Cluster   = (*Client)(nil)
	_ Domains   = (*Client)(nil)
	_ Users     = (*Client)(nil)
	_ Aliases   = (*Client)(nil)
	_ Routes    = (*Client)(nil)
	_ Policy    = (*Client)(nil)
	_ Queue     = (*Client)(nil)
	_ History   = (*Client)(nil)
	_ Events    = (*Client)(nil)
	_ Mailboxes = (*Client)(nil)
	_ Content   = (*Client)(nil)
	_ Mail      = (*Client)(nil)
	_ Auditor   = (*Client)(nil)
)

func dry(on bool) func(*request)             { return func(r *request) { r.flag("dry_run", on) } }
func with(name, value string) func(*request) { return func(r *request) { r.set(name, value) } }

// Status implements Cluster.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	out := new(Status)
	return out, c.call(ctx, get("/v1/status", nil), out)
}

// Token implements Cluster.
func (c *Client) Token(ctx context.Context, by By, t TokenRequest) (*Token, error) {
	out := new(Token)
	return out, c.change(ctx, http.MethodPost, "/v1/nodes/token", by, t, out)
}

// Remove implements Cluster.
func (c *Client) Remove(ctx context.Context, by By, id string, o RemoveOptions) (*NodeChange, error) {
	out := new(NodeChange)
	return out, c.change(ctx, http.MethodDelete, "/v1/nodes/"+url.PathEscape(id), by, nil, out, dry(o.DryRun),
		func(r *request) { r.flag("force", o.Force) })
}

// Drain implements Cluster.
func (c *Client) Drain(ctx context.Context, by By, id string, o DrainOptions) (*NodeChange, error) {
	path, out := "/v1/nodes/"+url.PathEscape(id), new(NodeChange)
	if o.Off {
		return out, c.change(ctx, http.MethodPost, path+"/undrain", by, nil, out, dry(o.DryRun))
	}
	notice := strconv.FormatFloat(o.Notice.Seconds(), 'g', -1, 64)
	return out, c.change(ctx, http.MethodPost, path+"/drain", by, nil, out, dry(o.DryRun), with("notice_seconds", notice))
}

// Transfer implements Cluster.
func (c *Client) Transfer(ctx context.Context, by By, to string) (*NodeChange, error) {
	out := new(NodeChange)
	return out, c.change(ctx, http.MethodPost, "/v1/transfer", by, nil, out, with("to", to))
}

// Upgrade implements Cluster.
func (c *Client) Upgrade(ctx context.Context, by By, o UpgradeOptions) (*NodeChange, error) {
	out := new(NodeChange)
	return out, c.change(ctx, http.MethodPost, "/v1/cluster/upgrade", by, nil, out,
		dry(o.DryRun), func(r *request) { r.flag("hold", o.Hold).flag("release", o.Release) })
}

// RotateCA implements Cluster.
func (c *Client) RotateCA(ctx context.Context, by By, o RotateOptions) (*NodeChange, error) {
	out := new(NodeChange)
	return out, c.change(ctx, http.MethodPost, "/v1/cluster/rotate-ca", by, nil, out,
		dry(o.DryRun), with("without", strings.Join(o.Without, ",")))
}

// Verify implements Cluster.
func (c *Client) Verify(ctx context.Context, o VerifyOptions) (*Verification, error) {
	out := new(Verification)
	r := &request{method: http.MethodPost, path: "/v1/verify", query: url.Values{}}
	return out, c.call(ctx, r.flag("bodies", o.Bodies), out)
}

// Domains implements Domains.
func (c *Client) Domains(ctx context.Context) (out []Domain, err error) {
	err = c.call(ctx, get("/v1/domains", nil), &out)
	return out, err
}

// AddDomain implements Domains.
func (c *Client) AddDomain(ctx context.Context, by By, d Domain) error {
	in := struct {
		Name       string `json:"name"`
		CatchAll   string `json:"catch_all,omitempty"`
		Greylist   *int64 `json:"greylist_seconds,omitempty"`
		AuthPolicy string `json:"auth_policy,omitempty"`
	}{d.Name, d.CatchAll, d.Greylist, d.AuthPolicy}
	return c.change(ctx, http.MethodPost, "/v1/domains", by, in, nil)
}

// SetDomain implements Domains.
func (c *Client) SetDomain(ctx context.Context, by By, name string, d DomainSet) error {
	return c.change(ctx, http.MethodPatch, "/v1/domains/"+url.PathEscape(name), by, d, nil)
}

// RemoveDomain implements Domains.
func (c *Client) RemoveDomain(ctx context.Context, by By, name string, o DropOptions) (*Removed, error) {
	out := new(Removed)
	return out, c.change(ctx, http.MethodDelete, "/v1/domains/"+url.PathEscape(name), by, nil, out, dry(o.DryRun))
}

// Users implements Users.
func (c *Client) Users(ctx context.Context, domain string) (out []User, err error) {
	err = c.call(ctx, get("/v1/users", url.Values{}).set("domain", domain), &out)
	return out, err
}

// User implements Users.
func (c *Client) User(ctx context.Context, address string) (*User, error) {
	out := new(User)
	return out, c.call(ctx, get("/v1/users/"+url.PathEscape(address), nil), out)
}

// AddUser implements Users.
func (c *Client) AddUser(ctx context.Context, by By, u UserAdd) error {
	return c.change(ctx, http.MethodPost, "/v1/users", by, u, nil)
}

// SetUser implements Users.
func (c *Client) SetUser(ctx context.Context, by By, address string, u UserSet) error {
	return c.change(ctx, http.MethodPatch, "/v1/users/"+url.PathEscape(address), by, u, nil)
}

// RemoveUser implements Users.
func (c *Client) RemoveUser(ctx context.Context, by By, address string, o DropOptions) (*Removed, error) {
	out := new(Removed)
	return out, c.change(ctx, http.MethodDelete, "/v1/users/"+url.PathEscape(address), by, nil, out, dry(o.DryRun))
}

// Aliases implements Aliases.
func (c *Client) Aliases(ctx context.Context) (out []Alias, err error) {
	err = c.call(ctx, get("/v1/aliases", nil), &out)
	return out, err
}

// SetAlias implements Aliases.
func (c *Client) SetAlias(ctx context.Context, by By, a Alias) error {
	in := struct {
		Targets []string `json:"targets"`
		Owner   string   `json:"owner,omitempty"`
		Replace bool     `json:"replace,omitempty"`
	}{a.Targets, a.Owner, a.Replace}
	return c.change(ctx, http.MethodPut, "/v1/aliases/"+url.PathEscape(a.Address), by, in, nil)
}

// RemoveAlias implements Aliases.
func (c *Client) RemoveAlias(ctx context.Context, by By, address string) error {
	return c.change(ctx, http.MethodDelete, "/v1/aliases/"+url.PathEscape(address), by, nil, nil)
}

// Routes implements Routes.
func (c *Client) Routes(ctx context.Context) (out []Route, err error) {
	err = c.call(ctx, get("/v1/routes", nil), &out)
	return out, err
}

// SetRoute implements Routes.
func (c *Client) SetRoute(ctx context.Context, by By, r Route) error {
	in := struct {
		Target string   `json:"target"`
		NoEHLO []string `json:"no_ehlo,omitempty"`
		RouteSenders
		RouteHops
		RouteTLS
		RouteLogin
		RouteCert
	}{r.Target, r.NoEHLO, r.RouteSenders, r.RouteHops, r.RouteTLS, r.RouteLogin, r.RouteCert}
	return c.change(ctx, http.MethodPut, "/v1/routes/"+url.PathEscape(r.Domain), by, in, nil)
}

// RemoveRoute implements Routes.
func (c *Client) RemoveRoute(ctx context.Context, by By, domain string, of RouteSenders) error {
	return c.change(ctx, http.MethodDelete, "/v1/routes/"+url.PathEscape(domain), by, nil, nil, func(r *request) {
		r.set("from", of.From).set("login", of.Login)
	})
}

// Settings implements Policy.
func (c *Client) Settings(ctx context.Context) (*Settings, error) {
	out := new(Settings)
	return out, c.call(ctx, get("/v1/settings", nil), out)
}

// SetSettings implements Policy.
func (c *Client) SetSettings(ctx context.Context, by By, s Settings) error {
	return c.change(ctx, http.MethodPut, "/v1/settings", by, s, nil)
}

func (p QueuePage) query() url.Values {
	r := get("", url.Values{})
	f := p.Filter
	r.set("state", f.State).set("domain", f.Domain).set("sender", f.Sender).set("recipient", f.Recipient)
	r.set("owner", f.Owner).set("error", f.Error).set("sort", p.Sort).set("after", p.After)
	if f.OlderThanSeconds > 0 {
		r.set("older_than_seconds", strconv.FormatInt(f.OlderThanSeconds, 10))
	}
	if p.Limit > 0 {
		r.set("limit", strconv.Itoa(min(p.Limit, MaxPage)))
	}
	return r.query
}

// Queue implements Queue.
func (c *Client) Queue(ctx context.Context, p QueuePage) (out []QueueMessage, next string, err error) {
	h, err := c.callHeader(ctx, get("/v1/queue", p.query()), &out)
	return out, h.Get("Relay-Next"), err
}

// CountQueue implements Queue.
func (c *Client) CountQueue(ctx context.Context, f QueueFilter) (*Count, error) {
	out := new(Count)
	return out, c.call(ctx, get("/v1/queue/count", QueuePage{Filter: f}.query()), out)
}

// EachQueued walks the queue page by page until limit messages were seen (0:
// all) or each returns an error, which it returns.
func (c *Client) EachQueued(ctx context.Context, p QueuePage, limit int, each func(QueueMessage) error) error {
	for seen := 0; ; {
		p.Limit = MaxPage
		if limit > 0 {
			p.Limit = min(MaxPage, limit-seen)
		}
		page, next, err := c.Queue(ctx, p)
		if err != nil {
			return err
		}
		for _, m := range page {
			if err := each(m); err != nil {
				return err
			}
		}
		seen += len(page)
		if next == "" || next == p.After || limit > 0 && seen >= limit {
			return nil
		}
		p.After = next
	}
}

// Message implements Queue.
func (c *Client) Message(ctx context.Context, id string) (*QueueDetail, error) {
	out := new(QueueDetail)
	return out, c.call(ctx, get("/v1/queue/"+url.PathEscape(id), nil), out)
}

// Open implements Queue.
func (c *Client) Open(ctx context.Context, id string) (io.ReadCloser, int64, error) {
	return c.open(ctx, get("/v1/queue/"+url.PathEscape(id)+"/message", nil))
}

// Stats implements Queue.
func (c *Client) Stats(ctx context.Context) (*QueueStats, error) {
	out := new(QueueStats)
	return out, c.call(ctx, get("/v1/queue/stats", nil), out)
}

// Manage implements Queue.
func (c *Client) Manage(ctx context.Context, by By, a QueueAction) (*QueueActionResult, error) {
	out := new(QueueActionResult)
	return out, c.change(ctx, http.MethodPost, "/v1/queue/actions", by, a, out)
}

// Trace implements History.
func (c *Client) Trace(ctx context.Context, id string) (*Trace, error) {
	out := new(Trace)
	return out, c.call(ctx, get("/v1/trace/"+url.PathEscape(id), nil), out)
}

func (q TraceQuery) request(path string) *request {
	r := get(path, url.Values{})
	r.set("message_id", q.MessageID).set("from", q.From).set("to", q.To).set("since", q.Since.String())
	return r.set("client", q.Client).set("user", q.User).set("helo", q.Helo).set("until", q.Until.String())
}

// CountFound implements History.
func (c *Client) CountFound(ctx context.Context, q TraceQuery) (*Count, error) {
	out := new(Count)
	return out, c.call(ctx, q.request("/v1/trace/count"), out)
}

// Find implements History.
func (c *Client) Find(ctx context.Context, q TraceQuery) (out []Trace, err error) {
	r := q.request("/v1/trace").set("before", q.Before)
	if q.Limit > 0 {
		r.set("limit", strconv.Itoa(q.Limit))
	}
	err = c.call(ctx, r, &out)
	return out, err
}

// Mailboxes implements Mailboxes.
func (c *Client) Mailboxes(ctx context.Context) (out []Mailbox, err error) {
	err = c.call(ctx, get("/v1/mailboxes", nil), &out)
	return out, err
}

// Mailbox implements Mailboxes.
func (c *Client) Mailbox(ctx context.Context, user string) (*MailboxDetail, error) {
	out := new(MailboxDetail)
	return out, c.call(ctx, get("/v1/mailboxes/"+url.PathEscape(user), nil), out)
}

// Unlock implements Mailboxes.
func (c *Client) Unlock(ctx context.Context, by By, user string, token uint64) (*Unlocked, error) {
	out := new(Unlocked)
	return out, c.change(ctx, http.MethodDelete, "/v1/mailboxes/"+url.PathEscape(user)+"/lock", by, nil, out,
		func(r *request) {
			if token != 0 {
				r.query = url.Values{"token": {strconv.FormatUint(token, 10)}}
			}
		})
}

// OpenMail implements Content.
func (c *Client) OpenMail(ctx context.Context, user string, uid uint64) (io.ReadCloser, int64, error) {
	return c.open(ctx, get(fmt.Sprintf("/v1/mailboxes/%s/messages/%d", url.PathEscape(user), uid), nil))
}

// upload sends a message. It is read into memory first, so that the next node
// can be tried; it is never sent twice where a node may have taken it.
func (c *Client) upload(ctx context.Context, path string, by By, message io.Reader, out any,
	set ...func(*request)) error {
	data, err := io.ReadAll(message)
	if err != nil {
		return err
	}
	if len(data) == 0 {
		return errors.New("the message is empty")
	}
	r, err := changing(http.MethodPost, path, by, nil)
	if err != nil {
		return err
	}
	r.kind, r.body, r.once = "message/rfc822", data, true
	for _, f := range set {
		f(r)
	}
	return c.call(ctx, r, out)
}

// PutMail implements Content.
func (c *Client) PutMail(ctx context.Context, by By, user string, received Time, message io.Reader) (string, error) {
	var out stored
	path := "/v1/mailboxes/" + url.PathEscape(user) + "/messages"
	err := c.upload(ctx, path, by, message, &out, with("received", received.String()))
	return out.ID, err
}

// Send implements Mail.
func (c *Client) Send(ctx context.Context, by By, e Envelope, message io.Reader) (*Receipt, error) {
	out := new(Receipt)
	return out, c.upload(ctx, "/v1/messages", by, message, out, with("from", e.Sender), func(r *request) {
		r.query["to"] = e.Recipients
	})
}

// CountAudit implements Auditor.
func (c *Client) CountAudit(ctx context.Context, q AuditQuery) (*Count, error) {
	out := new(Count)
	return out, c.call(ctx, get("/v1/audit/count", url.Values{}).set("since", q.Since.String()), out)
}

// Audit implements Auditor.
func (c *Client) Audit(ctx context.Context, q AuditQuery) (out []AuditEntry, err error) {
	r := get("/v1/audit", url.Values{}).set("since", q.Since.String())
	if q.Before > 0 {
		r.set("before", strconv.FormatUint(q.Before, 10))
	}
	if q.Limit > 0 {
		r.set("limit", strconv.Itoa(q.Limit))
	}
	err = c.call(ctx, r, &out)
	return out, err
}
