package sasl

import (
	"errors"
	"slices"
	"strings"
)

// Names of the mechanisms.
const (
	Plain     = "PLAIN"
	Login     = "LOGIN"
	Scram     = "SCRAM-SHA-256"
	ScramPlus = "SCRAM-SHA-256-PLUS"

	Bearer  = "OAUTHBEARER" // RFC 7628; the client's side only, as XOAuth2 is
	XOAuth2 = "XOAUTH2"     // Google's form of it, which Microsoft has, too
)

// Server is the server's side of one exchange. Next takes the client's next
// response, nil where there is none yet, and returns the next challenge, or that
// the exchange is done: then the client is who it says. An error ends it.
type Server interface {
	Next(response []byte) (challenge []byte, done bool, err error)
}

// Client is the client's side of one exchange. A nil first response says that the
// server has to begin.
type Client interface {
	Start() (mechanism string, first []byte, err error)
	Next(challenge []byte) (response []byte, err error)
}

// ErrMalformed says that the client sent what the mechanism can not read.
var ErrMalformed = errors.New("sasl: malformed response")

// Refusal says that a client may not be who it wants to be, for a reason that
// lies in the exchange itself.
type Refusal struct{ User string }

// Error implements error.
func (*Refusal) Error() string { return "sasl: refused" }

// Names lists all mechanisms.
func Names() []string { return []string{Plain, Login, Scram, ScramPlus} }

// Defaults are the mechanisms that a server offers where nobody has listed any.
// -PLUS is not among them: clients pick it whose library can do none of the
// channel bindings that the connection has (mutt with GNU SASL does), and then
// can not log in.
func Defaults() []string { return []string{Plain, Login, Scram} }

// Parse returns the name of a mechanism as it goes over the wire.
func Parse(name string) (string, bool) {
	name = strings.ToUpper(name)
	return name, slices.Contains(Names(), name)
}
