package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/oklog/ulid/v2"
)

// Endpoint is one node's admin API.
type Endpoint struct {
	URL   string // http://HOST:PORT or https://HOST:PORT
	Token string // empty: none is sent
}

// ClientOptions configure a Client.
type ClientOptions struct {
	// Addrs are URLs, or HOST:PORT for http; all get Token. The client keeps
	// to the first that answers and tries the next when one is down.
	Addrs []string
	Token string
	// Endpoints are tried after Addrs, each with a token of its own.
	Endpoints []Endpoint
	// FindToken is asked, once, for the token of an endpoint that has none and
	// whose node wants one; file is where the node says that its token is,
	// empty where it does not say. An error is the answer to the request, as is
	// the node's refusal where no token is found. Nil: none is looked for.
	FindToken func(url, file string) (string, error)
	// Consistent asks for reads that show everything committed before.
	Consistent bool
	// HTTP is used for all requests; nil: one with sensible time limits.
	HTTP *http.Client
	// Patience is how long a read waits for a node before it asks the next
	// one; the last one is waited for as long as ctx lasts. 0: 5 seconds.
	Patience time.Duration
}

// Client asks any node for the whole cluster. It implements all ports, so that
// what works on a node works from afar; it ignores By.Who, because the token says who
// asks. It may be used concurrently.
type Client struct {
	endpoints  []Endpoint
	http       *http.Client
	patience   time.Duration
	consistent bool
	good       atomic.Int32 // index of the endpoint that answered last
	find       func(url, file string) (string, error)
	found      sync.Map // URL → token that find has found
}

// NewClient makes a client; nothing is sent yet.
func NewClient(o ClientOptions) (*Client, error) {
	c := &Client{http: o.HTTP, patience: o.Patience, consistent: o.Consistent, find: o.FindToken}
	for _, addr := range o.Addrs {
		c.endpoints = append(c.endpoints, Endpoint{URL: addr, Token: o.Token})
	}
	c.endpoints = append(c.endpoints, o.Endpoints...)
	if len(c.endpoints) == 0 {
		return nil, errors.New("no node is named")
	}
	for i := range c.endpoints {
		e := &c.endpoints[i]
		if !strings.Contains(e.URL, "://") {
			e.URL = "http://" + e.URL
		}
		u, err := url.Parse(e.URL)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("%q is not the URL of a node, such as http://127.0.0.1:7180", e.URL)
		}
		e.URL = strings.TrimSuffix(e.URL, "/")
	}
	if c.patience == 0 {
		c.patience = 5 * time.Second
	}
	if c.http == nil {
		c.http = DefaultHTTP(nil)
	}
	return c, nil
}

// DefaultHTTP returns the HTTP client that NewClient uses; adjust may change
// its transport (a private CA).
func DefaultHTTP(adjust func(*http.Transport)) *http.Client {
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		IdleConnTimeout:     30 * time.Second,
		MaxIdleConnsPerHost: 16,
		ForceAttemptHTTP2:   true,
	}
	if adjust != nil {
		adjust(t)
	}
	return &http.Client{
		Transport: t,
		// A redirect would carry the token to somewhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Unreachable is the error where no node answered.
type Unreachable struct {
	Addrs []string
	Cause error // of the last address, or of one before that tells more
}

func (e *Unreachable) Error() string {
	return fmt.Sprintf("no node answers at %s (%v)", strings.Join(e.Addrs, ", "), plainCause(e.Cause))
}

func (e *Unreachable) Unwrap() error { return e.Cause }

// plainCause takes the layers off a network error.
func plainCause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		err = op.Err
	}
	if inner := errors.Unwrap(err); inner != nil && strings.HasPrefix(err.Error(), "connect: ") {
		err = inner
	}
	return err
}

// request is one request that can be sent to several nodes in turn.
type request struct {
	method, path string
	query        url.Values
	kind         string // Content-Type
	body         []byte
	key          string // Idempotency-Key
	once         bool   // must not be sent again once a node may have seen it
}

func get(path string, query url.Values) *request {
	return &request{method: http.MethodGet, path: path, query: query}
}

// changing makes a request that changes something. It carries a key, so that
// it can be repeated on another node when one went away in the middle.
func changing(method, path string, by By, v any) (*request, error) {
	r := &request{method: method, path: path, query: url.Values{}, key: by.Request}
	if r.key == "" {
		r.key = ulid.Make().String()
	}
	if by.Why != "" {
		r.query.Set("why", by.Why)
	}
	if v == nil {
		return r, nil
	}
	var err error
	r.kind = "application/json"
	r.body, err = json.Marshal(v)
	return r, err
}

// set adds a query parameter unless it is empty.
func (r *request) set(name, value string) *request {
	if value != "" {
		r.query.Set(name, value)
	}
	return r
}

func (r *request) flag(name string, on bool) *request {
	if on {
		r.query.Set(name, "true")
	}
	return r
}

// do sends a request to one node after the other until one answers.
func (c *Client) do(ctx context.Context, r *request) (*http.Response, error) {
	start, n := int(c.good.Load()), len(c.endpoints)
	var last error
	for i := range n {
		at := (start + i) % n
		resp, err := c.withToken(ctx, r, c.endpoints[at], i < n-1)
		switch {
		case err == nil && (resp.StatusCode != http.StatusServiceUnavailable || i == n-1):
			c.good.Store(int32(at))
			return accepted(resp)
		case err == nil:
			// No quorum there; another node may see one. Nothing was changed.
			_, last = accepted(resp)
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, ErrForbidden):
			return nil, err
		default:
			last = moreTelling(last, err)
			if r.once && !neverSent(err) {
				return nil, Unknown("the connection to " + c.endpoints[at].URL + " broke before the answer")
			}
		}
	}
	if e, ok := asError(last); ok {
		return nil, e
	}
	return nil, &Unreachable{Addrs: c.addrs(), Cause: last}
}

// moreTelling chooses between what nodes were asked before met and what the next one
// does. That nothing runs at a port says least: a node that answered has more to say,
// and so has one that keeps silent.
func moreTelling(before, next error) error {
	if before != nil && neverSent(next) && errors.Is(next, syscall.ECONNREFUSED) {
		return before
	}
	return next
}

func (c *Client) addrs() []string {
	all := make([]string, len(c.endpoints))
	for i, e := range c.endpoints {
		all[i] = e.URL
	}
	return all
}

// neverSent reports whether a request surely did not reach a node.
func neverSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// withToken sends a request to one node, and again with the token that is found
// where the node wants one and none was given.
func (c *Client) withToken(ctx context.Context, r *request, e Endpoint, others bool) (*http.Response, error) {
	own := e.Token != "" || c.find == nil
	if token, ok := c.found.Load(e.URL); ok && !own {
		e.Token, own = token.(string), true
	}
	resp, err := c.once(ctx, r, e, others)
	if own || err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	e.Token, err = c.find(e.URL, resp.Header.Get(TokenFileHeader))
	if err != nil {
		_ = resp.Body.Close()
		return nil, Problem(http.StatusUnauthorized, err.Error(), "")
	}
	if e.Token == "" {
		return resp, nil
	}
	_ = resp.Body.Close()
	c.found.Store(e.URL, e.Token)
	return c.once(ctx, r, e, others)
}

// once sends a request to one node. A read that has others to turn to waits
// only so long for the answer to begin.
func (c *Client) once(ctx context.Context, r *request, e Endpoint, others bool) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	target := e.URL + r.path
	query := r.query
	if c.consistent && r.method == http.MethodGet {
		query = url.Values{"consistent": {"true"}}
		for k, v := range r.query {
			query[k] = v
		}
	}
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, bytes.NewReader(r.body))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	r.header(req.Header, e.Token)
	if others && r.method == http.MethodGet {
		timer := time.AfterFunc(c.patience, func() { cancel(fmt.Errorf("no answer within %s", c.patience)) })
		defer timer.Stop()
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		return nil, err
	}
	resp.Body = &cancelBody{resp.Body, cancel}
	return resp, nil
}

func (r *request) header(h http.Header, token string) {
	h.Set("Accept", "application/json")
	h.Set("User-Agent", "relay-admin")
	if token != "" {
		h.Set("Authorization", "Bearer "+token)
	}
	if r.kind != "" {
		h.Set("Content-Type", r.kind)
	}
	if r.key != "" {
		h.Set("Idempotency-Key", r.key)
	}
}

// cancelBody ends the request's context with the body.
type cancelBody struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (b *cancelBody) Close() error {
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

// accepted turns an answer that is not a success into an error.
func accepted(resp *http.Response) (*http.Response, error) {
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	e := &Error{}
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if json.Unmarshal(data, e) != nil || e.Title == "" {
		if strings.Contains(string(data), "HTTPS server") { // as Go's server says it
			return nil, Problem(resp.StatusCode, fmt.Sprintf("the node at %s speaks TLS", resp.Request.URL.Host),
				"write https:// and not http://")
		}
		e = Problem(resp.StatusCode, fmt.Sprintf("the server at %s answers %s, which is not an answer of relay's admin API",
			resp.Request.URL.Host, resp.Status),
			"check the address")
	}
	e.Status = resp.StatusCode
	return nil, e
}

// call sends a request and reads a JSON answer into out, unless that is nil.
func (c *Client) call(ctx context.Context, r *request, out any) error {
	_, err := c.callHeader(ctx, r, out)
	return err
}

func (c *Client) callHeader(ctx context.Context, r *request, out any) (http.Header, error) {
	resp, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		return resp.Header, err
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return nil, fmt.Errorf("the answer of %s can not be read: %w", resp.Request.URL.Host, err)
	}
	return resp.Header, nil
}

// change sends a request that changes something.
func (c *Client) change(ctx context.Context, method, path string, by By, in, out any, set ...func(*request)) error {
	r, err := changing(method, path, by, in)
	if err != nil {
		return err
	}
	for _, f := range set {
		f(r)
	}
	return c.call(ctx, r, out)
}

// open sends a request whose answer is a message.
func (c *Client) open(ctx context.Context, r *request) (io.ReadCloser, int64, error) {
	resp, err := c.do(ctx, r)
	if err != nil {
		return nil, 0, err
	}
	return resp.Body, resp.ContentLength, nil
}
