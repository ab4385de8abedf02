package pop3_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"relay/pop3"
	"relay/pop3/pop3test"
	"relay/smtp/wiretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The mail that every transcript finds in alice's maildrop: 24, 38 and 42
// octets.
var mail = []string{
	"Subject: one\r\n\r\nHello.\r\n",
	"Subject: two\r\n\r\n.\r\n..\r\n.leading\r\nend\r\n",
	"Subject: three\r\n\r\nline 1\r\nline 2\r\nline 3\r\n",
}

func newStore() *pop3test.Store {
	s := pop3test.NewStore("example.test")
	s.AddUser("alice", "secret")
	s.AddUser("bob", "two words ")
	s.AddUser("日本", "語")
	for _, m := range mail {
		s.Deliver("alice", m)
	}
	return s
}

// serverTLS makes a self-signed certificate.
func serverTLS(t testing.TB) *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"mx.example.test"},
		NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

type serving struct {
	*pop3.Server
	addr string
	stop context.CancelFunc
	done chan error
}

// serve runs a server on loopback until the test ends.
func serve(t testing.TB, cfg pop3.ServerConfig, pop2 bool) *serving {
	t.Helper()
	srv, err := pop3.NewServer(cfg)
	require.NoError(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	s := &serving{Server: srv, addr: ln.Addr().String(), stop: stop, done: make(chan error, 1)}
	go func() {
		if pop2 {
			s.done <- srv.ServePOP2(ctx, ln)
		} else {
			s.done <- srv.Serve(ctx, ln)
		}
	}()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-s.done:
			s.done <- err
			require.NoError(t, err)
		case <-time.After(time.Minute):
			t.Error("the server does not stop")
		}
	})
	return s
}

func (s *serving) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", s.addr)
}

func everybody(netip.Addr) bool { return true }

// options of transcripts, by the name after "=== set".
var options = map[string]func(t *testing.T, cfg *pop3.ServerConfig, store *pop3test.Store, value string){
	"stranger": func(_ *testing.T, cfg *pop3.ServerConfig, _ *pop3test.Store, _ string) { cfg.Trusted = nil },
	"tls":      func(t *testing.T, cfg *pop3.ServerConfig, _ *pop3test.Store, _ string) { cfg.TLS = serverTLS(t) },
	"with": func(t *testing.T, cfg *pop3.ServerConfig, _ *pop3test.Store, v string) {
		cfg.With = extensions(t, v)
	},
	"without": func(t *testing.T, cfg *pop3.ServerConfig, _ *pop3test.Store, v string) {
		cfg.Without = extensions(t, v)
	},
	"implementation": func(_ *testing.T, cfg *pop3.ServerConfig, _ *pop3test.Store, v string) { cfg.Implementation = v },
	"logindelay": func(t *testing.T, cfg *pop3.ServerConfig, _ *pop3test.Store, v string) {
		d, err := time.ParseDuration(v)
		require.NoError(t, err)
		cfg.LoginDelay = d
	},
	"autologout": func(t *testing.T, cfg *pop3.ServerConfig, _ *pop3test.Store, v string) {
		d, err := time.ParseDuration(v)
		require.NoError(t, err)
		cfg.AutoLogout = d
	},
	"expire": func(t *testing.T, cfg *pop3.ServerConfig, store *pop3test.Store, v string) {
		cfg.Retention = pop3.Retention{Announce: true, Never: true, PerUser: true}
		if v == "never" {
			cfg.Retention.PerUser = false
			store.SetRetention("alice", cfg.Retention)
			return
		}
		n, err := strconv.Atoi(v)
		require.NoError(t, err)
		store.SetRetention("alice", pop3.Retention{Announce: true, Days: n})
	},
	"readonly": func(_ *testing.T, _ *pop3.ServerConfig, store *pop3test.Store, v string) { store.SetReadOnly(v) },
	"limit": func(t *testing.T, cfg *pop3.ServerConfig, _ *pop3test.Store, v string) {
		name, count, _ := strings.Cut(v, " ")
		n, err := strconv.Atoi(count)
		require.NoError(t, err)
		switch name {
		case "connections":
			cfg.Limits.Connections = n
		case "host":
			cfg.Limits.PerHost = n
		case "sleeping":
			cfg.Limits.SleepingPerUser = n
		case "errors":
			cfg.Limits.Errors = n
		case "logins":
			cfg.Limits.Logins = n
		default:
			t.Fatalf("no limit %q", name)
		}
	},
	"policies": func(t *testing.T, cfg *pop3.ServerConfig, _ *pop3test.Store, v string) {
		days, delay, _ := strings.Cut(v, " ")
		n, err := strconv.Atoi(days)
		require.NoError(t, err)
		d, err := time.ParseDuration(delay)
		require.NoError(t, err)
		cfg.Policies = func() (pop3.Retention, time.Duration) {
			return pop3.Retention{Announce: true, Days: n, PerUser: true}, d
		}
	},
	"exempt": func(_ *testing.T, cfg *pop3.ServerConfig, _ *pop3test.Store, _ string) { cfg.Limits.Exempt = everybody },
	"pop2":   func(*testing.T, *pop3.ServerConfig, *pop3test.Store, string) {},
}

func extensions(t *testing.T, names string) (set pop3.Extension) {
	for _, n := range strings.Fields(names) {
		e, ok := pop3.ParseExtension(n)
		require.True(t, ok, n)
		set |= e
	}
	return set
}

// calls are what transcripts can do to the store.
func calls(store *pop3test.Store, s *serving) map[string]func(string) error {
	failures := map[string]error{
		"broken": pop3test.ErrBroken, "permanent": fmt.Errorf("wrapped: %w", pop3.ErrPermanent),
		"throttled": pop3.ErrThrottled, "leaving": pop3.ErrLeaving, "delay": pop3.ErrLoginDelay, "mend": nil,
		"inuse": &pop3.InUseError{}, "auth": pop3.ErrAuth, "readonly": pop3.ErrReadOnly, "unknown": pop3.ErrNoMessage,
		"uncertain": fmt.Errorf("wrapped: %w", pop3.ErrUncertain),
	}
	return map[string]func(string) error{
		"deliver": func(user string) error { store.Deliver(user, "Subject: new\r\n\r\nnews\r\n"); return nil },
		"remove": func(args string) error {
			user, uid, _ := strings.Cut(args, " ")
			store.Remove(user, uid)
			return nil
		},
		"lose":    func(user string) error { store.Lose(user, "node n1 left\r\nthe cluster"); return nil },
		"unlock":  func(user string) error { store.Lose(user, pop3.LostToOperator); return nil },
		"disable": func(user string) error { store.Disable(user); return nil },
		"passwd":  func(user string) error { store.SetSecret(user, "changed"); return nil },
		"fail": func(args string) error {
			f := strings.Fields(args)
			store.Fail(f[0], f[1], failures[f[2]])
			return nil
		},
		"uids": func(args string) error {
			user, want, _ := strings.Cut(args, " ")
			if got := strings.Join(store.UIDs(user), " "); got != want {
				return fmt.Errorf("%s has %q", user, got)
			}
			return nil
		},
		"free": func(user string) error {
			for end := time.Now().Add(5 * time.Second); store.Held(user); {
				if time.Now().After(end) {
					return fmt.Errorf("%s's maildrop is held", user)
				}
			}
			return nil
		},
		"awake": func(count string) error {
			n, err := strconv.ParseInt(count, 10, 64)
			for end := time.Now().Add(5 * time.Second); err == nil && s.Stats().Sleeping.Load() != n; {
				if time.Now().After(end) {
					return fmt.Errorf("%d sessions sleep", s.Stats().Sleeping.Load())
				}
			}
			return err
		},
		"held": func(user string) error {
			if !store.Held(user) {
				return fmt.Errorf("%s's maildrop is free", user)
			}
			return nil
		},
	}
}

func TestTranscripts(t *testing.T) {
	wiretest.Run(t, "testdata/*.txt", func(t *testing.T, s *wiretest.Script) *wiretest.Player {
		store := newStore()
		cfg := pop3.ServerConfig{Hostname: "mx.example.test", Backend: store, Trusted: everybody}
		for name, value := range s.Options {
			set, ok := options[name]
			require.True(t, ok, name)
			set(t, &cfg, store, value)
		}
		_, pop2 := s.Options["pop2"]
		serving := serve(t, cfg, pop2)
		return &wiretest.Player{Dial: serving.dial, Calls: calls(store, serving)}
	})
}
