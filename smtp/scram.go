package smtp

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/emersion/go-sasl"
)

// ScramKeys is what a server keeps instead of a password (RFC 5802 section 3,
// with SHA-256: RFC 7677).
type ScramKeys struct {
	Salt       []byte
	Iterations int
	StoredKey  []byte
	ServerKey  []byte
}

// NewScramKeys derives the keys of a password. It is slow on purpose. The
// password should have gone through SASLprep before.
func NewScramKeys(password string, salt []byte, iterations int) (*ScramKeys, error) {
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return nil, err
	}
	stored := sha256.Sum256(mac(salted, "Client Key"))
	return &ScramKeys{salt, iterations, stored[:], mac(salted, "Server Key")}, nil
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// channelBindings returns the data of the channel bindings that a connection
// has, by name: tls-exporter (RFC 9266), or tls-unique (RFC 5929) before TLS 1.3.
func channelBindings(state *tls.ConnectionState) map[string][]byte {
	if state == nil {
		return nil
	}
	if state.Version >= tls.VersionTLS13 {
		data, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
		if err != nil {
			return nil
		}
		return map[string][]byte{"tls-exporter": data}
	}
	if len(state.TLSUnique) > 0 {
		return map[string][]byte{"tls-unique": state.TLSUnique}
	}
	return nil
}

// scramServer is the server's side of one exchange.
type scramServer struct {
	keys     func(user string) (*ScramKeys, bool, error) // false: made up
	wrong    func(user string, told *ScramKeys) error
	bindings map[string][]byte
	plus     bool
	user     *string

	step      int
	real      bool
	stored    *ScramKeys
	header    string // gs2-header, as the client sent it
	nonce     string
	first     string // client-first-message-bare "," server-first-message
	bindingID string
}

func (c *conn) scramServer(user *string) *scramServer {
	return &scramServer{keys: c.scramKeys, wrong: c.disproven, bindings: channelBindings(c.peer.TLS), user: user}
}

// scramKeys asks the Session. Who is not there gets keys that nobody can meet
// and that are the same every time.
func (c *conn) scramKeys(user string) (*ScramKeys, bool, error) {
	ctx, cancel := c.call()
	defer cancel()
	keys, err := c.sess.(ScramAuthenticator).ScramKeys(ctx, user)
	switch {
	case keys != nil && err == nil:
		return keys, true, nil
	case err != nil && !errors.Is(err, ErrCredentials):
		return nil, false, err
	}
	fake := mac(c.srv.secret, user)
	return &ScramKeys{fake[:16], c.cfg.ScramIterations, fake, fake}, false, nil
}

// disproven asks the Session about a proof that did not fit. It never returns nil.
func (c *conn) disproven(user string, told *ScramKeys) error {
	ctx, cancel := c.call()
	defer cancel()
	return cmp.Or(c.sess.(ScramAuthenticator).Disproven(ctx, user, told), error(ErrCredentials))
}

// Next takes the client's two messages.
func (s *scramServer) Next(response []byte) ([]byte, bool, error) {
	if response == nil {
		return []byte{}, false, nil
	}
	s.step++
	if s.step == 1 {
		challenge, err := s.clientFirst(string(response))
		return challenge, err != nil, err
	}
	challenge, err := s.clientFinal(string(response))
	return challenge, true, err
}

func (s *scramServer) clientFirst(msg string) ([]byte, error) {
	flag, rest, ok1 := strings.Cut(msg, ",")
	id, bare, ok2 := strings.Cut(rest, ",")
	if !ok1 || !ok2 || !printable(msg) {
		return nil, errAuthSyntax
	}
	if err := s.checkBinding(flag); err != nil {
		return nil, err
	}
	name, rest, ok1 := strings.Cut(bare, ",")
	clientNonce, _, _ := strings.Cut(rest, ",")
	user, ok2 := scramName(name, "n=")
	clientNonce, ok3 := strings.CutPrefix(clientNonce, "r=")
	if !ok1 || !ok2 || !ok3 || clientNonce == "" || user == "" {
		return nil, errAuthSyntax
	}
	*s.user = user
	if id != "" {
		if other, ok := scramName(id, "a="); !ok || other != user {
			return nil, ErrCredentials
		}
	}
	keys, real, err := s.keys(user)
	if err != nil {
		return nil, err
	}
	s.stored, s.real = keys, real
	s.header = flag + "," + id + ","
	s.nonce = clientNonce + rand.Text()
	reply := "r=" + s.nonce + ",s=" + base64.StdEncoding.EncodeToString(keys.Salt) + ",i=" + strconv.Itoa(keys.Iterations)
	s.first = bare + "," + reply
	return []byte(reply), nil
}

// checkBinding: RFC 5802 section 6.
func (s *scramServer) checkBinding(flag string) error {
	id, bound := strings.CutPrefix(flag, "p=")
	switch {
	case bound != s.plus:
		return errAuthSyntax
	case bound:
		s.bindingID = id
		if s.bindings[id] == nil {
			return errAuthSyntax
		}
	case flag == "y" && len(s.bindings) > 0: // somebody took -PLUS off our list
		return ErrCredentials
	case flag != "n" && flag != "y":
		return errAuthSyntax
	}
	return nil
}

func scramName(s, prefix string) (string, bool) {
	name, ok := strings.CutPrefix(s, prefix)
	return strings.NewReplacer("=2C", ",", "=3D", "=").Replace(name), ok
}

func (s *scramServer) clientFinal(msg string) ([]byte, error) {
	i := strings.LastIndex(msg, ",p=")
	if i < 0 {
		return nil, errAuthSyntax
	}
	without := msg[:i]
	proof, err := base64.StdEncoding.DecodeString(msg[i+3:])
	if err != nil || len(proof) != sha256.Size {
		return nil, errAuthSyntax
	}
	binding := append([]byte(s.header), s.bindings[s.bindingID]...)
	fields := strings.Split(without, ",")
	if len(fields) < 2 || fields[0] != "c="+base64.StdEncoding.EncodeToString(binding) || fields[1] != "r="+s.nonce {
		return nil, ErrCredentials
	}
	text := s.first + "," + without
	signature := mac(s.stored.StoredKey, text)
	subtle.XORBytes(proof, proof, signature)
	key := sha256.Sum256(proof)
	if subtle.ConstantTimeCompare(key[:], s.stored.StoredKey) != 1 || !s.real {
		return nil, s.wrong(*s.user, s.stored)
	}
	return []byte("v=" + base64.StdEncoding.EncodeToString(mac(s.stored.ServerKey, text))), nil
}

// NewScramClient returns the client's side of SCRAM-SHA-256, for Client.Auth;
// with the state of a TLS connection, that of SCRAM-SHA-256-PLUS. Where the
// server is not offered -PLUS, state must be nil.
func NewScramClient(user, password string, state *tls.ConnectionState) sasl.Client {
	c := &scramClient{user: user, password: password, header: "n,,"}
	for id, data := range channelBindings(state) {
		c.header, c.binding = "p="+id+",,", data
	}
	return c
}

type scramClient struct {
	user, password string
	header         string
	binding        []byte

	step      int
	nonce     string
	bare      string
	signature []byte
}

// Start begins the exchange.
func (c *scramClient) Start() (string, []byte, error) {
	c.nonce = rand.Text()
	c.bare = "n=" + strings.NewReplacer("=", "=3D", ",", "=2C").Replace(c.user) + ",r=" + c.nonce
	mech := mechScram
	if c.binding != nil {
		mech = mechScramPlus
	}
	return mech, []byte(c.header + c.bare), nil
}

// Next answers the server's two messages. It trusts neither: the nonce must be
// an extension of ours, the count bearable, the signature right.
func (c *scramClient) Next(challenge []byte) ([]byte, error) {
	c.step++
	switch c.step {
	case 1:
		return c.final(string(challenge))
	case 2:
		if got, ok := bytes.CutPrefix(challenge, []byte("v=")); !ok ||
			subtle.ConstantTimeCompare(got, []byte(base64.StdEncoding.EncodeToString(c.signature))) != 1 {
			return nil, errors.New("smtp: the server does not know the password")
		}
		return []byte{}, nil
	}
	return nil, sasl.ErrUnexpectedServerChallenge
}

func (c *scramClient) final(first string) ([]byte, error) {
	fields := strings.Split(first, ",")
	if len(fields) < 3 {
		return nil, fmt.Errorf("smtp: bad SCRAM challenge")
	}
	nonce, ok1 := strings.CutPrefix(fields[0], "r=")
	salt64, ok2 := strings.CutPrefix(fields[1], "s=")
	count, ok3 := strings.CutPrefix(fields[2], "i=")
	salt, err1 := base64.StdEncoding.DecodeString(salt64)
	iterations, err2 := strconv.Atoi(count)
	if !ok1 || !ok2 || !ok3 || err1 != nil || err2 != nil || iterations < 4096 || iterations > 10_000_000 ||
		!strings.HasPrefix(nonce, c.nonce) || len(nonce) == len(c.nonce) {
		return nil, fmt.Errorf("smtp: bad SCRAM challenge")
	}
	salted, err := pbkdf2.Key(sha256.New, c.password, salt, iterations, sha256.Size)
	if err != nil {
		return nil, err
	}
	key := mac(salted, "Client Key")
	stored := sha256.Sum256(key)
	without := "c=" + base64.StdEncoding.EncodeToString(append([]byte(c.header), c.binding...)) + ",r=" + nonce
	text := c.bare + "," + first + "," + without
	c.signature = mac(mac(salted, "Server Key"), text)
	subtle.XORBytes(key, key, mac(stored[:], text))
	return []byte(without + ",p=" + base64.StdEncoding.EncodeToString(key)), nil
}
