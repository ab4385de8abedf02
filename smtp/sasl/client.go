package sasl

import (
	"crypto/tls"
	"errors"
	"strconv"
	"strings"

	"github.com/xdg-go/scram"
)

// NewPlainClient returns the client's side of PLAIN.
func NewPlainClient(user, password string) Client { return &plainClient{user, password} }

type plainClient struct{ user, password string }

// Start begins the exchange, and is all of it.
func (c *plainClient) Start() (string, []byte, error) {
	if c.user == "" || strings.Contains(c.user+c.password, "\x00") {
		return "", nil, errors.New("sasl: a user name or password that PLAIN can not carry")
	}
	return Plain, []byte("\x00" + c.user + "\x00" + c.password), nil
}

// Next has nothing to say.
func (*plainClient) Next([]byte) ([]byte, error) { return nil, errChallenge }

// NewLoginClient returns the client's side of LOGIN.
func NewLoginClient(user, password string) Client {
	return &loginClient{answers: []string{user, password}}
}

type loginClient struct{ answers []string }

// Start has the server ask.
func (*loginClient) Start() (string, []byte, error) { return Login, nil, nil }

// Next answers in the order that all servers ask in, whatever they call it.
func (c *loginClient) Next([]byte) ([]byte, error) {
	if len(c.answers) == 0 {
		return nil, errChallenge
	}
	answer := c.answers[0]
	c.answers = c.answers[1:]
	return []byte(answer), nil
}

var errChallenge = errors.New("sasl: a challenge that the mechanism does not know")

// NewScramClient returns the client's side of SCRAM-SHA-256; with the state of a
// TLS connection that can be bound to, that of SCRAM-SHA-256-PLUS. If the
// server does not offer -PLUS, state must be nil.
func NewScramClient(user, password string, state *tls.ConnectionState) Client {
	c := &scramClient{user: Prepared(user), password: Prepared(password)}
	if all := bindings(state); len(all) > 0 {
		c.binding = all[0]
	}
	return c
}

type scramClient struct {
	user, password string
	binding        scram.ChannelBinding

	conv *scram.ClientConversation
	sent string // our first message
	step int
}

// maxIterations bounds what a server may have us compute.
const maxIterations = 10_000_000

// Start begins the exchange.
func (c *scramClient) Start() (string, []byte, error) {
	client, err := scram.SHA256.NewClientUnprepped(c.user, c.password, "")
	if err != nil {
		return "", nil, err
	}
	mechanism := Scram
	c.conv = client.NewConversation()
	if c.binding.IsSupported() {
		mechanism = ScramPlus
		c.conv = client.NewConversationWithChannelBinding(c.binding)
	}
	c.step = 0
	c.sent, err = c.conv.Step("")
	return mechanism, []byte(c.sent), err
}

// Next answers the server's two messages. It trusts neither: the nonce must be an
// extension of ours, the count bearable, the signature right.
func (c *scramClient) Next(challenge []byte) ([]byte, error) {
	c.step++
	if c.step == 1 && !c.bearable(string(challenge)) {
		return nil, errChallenge
	}
	response, err := c.conv.Step(string(challenge))
	if err == nil && c.conv.Done() && !c.conv.Valid() {
		err = errChallenge
	}
	return []byte(response), err
}

// bearable looks at what the library leaves open.
func (c *scramClient) bearable(first string) bool {
	fields := strings.Split(first, ",")
	if len(fields) < 3 {
		return false
	}
	_, nonce, _ := strings.Cut(c.sent, ",r=")
	iterations, err := strconv.Atoi(strings.TrimPrefix(fields[2], "i="))
	return err == nil && iterations <= maxIterations && len(fields[0]) > len("r=")+len(nonce)
}
