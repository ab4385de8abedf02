package sasl

import (
	"errors"
	"strings"
)

// NewBearerClient returns the client's side of OAUTHBEARER, for an access token.
func NewBearerClient(user, token string) Client {
	name := strings.NewReplacer("=", "=3D", ",", "=2C").Replace(user) // RFC 5801 §4
	return &bearerClient{Bearer, "n,a=" + name + ",\x01auth=Bearer " + token + "\x01\x01", "\x01", user + token}
}

// NewXOAuth2Client returns the client's side of XOAUTH2.
func NewXOAuth2Client(user, token string) Client {
	return &bearerClient{XOAuth2, "user=" + user + "\x01auth=Bearer " + token + "\x01\x01", "", user + token}
}

type bearerClient struct{ name, first, end, said string }

// Start begins the exchange, and is all of it where the server takes the token.
func (c *bearerClient) Start() (string, []byte, error) {
	if strings.ContainsAny(c.said, "\x00\x01\r\n") {
		return "", nil, errors.New("sasl: a user name or token that " + c.name + " can not carry")
	}
	return c.name, []byte(c.first), nil
}

// Next ends an exchange in which the server has said why it does not take the token: it refuses then.
func (c *bearerClient) Next([]byte) ([]byte, error) { return []byte(c.end), nil }
