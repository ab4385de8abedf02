package records

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/directory"
)

// EHLO keywords stand beside a route from cluster version 2 on; before that the
// operator is told what to do.
func TestRouteWithoutKeywords(t *testing.T) {
	w := newWorld(t)
	cluster := &pb.Cluster{Id: "c", Version: 1}
	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: cluster})
	hub := admin.Route{
		Domain: "hub.example", Target: "smtp:hub:25", NoEHLO: []string{"pipelining", " Chunking", "PIPELINING"},
	}
	err := w.SetRoute(t.Context(), theBy, hub)
	require.ErrorContains(t, err, "cluster version 2")
	require.NoError(t,
		w.SetRoute(t.Context(), theBy, admin.Route{Domain: "plain.example", Target: "smtp:hub:25"}))

	w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	require.NoError(t, w.SetRoute(t.Context(), theBy, hub))
	require.NoError(t,
		w.SetRoute(t.Context(), theBy, admin.Route{Domain: "mx.example", Target: "mx", NoEHLO: []string{"DSN"}}))
	for _, bad := range []string{"", "PIPE LINING", "-X", "ä", strings.Repeat("X", 65)} {
		require.ErrorContains(t,
			w.SetRoute(t.Context(), theBy, admin.Route{Domain: "bad.example", Target: "mx", NoEHLO: []string{bad}}),
			"not an EHLO keyword")
	}
	routes, err := w.Routes(t.Context())
	require.NoError(t, err)
	require.Equal(t, []admin.Route{{Domain: "hub.example", Target: "smtp:hub:25",
		NoEHLO: []string{"CHUNKING", "PIPELINING"}},
		{Domain: "mx.example", Target: "mx", NoEHLO: []string{"DSN"}},
		{Domain: "plain.example", Target: "smtp:hub:25"}}, routes)
}

// TestTLSOfRoutes: what goes together is kept as programs print it, the rest is refused
// with the next step.
func TestTLSOfRoutes(t *testing.T) {
	w := newWorld(t)
	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	hub := admin.Route{Domain: "hub.example", Target: "smtp:hub.example", RouteTLS: admin.RouteTLS{TLS: "encrypt"}}
	require.ErrorContains(t, w.SetRoute(t.Context(), theBy, hub), "--tls needs cluster version 2")
	w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})

	const pin = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	colons := strings.ToUpper(pin[:2] + ":" + pin[2:4] + ":" + pin[4:])
	ca := certificatePEM(t)
	for name, c := range map[string]struct {
		target string
		in     admin.RouteTLS
		want   string // the target that is kept; "! …": it is refused so
		kept   admin.RouteTLS
	}{
		"policy":   {"mx", admin.RouteTLS{TLS: " Verify "}, "mx", admin.RouteTLS{TLS: "verify"}},
		"CA":       {"mx", admin.RouteTLS{TLSCA: "words\n" + ca}, "mx", admin.RouteTLS{TLS: "verify", TLSCA: ca}},
		"465":      {"smtp:h", admin.RouteTLS{ImplicitTLS: true}, "smtp:h:465", admin.RouteTLS{ImplicitTLS: true}},
		"its port": {"smtp:h:25", admin.RouteTLS{ImplicitTLS: true}, "smtp:h:25", admin.RouteTLS{ImplicitTLS: true}},
		"pin alone": {"smtp:h", admin.RouteTLS{Fingerprints: []string{colons}}, "smtp:h",
			admin.RouteTLS{TLS: "fingerprint", Fingerprints: []string{pin}}},
		"no policy":   {"mx", admin.RouteTLS{TLS: "strict"}, "! none of none, opportunistic", admin.RouteTLS{}},
		"dane":        {"mx", admin.RouteTLS{TLS: "dane"}, "! none of none, opportunistic", admin.RouteTLS{}},
		"no pin":      {"mx", admin.RouteTLS{TLS: "fingerprint"}, "! needs --fingerprint", admin.RouteTLS{}},
		"pin, verify": {"mx", admin.RouteTLS{TLS: "verify", Fingerprints: []string{pin}}, "! goes with", admin.RouteTLS{}},
		"SHA-1": {"mx", admin.RouteTLS{Fingerprints: []string{pin[:40]}}, "! 64 hexadecimal digits",
			admin.RouteTLS{}},
		"CA, encrypt":  {"mx", admin.RouteTLS{TLS: "encrypt", TLSCA: ca}, "! goes with --tls verify", admin.RouteTLS{}},
		"no CA":        {"mx", admin.RouteTLS{TLSCA: "words"}, "! no certificate in PEM", admin.RouteTLS{}},
		"a key":        {"mx", admin.RouteTLS{TLSCA: aKey}, "! certificates only", admin.RouteTLS{}},
		"mx, implicit": {"mx", admin.RouteTLS{ImplicitTLS: true}, "! name the host", admin.RouteTLS{}},
		"discard":      {"discard", admin.RouteTLS{TLS: "verify"}, "! are for mx, smtp: and lmtp:", admin.RouteTLS{}},
		"none, implicit": {"smtp:h", admin.RouteTLS{TLS: "none", ImplicitTLS: true}, "! exclude each other",
			admin.RouteTLS{}},
	} {
		t.Run(name, func(t *testing.T) {
			err := w.SetRoute(t.Context(), theBy, admin.Route{Domain: "r.example", Target: c.target, RouteTLS: c.in})
			if why, refused := strings.CutPrefix(c.want, "! "); refused {
				require.ErrorContains(t, err, why)
				return
			}
			require.NoError(t, err)
			all, err := w.Routes(t.Context())
			require.NoError(t, err)
			require.Equal(t, []admin.Route{{Domain: "r.example", Target: c.want, RouteTLS: c.kept}}, all)
		})
	}
}

// TestLoginOfRoutes: the password is sealed for one account of one target, and no answer, audit line or command has it.
func TestLoginOfRoutes(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	hub := admin.Route{Domain: "hub.example", Target: "smtp:hub.example:587",
		RouteLogin: admin.RouteLogin{User: "relay", Password: "pass word"}}
	require.ErrorContains(t, w.SetRoute(ctx, theBy, hub), "--user needs cluster version 2")
	w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	require.NoError(t, w.SetRoute(ctx, theBy, hub))
	read := func() *pb.Route {
		t.Helper()
		var all []*pb.Route
		require.NoError(t, w.rep.View(func(v spool.View) (err error) { all, err = v.Routes(); return err }))
		require.Len(t, all, 1)
		return all[0]
	}
	first := read()
	secret, err := w.rep.Unseal(ctx, first.Password, directory.RouteSecret(first))
	require.NoError(t, err)
	require.Equal(t, "pass word", string(secret))
	routes, err := w.Routes(ctx)
	require.NoError(t, err)
	require.Equal(t, []admin.Route{{Domain: "hub.example", Target: "smtp:hub.example:587",
		RouteTLS: admin.RouteTLS{TLS: "verify"}, RouteLogin: admin.RouteLogin{User: "relay", PasswordSet: true}}}, routes)

	hub.Password, hub.TLS = "", "encrypt"
	require.NoError(t, w.SetRoute(ctx, theBy, hub), "the password stays")
	require.Equal(t, first.Password, read().Password)
	require.Equal(t, "encrypt", read().Tls)
	hub.Target = "smtp:other.example:587"
	require.ErrorContains(t, w.SetRoute(ctx, theBy, hub), "--password-stdin", "it goes to no other host")
	hub.Target, hub.User = "smtp:hub.example:587", "somebody"
	require.ErrorContains(t, w.SetRoute(ctx, theBy, hub), "--password-stdin")
	hub.User, hub.Password = "relay", "other"
	require.NoError(t, w.SetRoute(ctx, theBy, hub))
	require.NotEqual(t, first.Password, read().Password)
	for _, f := range w.rep.Frames {
		require.NotContains(t, string(f), "pass word")
	}
	lines := auditOf(t, w)
	require.Contains(t, lines, `user "relay", password set`)
	require.Contains(t, lines, "password changed")
	require.NotContains(t, lines, "sealed")
}

// TestLoginsThatAreRefused: what would send the password in clear unasked, or to nobody knows whom, is no route.
func TestLoginsThatAreRefused(t *testing.T) {
	w := newWorld(t)
	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	for name, c := range map[string]struct {
		target, tls string
		login       admin.RouteLogin
		want        string // "! …": it is refused so; else the policy that is kept
	}{
		"mx":            {"mx", "", admin.RouteLogin{User: "u", Password: "p"}, "! smtp:HOST:587"},
		"discard":       {"discard", "", admin.RouteLogin{User: "u", Password: "p"}, "! smtp:HOST:587"},
		"no password":   {"smtp:h", "", admin.RouteLogin{User: "u"}, "! --password-stdin"},
		"no user":       {"smtp:h", "", admin.RouteLogin{Password: "p"}, "! --user"},
		"opportunistic": {"smtp:h", "opportunistic", admin.RouteLogin{User: "u", Password: "p"}, "! could go in clear"},
		"line end":      {"smtp:h", "", admin.RouteLogin{User: "u", Password: "p\nq"}, "! line end"},
		"clear":         {"smtp:h", "none", admin.RouteLogin{User: "u", Password: "p"}, "none"},
		"loopback":      {"smtp:127.0.0.1", "", admin.RouteLogin{User: "u", Password: "p"}, ""},
		"lmtp":          {"lmtp:h:24", "", admin.RouteLogin{User: "u", Password: "p"}, "verify"},
	} {
		t.Run(name, func(t *testing.T) {
			err := w.SetRoute(t.Context(), theBy, admin.Route{Domain: "r.example", Target: c.target,
				RouteTLS: admin.RouteTLS{TLS: c.tls}, RouteLogin: c.login})
			if why, refused := strings.CutPrefix(c.want, "! "); refused {
				require.ErrorIs(t, err, admin.ErrInvalid)
				require.ErrorContains(t, err, why)
				return
			}
			require.NoError(t, err)
			all, err := w.Routes(t.Context())
			require.NoError(t, err)
			require.Equal(t, c.want, all[0].TLS)
			require.NoError(t, w.RemoveRoute(t.Context(), theBy, "r.example"))
		})
	}
}

// auditOf returns all lines of the audit log.
func auditOf(t *testing.T, w *world) string {
	t.Helper()
	var all strings.Builder
	require.NoError(t, w.rep.View(func(v spool.View) error {
		return v.Audits(0, func(a *pb.Audit) bool {
			all.WriteString(a.What + " " + a.Who + "\n")
			return true
		})
	}))
	return all.String()
}

// aKey is the form of a private key, which has no place in the replicated state.
const aKey = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"

func certificatePEM(t *testing.T) string {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	x := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"hub.example"}}
	der, err := x509.CreateCertificate(rand.Reader, x, x, pub, key)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
