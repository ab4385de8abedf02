package sasl

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/xdg-go/scram"
)

// Checks are what a server asks its accounts. The functions are called from Next;
// an error of theirs ends the exchange and is returned by it as it is.
type Checks struct {
	// Password judges a name and a password as the client gave them.
	Password func(user, secret string) error
	// Same reports whether two names that differ are of one account. Nil: those
	// are that differ in case only.
	Same func(a, b string) bool
	// Keys returns what a user's proof is checked by; nil: there is no such user,
	// or none who may log in, and the client is not to learn that.
	Keys func(user string) (*Keys, error)
	// Nobody makes keys up for a user whom Keys did not know. See Decoy.
	Nobody func(user string) *Keys
	// Disproven hears of a proof that does not fit the keys that were told, and
	// returns what the client is to be told. Nil, and nil from it: a Refusal.
	Disproven func(user string, told *Keys) error
	// Proven hears of a proof that fits. Nil: nobody needs to.
	Proven func(user string) error
}

// Channel is the connection that an exchange is on.
type Channel struct {
	TLS  *tls.ConnectionState // nil: in clear
	Plus bool                 // SCRAM-SHA-256-PLUS is announced on it
}

// NewServer returns the server's side of a mechanism, nil for one that is not known.
func NewServer(mechanism string, on Channel, checks Checks) Server {
	switch mechanism {
	case Plain:
		return &plainServer{checks: checks}
	case Login:
		return &loginServer{checks: checks}
	case Scram, ScramPlus:
		return &scramServer{Checks: checks, on: on, plus: mechanism == ScramPlus}
	}
	return nil
}

func (c *Checks) same(a, b string) bool {
	return strings.EqualFold(a, b) || c.Same != nil && c.Same(a, b)
}

// plainServer: RFC 4616.
type plainServer struct{ checks Checks }

// Next takes authorization id, user and password, parted by NUL.
func (s *plainServer) Next(response []byte) ([]byte, bool, error) {
	if response == nil {
		return []byte{}, false, nil
	}
	parts := bytes.Split(response, []byte{0})
	if len(parts) != 3 || len(parts[1]) == 0 || len(parts[2]) == 0 {
		return nil, false, ErrMalformed
	}
	id, user := string(parts[0]), string(parts[1])
	if id != "" && !s.checks.same(id, user) {
		return nil, false, &Refusal{user} // nobody may act for others
	}
	if err := s.checks.Password(user, string(parts[2])); err != nil {
		return nil, false, err
	}
	return nil, true, nil
}

// loginServer is LOGIN, which was never more than a draft: two questions, two
// answers, the first of which may come unasked.
type loginServer struct {
	checks Checks
	asked  bool
	user   string
}

// Next takes the user, then the password.
func (s *loginServer) Next(response []byte) ([]byte, bool, error) {
	switch {
	case response == nil && !s.asked:
		return []byte("Username:"), false, nil
	case len(response) == 0:
		return nil, false, ErrMalformed
	case !s.asked:
		s.user, s.asked = string(response), true
		return []byte("Password:"), false, nil
	}
	if err := s.checks.Password(s.user, string(response)); err != nil {
		return nil, false, err
	}
	return nil, true, nil
}

// scramServer: RFC 5802, RFC 7677.
type scramServer struct {
	Checks
	on   Channel
	plus bool

	step int
	conv *scram.ServerConversation
	user string
	told *Keys
	real bool
	err  error // what a check has said
}

// Next takes the client's two messages, and its nod to the signature.
func (s *scramServer) Next(response []byte) ([]byte, bool, error) {
	if response == nil {
		return []byte{}, false, nil
	}
	s.step++
	switch {
	case s.step == 1:
		return s.first(string(response))
	case s.step == 2:
		return s.final(string(response))
	case s.step > 3 || len(response) > 0:
		return nil, false, ErrMalformed
	}
	if s.Proven != nil {
		s.err = s.Proven(s.user)
	}
	return nil, s.err == nil, s.err
}

func (s *scramServer) first(msg string) ([]byte, bool, error) {
	flag, _, _ := strings.Cut(msg, ",")
	kind, bound := strings.CutPrefix(flag, "p=")
	if bound != s.plus || !utf8.ValidString(msg) || strings.ContainsFunc(msg, unicode.IsControl) ||
		strings.Contains(msg+",", ",r=,") {
		return nil, false, ErrMalformed
	}
	if err := s.begin(kind); err != nil {
		return nil, false, err
	}
	challenge, err := s.conv.Step(msg)
	switch {
	case s.err != nil:
		return nil, false, s.err
	case challenge == scram.ErrServerDoesSupportChannelBinding: // somebody took -PLUS off our list
		return nil, false, &Refusal{}
	case err != nil:
		return nil, false, ErrMalformed
	}
	return []byte(challenge), false, nil
}

// begin makes the conversation, bound to the channel as the client wishes.
func (s *scramServer) begin(kind string) error {
	server, err := scram.SHA256.NewServer(s.lookUp)
	if err != nil {
		return err
	}
	all := bindings(s.on.TLS)
	switch i := slices.IndexFunc(all, func(b scram.ChannelBinding) bool { return string(b.Type) == kind }); {
	case s.plus && i < 0:
		return ErrMalformed
	case s.plus:
		s.conv = server.NewConversationWithChannelBinding(all[i])
	case s.on.Plus && len(all) > 0: // which has it find out a downgrade
		s.conv = server.NewConversationWithChannelBinding(all[0])
	default:
		s.conv = server.NewConversation()
	}
	return nil
}

// lookUp finds the keys of the user whom the client has named.
func (s *scramServer) lookUp(user string) (scram.StoredCredentials, error) {
	s.user = user
	switch id := s.conv.AuthzID(); {
	case user == "":
		s.err = ErrMalformed
	case id != "" && !s.same(id, user):
		s.err = &Refusal{user}
	default:
		s.told, s.err = s.Keys(user)
	}
	if s.err != nil {
		return scram.StoredCredentials{}, s.err
	}
	if s.real = s.told != nil; !s.real {
		s.told = s.Nobody(user)
	}
	k := s.told
	return scram.StoredCredentials{
		KeyFactors: scram.KeyFactors{Salt: string(k.Salt), Iters: k.Iterations}, StoredKey: k.StoredKey,
		ServerKey: k.ServerKey,
	}, nil
}

func (s *scramServer) final(msg string) ([]byte, bool, error) {
	signature, err := s.conv.Step(msg)
	switch {
	case err == nil && s.real:
		return []byte(signature), false, nil
	case signature == "": // it could not be read
		return nil, false, ErrMalformed
	case err != nil && signature != scram.ErrInvalidProof || s.Disproven == nil:
		return nil, false, &Refusal{s.user}
	}
	return nil, false, cmp.Or(s.Disproven(s.user, s.told), error(&Refusal{s.user}))
}

// CanBind reports whether -PLUS can be announced on a connection.
func CanBind(state *tls.ConnectionState) bool { return len(bindings(state)) > 0 }

// bindings returns the channel bindings that a connection has: tls-exporter (RFC
// 9266), or tls-unique (RFC 5929) before TLS 1.3. tls-server-end-point is left
// out, since a server can not tell which of its certificates a resumed session
// began with.
func bindings(state *tls.ConnectionState) []scram.ChannelBinding {
	switch {
	case state == nil:
	case state.Version >= tls.VersionTLS13:
		if b, err := scram.NewTLSExporterBinding(state); err == nil {
			return []scram.ChannelBinding{b}
		}
	case len(state.TLSUnique) > 0:
		return []scram.ChannelBinding{scram.NewTLSUniqueBinding(state.TLSUnique)}
	}
	return nil
}
