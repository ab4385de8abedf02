package records

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
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
		"dane":        {"mx", admin.RouteTLS{TLS: "DANE"}, "mx", admin.RouteTLS{TLS: "dane"}},
		"dane, CA":    {"mx", admin.RouteTLS{TLS: "dane", TLSCA: ca}, "! goes with --tls verify", admin.RouteTLS{}},
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
			require.NoError(t, w.RemoveRoute(t.Context(), theBy, "r.example", admin.RouteSenders{}))
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

// TestHopsOfRoutes: targets, weights, fallback and source addresses that go together are kept, and read back.
func TestHopsOfRoutes(t *testing.T) {
	w := newWorld(t)
	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	two := admin.RouteHops{More: []string{"smtp:b"}, Weights: []uint32{3, 1}, Fallback: "smtp:c:26",
		Sources: []string{"192.0.2.1", "2001:db8::1"}}
	require.ErrorContains(t, w.SetRoute(t.Context(), theBy, admin.Route{Domain: "r.example", Target: "smtp:a",
		RouteHops: two}), "several targets needs cluster version 2")
	w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	many := []string{}
	for n := range 16 {
		many = append(many, fmt.Sprintf("smtp:h%d", n))
	}
	for name, c := range map[string]struct {
		target string
		in     admin.RouteHops
		want   string // "! …": it is refused so
	}{
		"all":           {"smtp:a", two, ""},
		"mx":            {"mx", admin.RouteHops{Fallback: "smtp:c"}, ""},
		"lmtp":          {"lmtp:a:24", admin.RouteHops{More: []string{"lmtp:b:24"}}, ""},
		"kinds":         {"smtp:a", admin.RouteHops{More: []string{"lmtp:b:24"}}, "! all smtp: or all lmtp:"},
		"more than mx":  {"mx", admin.RouteHops{More: []string{"smtp:b"}}, "! all smtp: or all lmtp:"},
		"twice":         {"smtp:a", admin.RouteHops{More: []string{"smtp:a"}}, "! more weight"},
		"many":          {"smtp:a", admin.RouteHops{More: many}, "! at most 16"},
		"weights":       {"smtp:a", admin.RouteHops{Weights: []uint32{3, 1}}, "! 2 numbers, and there are 1 targets"},
		"weight of one": {"smtp:a", admin.RouteHops{Weights: []uint32{3}}, "! 1 numbers"},
		"no weight":     {"smtp:a", admin.RouteHops{More: []string{"smtp:b"}, Weights: []uint32{1, 0}}, "! from 1 to"},
		"itself":        {"smtp:a", admin.RouteHops{Fallback: "smtp:a"}, "! the target itself"},
		"fallback mx":   {"smtp:a", admin.RouteHops{Fallback: "mx"}, "! --fallback is a host"},
		"of discard":    {"discard", admin.RouteHops{Fallback: "smtp:a"}, "! for mx and smtp:"},
		"source":        {"smtp:a", admin.RouteHops{Sources: []string{"mail.example"}}, "! address to connect from"},
		"any source":    {"smtp:a", admin.RouteHops{Sources: []string{"0.0.0.0"}}, "! address to connect from"},
		"discard":       {"discard", admin.RouteHops{Sources: []string{"192.0.2.1"}}, "! --source is for"},
	} {
		t.Run(name, func(t *testing.T) {
			r := admin.Route{Domain: "r.example", Target: c.target, RouteHops: c.in}
			err := w.SetRoute(t.Context(), theBy, r)
			if why, refused := strings.CutPrefix(c.want, "! "); refused {
				require.ErrorContains(t, err, why)
				return
			}
			require.NoError(t, err)
			all, err := w.Routes(t.Context())
			require.NoError(t, err)
			require.Equal(t, []admin.Route{r}, all)
		})
	}
	hub := admin.Route{Domain: "i.example", Target: "smtp:a", RouteTLS: admin.RouteTLS{ImplicitTLS: true},
		RouteHops: admin.RouteHops{More: []string{"smtp:b"}}}
	require.NoError(t, w.SetRoute(t.Context(), theBy, hub))
	all, err := w.Routes(t.Context())
	require.NoError(t, err)
	require.Equal(t, "smtp:a:465", all[0].Target)
	require.Equal(t, []string{"smtp:b:465"}, all[0].More)
}

// TestCertificatesOfRoutes: the key is sealed for one certificate and its targets, and no answer, command or audit line
// has it.
func TestCertificatesOfRoutes(t *testing.T) {
	w := newWorld(t)
	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	cert, key := certificateAndKey(t)
	r := admin.Route{Domain: "hub.example", Target: "smtp:hub", RouteCert: admin.RouteCert{ClientCert: cert}}
	set := func() error { return w.SetRoute(t.Context(), theBy, r) }
	require.ErrorContains(t, set(), "--client-key")
	other, _ := certificateAndKey(t)
	r.ClientCert, r.ClientKey = other, key
	require.ErrorContains(t, set(), "do not fit")
	r.ClientCert, r.TLS = cert, "opportunistic"
	require.ErrorContains(t, set(), "needs TLS")
	r.TLS = ""
	require.NoError(t, set())
	var kept []*pb.Route
	read := func() *pb.Route {
		require.NoError(t, w.rep.View(func(v spool.View) (err error) { kept, err = v.Routes(); return err }))
		return kept[0]
	}
	secret, err := w.rep.Unseal(t.Context(), read().ClientKey, directory.RouteKeySecret(read()))
	require.NoError(t, err)
	require.Equal(t, key, string(secret))
	all, err := w.Routes(t.Context())
	require.NoError(t, err)
	require.Equal(t, admin.RouteCert{ClientCert: cert, ClientKeySet: true}, all[0].RouteCert)
	require.Equal(t, "verify", all[0].TLS)

	before := read().ClientKey
	r.ClientKey, r.TLS = "", "encrypt"
	require.NoError(t, set(), "the key stays")
	require.Equal(t, before, read().ClientKey)
	r.More = []string{"smtp:elsewhere"}
	require.ErrorContains(t, set(), "--client-key", "it is shown to no other host")
	r.More, r.ClientCert, r.ClientKey = nil, "", key
	require.ErrorContains(t, set(), "--client-cert")
	for _, f := range w.rep.Frames {
		require.NotContains(t, string(f), "PRIVATE KEY")
	}
	require.NotContains(t, auditOf(t, w), "sealed")
}

func certificateAndKey(t *testing.T) (cert, key string) {
	t.Helper()
	pub, k, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	x := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"relay.example"}}
	der, err := x509.CreateCertificate(rand.Reader, x, x, pub, k)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// TestResealOfRoutes: each secret is the same under another seal.
func TestResealOfRoutes(t *testing.T) {
	w := newWorld(t)
	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	require.NoError(t, w.Reseal(t.Context(), theBy), "nothing is sealed")
	cert, key := certificateAndKey(t)
	require.NoError(t, w.SetRoute(t.Context(), theBy, admin.Route{Domain: "hub.example", Target: "smtp:hub",
		RouteLogin: admin.RouteLogin{User: "u", Password: "p"},
		RouteCert:  admin.RouteCert{ClientCert: cert, ClientKey: key}}))
	read := func() *pb.Route {
		var all []*pb.Route
		require.NoError(t, w.rep.View(func(v spool.View) (err error) { all, err = v.Routes(); return err }))
		return all[0]
	}
	before := read()
	require.NoError(t, w.Reseal(t.Context(), theBy))
	after := read()
	require.NotEqual(t, before.Password, after.Password)
	require.NotEqual(t, before.ClientKey, after.ClientKey)
	secret, err := w.rep.Unseal(t.Context(), after.Password, directory.RouteSecret(after))
	require.NoError(t, err)
	require.Equal(t, "p", string(secret))
	secret, err = w.rep.Unseal(t.Context(), after.ClientKey, directory.RouteKeySecret(after))
	require.NoError(t, err)
	require.Equal(t, key, string(secret))
	require.Contains(t, auditOf(t, w), "sealed secrets renewed: 2")
	w.do(spool.KindPutRoute, &pb.PutRoute{Route: &pb.Route{Domain: "lost.example", Target: "smtp:hub", User: "u",
		Password: []byte("of nobody knows what")}})
	require.ErrorContains(t, w.Reseal(t.Context(), theBy), "route lost.example")
	require.NotEqual(t, after.Password, read().Password, "the others are done")
}

// TestCredentialsOfRoutes: a credential for tokens is checked before it is sealed, and stays one.
func TestCredentialsOfRoutes(t *testing.T) {
	w := newWorld(t)
	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	r := admin.Route{Domain: "hub.example", Target: "smtp:hub:587", RouteLogin: admin.RouteLogin{OAuth: true}}
	set := func() error { return w.SetRoute(t.Context(), theBy, r) }
	require.ErrorContains(t, set(), "--user")
	r.User = "me@hub.example"
	require.ErrorContains(t, set(), "--password-stdin", "there is none yet")
	r.Password = "{\n}"
	require.ErrorContains(t, set(), "--oauth can't be used: token_url")
	r.Password = "{\n\"token_url\": \"https://login.example/token\", \"client_id\": \"a\", \"client_secret\": \"b\"}\n"
	require.NoError(t, set())
	all, err := w.Routes(t.Context())
	require.NoError(t, err)
	require.Equal(t, admin.RouteLogin{User: "me@hub.example", OAuth: true, PasswordSet: true}, all[0].RouteLogin)
	r.Password = ""
	require.NoError(t, set(), "it stays")
	r.OAuth = false
	require.Error(t, set(), "it is no password")
}

// TestCalloutOfRoutes: it is for a domain with a host to ask.
func TestCalloutOfRoutes(t *testing.T) {
	w := newWorld(t)
	w.do(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	set := func(domain, target string) error {
		return w.SetRoute(t.Context(), theBy,
			admin.Route{Domain: domain, Target: target, RouteHops: admin.RouteHops{Callout: true}})
	}
	require.ErrorContains(t, set("r.example", "lmtp:h:24"), "--callout needs cluster version 2")
	w.do(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	for _, c := range [][2]string{{"*", "smtp:h"}, {"r.example", "mx"}, {"r.example", "discard"}} {
		require.ErrorContains(t, set(c[0], c[1]), "--callout is for one domain")
	}
	require.NoError(t, set("r.example", "lmtp:h:24"))
	all, err := w.Routes(t.Context())
	require.NoError(t, err)
	require.True(t, all[0].Callout)
}
