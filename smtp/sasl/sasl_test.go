package sasl

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// talk plays a client against a server.
func talk(t *testing.T, c Client, s Server) error {
	t.Helper()
	_, response, err := c.Start()
	require.NoError(t, err)
	for range 8 {
		challenge, done, err := s.Next(response)
		if err != nil || done {
			return err
		}
		if response, err = c.Next(challenge); err != nil {
			return err
		}
	}
	return errors.New("no end")
}

var errWrong = errors.New("wrong")

func keysOf(t *testing.T, password string) *Keys {
	k, err := NewKeys(password, []byte("saltsaltsaltsalt"), 4096)
	require.NoError(t, err)
	return k
}

// ann's password is that of keys; alice is another spelling of ann.
func checks(t *testing.T, keys *Keys) Checks {
	return Checks{
		Password: func(user, secret string) error {
			if user != "ann" || !keys.Fit(secret) {
				return errWrong
			}
			return nil
		},
		Same: func(a, b string) bool { return strings.Contains("ann@example.test alice", a) && b == "ann" },
		Keys: func(user string) (*Keys, error) {
			if user != "ann" {
				return nil, nil
			}
			return keys, nil
		},
		Nobody: func(user string) *Keys { return DummyKeys([]byte("secret"), user, 4096) },
	}
}

// TestScramVector is the example of RFC 7677 section 3, as far as the client's
// part goes that does not depend on chance: the keys.
func TestScramVector(t *testing.T) {
	salt, err := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	require.NoError(t, err)
	k, err := NewKeys("pencil", salt, 4096)
	require.NoError(t, err)
	require.Equal(t, "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=", base64.StdEncoding.EncodeToString(k.StoredKey))
	require.Equal(t, "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=", base64.StdEncoding.EncodeToString(k.ServerKey))
}

func TestPrepared(t *testing.T) {
	for in, want := range map[string]string{
		"secret": "secret", "pass²": "pass2", "µ": "μ", "´": " ́", "u\u0308": "ü", "ü": "ü", "a\u00a0b": "a b",
		"I\u00adX": "IX", "ª": "a", "Ⅸ": "IX",
		"😀u\u0308": "😀ü", "a\x07": "a\x07", "ا1": "ا1", "": "", "\u00ad": "\u00ad", "\xff": "\xff",
	} {
		require.Equal(t, want, Prepared(in), "%q", in)
		require.Equal(t, want, Prepared(Prepared(in)), "%q", in)
	}
}

// TestPasswordsBeyondASCII: whichever form a password was set in, all of them log in.
func TestPasswordsBeyondASCII(t *testing.T) {
	for _, forms := range [][]string{
		{"pass²", "pass2"}, {"10µ", "10μ"}, {"a´b", "a \u0301b"}, {"jürgen", "ju\u0308rgen"}, {"a\u00a0b", "a b"},
	} {
		for _, set := range forms {
			for _, given := range forms {
				c := checks(t, keysOf(t, set))
				require.NoError(t, talk(t, NewScramClient("ann", given, nil), NewServer(Scram, Channel{}, c)), "%q %q", set, given)
			}
		}
	}
}

func TestExchanges(t *testing.T) {
	c := checks(t, keysOf(t, "secret"))
	for mechanism, client := range map[string]func(user, password string) Client{
		Plain: NewPlainClient, Login: NewLoginClient, Scram: func(u, p string) Client { return NewScramClient(u, p, nil) },
	} {
		require.NoError(t, talk(t, client("ann", "secret"), NewServer(mechanism, Channel{}, c)), mechanism)
		for _, who := range [][2]string{{"ann", "wrong"}, {"eve", "secret"}} {
			err := talk(t, client(who[0], who[1]), NewServer(mechanism, Channel{}, c))
			refused := new(Refusal)
			require.True(t, errors.Is(err, errWrong) || errors.As(err, &refused) && refused.User == who[0],
				"%s: %v", mechanism, err)
		}
	}
	require.Nil(t, NewServer("CRAM-MD5", Channel{}, c))
}

// TestAuthorization: two names of one account are one, others are refused.
func TestAuthorization(t *testing.T) {
	c := checks(t, keysOf(t, "secret"))
	refused := new(Refusal)
	for id, ok := range map[string]bool{"": true, "ann": true, "ANN": true, "ann@example.test": true, "bob": false} {
		_, done, err := NewServer(Plain, Channel{}, c).Next([]byte(id + "\x00ann\x00secret"))
		require.Equal(t, ok, done && err == nil, id)
		challenge, _, scramErr := NewServer(Scram, Channel{},
			c).Next([]byte("n," + map[bool]string{true: "a=" + id}[id != ""] + ",n=ann,r=abc"))
		require.Equal(t, ok, scramErr == nil && strings.HasPrefix(string(challenge), "r=abc"), id)
		if !ok {
			require.ErrorAs(t, err, &refused)
			require.ErrorAs(t, scramErr, &refused)
		}
	}
}

func TestMalformed(t *testing.T) {
	c := checks(t, keysOf(t, "secret"))
	for _, msg := range []string{
		"", "n", "n,,", "n,,n=ann", "n,,n=ann,r=", "n,,n=,r=abc", "n,,m=x,n=ann,r=abc", "n,,n=a=nn,r=abc", "n,,n=ann=,r=abc",
		"n,,n=ann=2c,r=abc",
		"n,a=x=,n=ann,r=abc", "n,x,n=ann,r=abc", "x,,n=ann,r=abc", "p=tls-exporter,,n=ann,r=abc", "n,,n=ann\x00,r=abc",
		"n,,n=\xff,r=abc",
	} {
		_, _, err := NewServer(Scram, Channel{}, c).Next([]byte(msg))
		require.ErrorIs(t, err, ErrMalformed, "%q", msg)
	}
	for _, msg := range []string{"", "x", "c=biws,r=abc", "c=biws,p=AAAA", "c=!,r=abc,p=AAAA", "c=biws,r=abc,p=!"} {
		s := NewServer(Scram, Channel{}, c)
		_, _, err := s.Next([]byte("n,,n=ann,r=abc"))
		require.NoError(t, err)
		_, _, err = s.Next([]byte(msg))
		require.ErrorIs(t, err, ErrMalformed, "%q", msg)
	}
	for _, msg := range []string{"", "ann", "\x00\x00secret", "\x00ann\x00", "\x00ann\x00a\x00b"} {
		_, _, err := NewServer(Plain, Channel{}, c).Next([]byte(msg))
		require.ErrorIs(t, err, ErrMalformed, "%q", msg)
	}
}

// TestDowngrade: y says that the client could bind, and thinks that the server can not.
func TestDowngrade(t *testing.T) {
	c := checks(t, keysOf(t, "secret"))
	state := &tls.ConnectionState{Version: tls.VersionTLS12, TLSUnique: []byte("0123456789ab")}
	_, _, err := NewServer(Scram, Channel{TLS: state, Plus: true}, c).Next([]byte("y,,n=ann,r=abc"))
	require.ErrorAs(t, err, new(*Refusal))
	for _, flag := range []string{"y", "n"} {
		_, _, err = NewServer(Scram, Channel{TLS: state}, c).Next([]byte(flag + ",,n=ann,r=abc"))
		require.NoError(t, err, "-PLUS is not announced: %s", flag)
	}
	require.NoError(t,
		talk(t, NewScramClient("ann", "secret", state), NewServer(ScramPlus, Channel{TLS: state, Plus: true}, c)))
	other := *state
	other.TLSUnique = []byte("ba9876543210")
	require.Error(t, talk(t, NewScramClient("ann", "secret", &other),
		NewServer(ScramPlus, Channel{TLS: state, Plus: true}, c)), "another channel")
	require.ErrorIs(t,
		talk(t, NewScramClient("ann", "secret", state), NewServer(Scram, Channel{TLS: state, Plus: true}, c)), ErrMalformed)
}

// TestClientTrustsNobody: what a server may say that does not know the password.
func TestClientTrustsNobody(t *testing.T) {
	for _, first := range []string{
		"", "r=x,s=AAAA,i=4096", "r=NONCE,s=AAAA,i=4096", "r=NONCEx,s=AAAA,i=1", "r=NONCEx,s=AAAA,i=99999999999",
		"r=NONCEx,s=AAAA,i=10000001", "m=x,r=NONCEx,s=AAAA,i=4096",
	} {
		c := NewScramClient("ann", "secret", nil)
		_, sent, err := c.Start()
		require.NoError(t, err)
		_, nonce, _ := strings.Cut(string(sent), ",r=")
		_, err = c.Next([]byte(strings.Replace(first, "NONCE", nonce, 1)))
		require.Error(t, err, first)
	}
	c := NewScramClient("ann", "secret", nil)
	_, sent, err := c.Start()
	require.NoError(t, err)
	_, nonce, _ := strings.Cut(string(sent), ",r=")
	_, err = c.Next([]byte("r=" + nonce + "x,s=AAAA,i=4096"))
	require.NoError(t, err)
	_, err = c.Next([]byte("v=AAAA"))
	require.Error(t, err)
}

func TestDecoysAreStable(t *testing.T) {
	require.Equal(t, DummyKeys([]byte("a"), "eve", 4096), DummyKeys([]byte("a"), "eve", 4096))
	require.NotEqual(t, DummyKeys([]byte("a"), "eve", 4096).Salt, DummyKeys([]byte("a"), "bob", 4096).Salt)
	require.NotEqual(t, DummyKeys([]byte("a"), "eve", 4096).Salt, DummyKeys([]byte("b"), "eve", 4096).Salt)
}

func FuzzScram(f *testing.F) {
	f.Add("n,,n=ann,r=abc", "c=biws,r=abc,p=AAAA")
	f.Fuzz(func(t *testing.T, first, final string) {
		c := Checks{
			Keys:   func(string) (*Keys, error) { return DummyKeys([]byte("x"), "y", 4096), nil },
			Nobody: func(string) *Keys { return nil },
		}
		s := NewServer(Scram, Channel{}, c)
		if _, _, err := s.Next([]byte(first)); err == nil {
			_, done, err := s.Next([]byte(final))
			require.False(t, done)
			require.Error(t, err)
		}
	})
}

// TestBearer: as RFC 7628 §4.1 and Google's page write it, and nothing that would end a field early.
func TestBearer(t *testing.T) {
	m, first, err := NewBearerClient("a,b=c@example.com", "vF9dft4qmT").Start()
	require.NoError(t, err)
	require.Equal(t, Bearer, m)
	require.Equal(t, "n,a=a=2Cb=3Dc@example.com,\x01auth=Bearer vF9dft4qmT\x01\x01", string(first))
	c := NewXOAuth2Client("someuser@example.com", "ya29.vF9dft4qmT")
	m, first, err = c.Start()
	require.NoError(t, err)
	require.Equal(t, XOAuth2, m)
	require.Equal(t, "user=someuser@example.com\x01auth=Bearer ya29.vF9dft4qmT\x01\x01", string(first))
	end, err := c.Next([]byte(`{"status":"401"}`))
	require.NoError(t, err)
	require.Empty(t, end)
	end, err = NewBearerClient("u", "t").Next([]byte(`{"status":"invalid_token"}`))
	require.NoError(t, err)
	require.Equal(t, "\x01", string(end))
	_, _, err = NewXOAuth2Client("u\x01auth=Bearer x", "t").Start()
	require.Error(t, err)
}
