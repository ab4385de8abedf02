package tlsreport

import (
	"compress/gzip"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica/replicatest"
	"relay/queue/remote/tlsrpt"
	"relay/queue/remote/webguard"
)

// world is a cluster, with DNS and mail around it.
type world struct {
	*replicatest.Fake
	t     *testing.T
	now   time.Time
	txt   map[string]string
	dns   error
	mails []string // "to: message"
	web   *webguard.Client
	down  error // of Submit
}

func (w *world) Now() time.Time { return w.now }

func newWorld(t *testing.T) *world {
	w := &world{Fake: replicatest.New(t), t: t, txt: map[string]string{}}
	w.at(time.Date(2026, 11, 30, 20, 0, 0, 0, time.UTC))
	w.Must(spool.KindPutCluster, &pb.PutCluster{Cluster: &pb.Cluster{Id: "c", Version: 1}})
	w.Must(spool.KindRaise, &pb.Raise{From: 1, To: 2})
	return w
}

func (w *world) at(now time.Time) {
	w.now = now
	w.Clock = now
}

func (w *world) reporter(node string) *Reporter {
	return New(Config{Replica: w, Node: node, Hostname: "mx1.relay.example", Leads: func() bool { return true },
		TXT: func(_ context.Context, name string) ([]string, error) {
			if text, ok := w.txt[name]; ok && w.dns == nil {
				return []string{text}, nil
			}
			return nil, w.dns
		},
		Web: func() *webguard.Client { return w.web },
		Submit: func(_ context.Context, to string, message []byte) error {
			if w.down == nil {
				w.mails = append(w.mails, to+": "+string(message))
			}
			return w.down
		}, Log: zap.NewNop()})
}

func (w *world) kept() (n int) {
	require.NoError(w.t, w.View(func(v spool.View) error { return v.TLS(func(*pb.Tls) { n++ }) }))
	return n
}

func session(domain, failure string) *tlsrpt.Session {
	return &tlsrpt.Session{Domain: domain, Kind: tlsrpt.STS, Strings: []string{"mode: enforce"}, Failure: failure}
}

// TestOneReportForTheCluster: what all nodes have counted, one that was restarted too, makes one report, once.
func TestOneReportForTheCluster(t *testing.T) {
	w := newWorld(t)
	var body []byte
	s := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		in, err := gzip.NewReader(r.Body)
		if err == nil {
			err = json.NewDecoder(in).Decode((*json.RawMessage)(&body))
		}
		if err != nil || r.Header.Get("Content-Type") != "application/tlsrpt+gzip" {
			rw.WriteHeader(http.StatusBadRequest)
		}
	}))
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	w.web = webguard.New(webguard.Options{Roots: roots, Loopback: true,
		Resolve: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		}})
	_, port, _ := strings.Cut(s.Listener.Addr().String(), ":")
	w.txt["_smtp._tls.x.example"] = "v=TLSRPTv1; rua=mailto:tls@x.example,https://example.com:" + port + "/r"

	one, two := w.reporter("n1"), w.reporter("n2")
	for range 3 {
		one.Tally(session("x.example", ""))
	}
	one.flush(t.Context())
	one.Tally(session("x.example", tlsrpt.Expired))
	two.Tally(session("x.example", tlsrpt.Expired))
	two.Tally(session("none.example", ""))
	one.flush(t.Context())
	two.flush(t.Context())
	again := w.reporter("n1")
	again.Tally(session("x.example", ""))
	again.flush(t.Context())
	require.Equal(t, 4, w.kept())

	w.at(w.now.Add(5 * time.Hour)) // an hour after midnight
	two.Tally(session("x.example", ""))
	two.flush(t.Context())
	one.send(t.Context())
	require.Empty(t, w.mails, "counts may be on their way")
	w.at(w.now.Add(2 * time.Hour))
	one.send(t.Context())
	two.send(t.Context())
	require.Len(t, w.mails, 1)
	require.True(t, strings.HasPrefix(w.mails[0], "tls@x.example: From: <postmaster@mx1.relay.example>"))
	require.Contains(t, w.mails[0], "20261130.x.example")
	require.Contains(t, string(body), `"total-successful-session-count":4,"total-failure-session-count":2`)
	require.Equal(t, 1, w.kept(), "the new day's")
	require.Len(t, two.counts, 1, "the former day is forgotten")
}

// TestReportsThatCanNotBeSent are tried each hour, and given up after two days.
func TestReportsThatCanNotBeSent(t *testing.T) {
	for name, fail := range map[string]func(*world){
		"no DNS":     func(w *world) { w.dns = errors.New("no answer") },
		"no mail":    func(w *world) { w.down = errors.New("no quorum") },
		"no address": func(w *world) { w.txt["_smtp._tls.x.example"] = "v=TLSRPTv1; rua=mailto:nobody" },
	} {
		w := newWorld(t)
		w.txt["_smtp._tls.x.example"] = "v=TLSRPTv1; rua=mailto:tls@x.example"
		fail(w)
		r := w.reporter("n1")
		r.Tally(session("x.example", ""))
		r.flush(t.Context())
		w.at(w.now.Add(24 * time.Hour))
		r.send(t.Context())
		require.Equal(t, 1, w.kept(), name)
		w.at(w.now.Add(3 * 24 * time.Hour))
		r.send(t.Context())
		require.Zero(t, w.kept(), name)
		require.Empty(t, w.mails)
	}
}

// TestCountsAreBounded: in domains, in octets of a command, and in octets of a domain.
func TestCountsAreBounded(t *testing.T) {
	w := newWorld(t)
	r := w.reporter("n1")
	for i := range maxDomains + 10 {
		r.Tally(session(fmt.Sprintf("d%d.example", i), ""))
	}
	for i := range 200 {
		s := session("d1.example", tlsrpt.Invalid)
		s.Host, s.Reason = fmt.Sprint(i), strings.Repeat("r", 300)
		r.Tally(s)
	}
	r.flush(t.Context())
	require.Equal(t, maxDomains, w.kept())
	frames := len(w.Frames)
	r.flush(t.Context())
	require.Len(t, w.Frames, frames, "nothing is new")
	require.NoError(t, w.View(func(v spool.View) error {
		return v.TLS(func(c *pb.Tls) {
			if c.Domain == "d1.example" {
				require.Contains(t, string(c.Counts), `"total-failure-session-count":200`)
			}
		})
	}))
}
