package remote

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"relay/queue/remote/oauth"
	"relay/smtp"
	"relay/smtp/sasl"
)

// source is where the tokens of a login come from.
func (l *Login) source(ctx context.Context) (*oauth.Tokens, error) {
	l.mu.Lock()
	t := l.tokens
	l.mu.Unlock()
	if t != nil {
		return t, nil
	}
	text, err := l.credential(ctx)
	if err != nil {
		return nil, err
	}
	c, err := oauth.Parse(text)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tokens == nil {
		l.tokens = oauth.New(c, l.user)
	}
	return l.tokens, nil
}

// tokenLogin shows the host a token, and a new one where it does not take one that is kept. It says in f what went
// wrong; nothing: it is logged in.
func (a *Agent) tokenLogin(ctx context.Context, l *Login, c *conn, f *fault) {
	tokens, err := l.source(ctx)
	if err != nil {
		f.text, f.final = fmt.Sprintf("4.3.5 route %s: its credential can not be read: %s", l.route, plain(err)), true
		return
	}
	for {
		token, fetched, err := tokens.Token(ctx)
		if no, ok := errors.AsType[*oauth.Refused](err); ok {
			a.refusedLogin(l, no.Host, plain(no), f)
			return
		}
		if err != nil {
			f.text, f.final = fmt.Sprintf("4.7.0 route %s: no token for now: %s", l.route, plain(err)), true
			return
		}
		m, why := tokenMechanism(c.client, l.user, token)
		if m == nil {
			f.text = fmt.Sprintf("4.7.0 route %s: no login: %s", l.route, why)
			return
		}
		if err = c.client.Auth(ctx, m); err == nil {
			l.took(false)
			return
		}
		if refuses(err) {
			tokens.Forget(token)
			if !fetched {
				continue // it was taken back before its time
			}
		}
		a.noLogin(l, c, err, f)
		return
	}
}

func tokenMechanism(c *smtp.Client, user, token string) (m sasl.Client, why string) {
	offered, ok := c.Has("AUTH")
	if !ok {
		return nil, "the host offers none (AUTH)"
	}
	names := strings.Fields(strings.ToUpper(offered))
	switch {
	case slices.Contains(names, sasl.Bearer):
		return sasl.NewBearerClient(user, token), ""
	case slices.Contains(names, sasl.XOAuth2):
		return sasl.NewXOAuth2Client(user, token), ""
	}
	return nil, fmt.Sprintf("the host offers %s, and the route has a token for OAUTHBEARER or XOAUTH2",
		plain(errors.New(offered)))
}
