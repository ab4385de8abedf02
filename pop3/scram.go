package pop3

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"

	"github.com/emersion/go-sasl"
)

const scramName = "SCRAM-SHA-256"

// Verifier is what a server keeps of a secret for SCRAM-SHA-256 (RFC 5802 §3):
// enough to check a proof, not enough to make one.
type Verifier struct {
	Salt       []byte
	Iterations int
	StoredKey  []byte
	ServerKey  []byte
}

// MakeVerifier derives a verifier from a secret. RFC 7677 §4 wants at least
// 4096 iterations. It takes as long as iterations say.
func MakeVerifier(secret string, salt []byte, iterations int) (Verifier, error) {
	salted, err := pbkdf2.Key(sha256.New, secret, salt, iterations, sha256.Size)
	if err != nil {
		return Verifier{}, err
	}
	stored := sha256.Sum256(sign(salted, "Client Key"))
	return Verifier{Salt: salt, Iterations: iterations, StoredKey: stored[:], ServerKey: sign(salted, "Server Key")}, nil
}

func sign(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// channel returns the tls-exporter binding (RFC 9266) of a connection; nil where
// it has none.
func channel(st *tls.ConnectionState) []byte {
	if st == nil {
		return nil
	}
	b, err := st.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	if err != nil {
		return nil
	}
	return b
}

// scramServer is the server side of SCRAM-SHA-256 and -PLUS.
type scramServer struct {
	conn    *conn
	back    SCRAM
	proof   *proof
	plus    bool
	binding []byte // nil: the channel can not be bound to

	step     int
	user     string
	gs2      string // header of the client's first message
	bare     string // rest of it
	first    string // our first message
	nonce    string
	verifier Verifier
	invented bool
}

// Next takes the client's next message.
func (s *scramServer) Next(response []byte) (challenge []byte, done bool, err error) {
	s.step++
	switch {
	case response == nil:
		s.step--
		return []byte{}, false, nil
	case s.step == 1:
		return s.begin(string(response))
	case s.step == 2:
		return s.check(string(response))
	case len(response) == 0:
		return nil, true, nil // RFC 5034 §4: our last word was a challenge
	}
	return nil, false, errResponse
}

// begin reads "gs2-header n=user,r=nonce".
func (s *scramServer) begin(msg string) ([]byte, bool, error) {
	flag, rest, ok1 := strings.Cut(msg, ",")
	authzid, bare, ok2 := strings.Cut(rest, ",")
	if !ok1 || !ok2 || !s.flagFits(flag) {
		return nil, false, errResponse
	}
	s.gs2, s.bare = msg[:len(msg)-len(bare)], bare
	attrs := strings.Split(bare, ",")
	if len(attrs) < 2 || !strings.HasPrefix(attrs[0], "n=") || !strings.HasPrefix(attrs[1], "r=") || len(attrs[1]) < 3 {
		return nil, false, errResponse // also a mandatory extension, m=
	}
	var ok bool
	if s.user, ok = saslName(attrs[0][2:]); !ok || s.user == "" {
		return nil, false, errResponse
	}
	if authzid != "" {
		as, ok := saslName(strings.TrimPrefix(authzid, "a="))
		if !ok || !strings.HasPrefix(authzid, "a=") {
			return nil, false, errResponse
		}
		if !strings.EqualFold(as, s.user) {
			return nil, false, &loginError{s.user, ErrAuth}
		}
	}
	if err := s.load(); err != nil {
		return nil, false, &loginError{s.user, err}
	}
	s.nonce = attrs[1][2:] + rand.Text()
	s.first = "r=" + s.nonce + ",s=" + base64.StdEncoding.EncodeToString(s.verifier.Salt) +
		",i=" + strconv.Itoa(s.verifier.Iterations)
	return []byte(s.first), false, nil
}

// flagFits checks the channel binding flag. "y" says that the client thinks we
// can not bind; where we offered it, somebody took the offer out (RFC 5802 §6).
func (s *scramServer) flagFits(flag string) bool {
	switch {
	case s.plus:
		return flag == "p=tls-exporter"
	case flag == "y":
		return s.binding == nil
	}
	return flag == "n"
}

// load gets the verifier, or makes one up that looks the same each time.
func (s *scramServer) load() error {
	c := s.conn
	v, err := s.back.Verifier(c.ctx, &c.peer, s.user)
	if errors.Is(err, ErrAuth) || errors.Is(err, ErrDisabled) {
		salt := sign(c.srv.cfg.FakeSecret, strings.ToLower(s.user))
		v, s.invented = Verifier{Salt: salt[:16], Iterations: 4096, StoredKey: salt, ServerKey: salt}, true
		err = nil
	}
	s.verifier = v
	return err
}

// check reads "c=binding,r=nonce,p=proof".
func (s *scramServer) check(msg string) ([]byte, bool, error) {
	i := strings.LastIndex(msg, ",p=")
	if i < 0 {
		return nil, false, errResponse
	}
	plain := msg[:i]
	given, err := base64.StdEncoding.DecodeString(msg[i+3:])
	attrs := strings.Split(plain, ",")
	if err != nil || len(attrs) < 2 || !strings.HasPrefix(attrs[0], "c=") {
		return nil, false, errResponse
	}
	bound, err := base64.StdEncoding.DecodeString(attrs[0][2:])
	if err != nil {
		return nil, false, errResponse
	}
	want := []byte(s.gs2)
	if s.plus {
		want = append(want, s.binding...)
	}
	text := s.bare + "," + s.first + "," + plain
	good := s.proves(given, text) && bytes.Equal(bound, want) && attrs[1] == "r="+s.nonce && !s.invented
	c := s.conn
	if !good {
		return nil, false, &loginError{s.user, s.disproven()}
	}
	s.proof.user = s.user
	s.proof.enter = func(ctx context.Context) (Maildrop, error) { return s.back.Proven(ctx, &c.peer, s.user) }
	return []byte("v=" + base64.StdEncoding.EncodeToString(sign(s.verifier.ServerKey, text))), false, nil
}

// disproven asks the Backend what a proof that did not fit is answered.
func (s *scramServer) disproven() error {
	ctx, cancel := s.conn.loginTime()
	defer cancel()
	return cmp.Or(s.back.Disproven(ctx, &s.conn.peer, s.user, s.verifier), ErrAuth)
}

func (s *scramServer) proves(proof []byte, text string) bool {
	key := sign(s.verifier.StoredKey, text)
	if len(proof) != len(key) {
		return false
	}
	subtle.XORBytes(key, key, proof)
	stored := sha256.Sum256(key)
	return subtle.ConstantTimeCompare(stored[:], s.verifier.StoredKey) == 1
}

// saslName undoes the quoting of a name (RFC 5802 §5.1).
func saslName(s string) (string, bool) {
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(s, "=")
		b.WriteString(before)
		switch {
		case !ok:
			return b.String(), true
		case strings.HasPrefix(after, "2C"):
			b.WriteByte(',')
		case strings.HasPrefix(after, "3D"):
			b.WriteByte('=')
		default:
			return "", false
		}
		s = after[2:]
	}
}

// scramClient is the client side of SCRAM-SHA-256 and -PLUS.
type scramClient struct {
	user, secret string
	binding      []byte
	nonce        string
	bare         string
	server       []byte // its last message must be this
	step         int
}

// NewSCRAMClient makes the client side of SCRAM-SHA-256; with the state of the
// connection that it is used on, of SCRAM-SHA-256-PLUS.
func NewSCRAMClient(user, secret string, st *tls.ConnectionState) sasl.Client {
	return &scramClient{user: user, secret: secret, binding: channel(st)}
}

func (s *scramClient) gs2() string {
	if s.binding != nil {
		return "p=tls-exporter,,"
	}
	return "n,,"
}

// Start begins the exchange.
func (s *scramClient) Start() (mech string, ir []byte, err error) {
	mech = scramName
	if s.binding != nil {
		mech += "-PLUS"
	}
	if s.nonce == "" {
		s.nonce = rand.Text()
	}
	name := strings.NewReplacer("=", "=3D", ",", "=2C").Replace(s.user)
	s.bare = "n=" + name + ",r=" + s.nonce
	return mech, []byte(s.gs2() + s.bare), nil
}

// Next answers the server.
func (s *scramClient) Next(challenge []byte) ([]byte, error) {
	s.step++
	if s.step == 1 {
		return s.answer(string(challenge))
	}
	if s.step == 2 && hmac.Equal(challenge, s.server) {
		return []byte{}, nil
	}
	return nil, errors.New("pop3: the server does not know the secret")
}

func (s *scramClient) answer(msg string) ([]byte, error) {
	attrs := strings.Split(msg, ",")
	if len(attrs) < 3 || !strings.HasPrefix(attrs[0], "r="+s.nonce) ||
		!strings.HasPrefix(attrs[1], "s=") || !strings.HasPrefix(attrs[2], "i=") {
		return nil, sasl.ErrUnexpectedServerChallenge
	}
	salt, err := base64.StdEncoding.DecodeString(attrs[1][2:])
	if err != nil {
		return nil, err
	}
	rounds, err := strconv.Atoi(attrs[2][2:])
	if err != nil || rounds < 1 || rounds > 10_000_000 {
		return nil, sasl.ErrUnexpectedServerChallenge
	}
	salted, err := pbkdf2.Key(sha256.New, s.secret, salt, rounds, sha256.Size)
	if err != nil {
		return nil, err
	}
	plain := "c=" + base64.StdEncoding.EncodeToString(append([]byte(s.gs2()), s.binding...)) + "," + attrs[0]
	text := s.bare + "," + msg + "," + plain
	key := sign(salted, "Client Key")
	stored := sha256.Sum256(key)
	subtle.XORBytes(key, key, sign(stored[:], text))
	s.server = []byte("v=" + base64.StdEncoding.EncodeToString(sign(sign(salted, "Server Key"), text)))
	return []byte(plain + ",p=" + base64.StdEncoding.EncodeToString(key)), nil
}
